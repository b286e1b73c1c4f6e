"""Before a trial starts, without torch: what would fail is refused, and its inputs are hashed for its id."""

import itertools
from collections.abc import Sequence

from afp_ray.config import SPLITS, Split, TrialConfig
from afp_ray.config.mistakes import Refusals
from afp_ray.config.training import LayerRange
from afp_ray.data import sources
from afp_ray.data.quality.best import read_scores, scores_digest
from afp_ray.errors import ConfigError, ModelError
from afp_ray.evaluation import run as evaluation
from afp_ray.languages import declare
from afp_ray.models.describe import describe
from afp_ray.trial.prepare import heldout_pairs, read_texts, retrieval_languages


def check_trial(config: TrialConfig, *, splits: Sequence[Split] = SPLITS) -> None:
    """Refuse, within about a second and without torch, what would fail once a GPU is granted.

    Raises: ModelError, DataError, TaskError or ConfigError, each saying where, what is allowed and how to mend it;
        SeveralConfigError of several of the last three.
    """
    declare(config.data.declared)
    description = describe(config.model)
    is_trained, refusals = config.training.max_steps > 0, Refusals()
    if is_trained:
        with refusals:
            _check_layer(config, description.num_layers)
        with refusals:
            _check_length(config, description.max_positions)
        with refusals:
            sources.check(config.data)
            if config.data.keep_best is not None and config.data.instruction_scores is not None:
                read_scores(config.data.instruction_scores)
    with refusals:
        evaluation.check_evaluation(
            config.evaluation, languages=config.evaluated_languages, pivot=config.data.pivot, splits=splits
        )
    with refusals:
        for language in retrieval_languages(config):
            heldout_pairs(config, language, "validation")
    refusals.refuse()
    _check_model(config)


def _check_layer(config: TrialConfig, num_layers: int) -> None:
    """Refuse a layer of the contrastive term, or blocks to train, that the model has not."""
    layer = config.loss.layer
    if config.loss.contrastive_weight > 0 and isinstance(layer, int) and layer > num_layers:
        raise ConfigError(
            f"loss.layer {layer} is beyond the model {config.model.name!r}",
            where="loss.layer",
            allowed=f"0 (the embedding output) to {num_layers}",
            fix=f"choose a layer up to {num_layers}",
        )
    trainable = config.training.trainable
    if isinstance(trainable, LayerRange):
        _check_trained_blocks(config, trainable, num_layers)


def _check_length(config: TrialConfig, limit: int | None) -> None:
    """Refuse samples longer than what the model has positions for."""
    if limit is not None and config.training.max_length > limit:
        raise ConfigError(
            f"training.max_length {config.training.max_length} is beyond the positions of {config.model.name!r}",
            where="training.max_length",
            allowed=f"2 to {limit}",
            fix=f"set training.max_length: {limit}",
        )


def _check_trained_blocks(config: TrialConfig, trainable: LayerRange, num_layers: int) -> None:
    """Refuse blocks that the model has not, and a contrastive term that reaches none of them."""
    first, last = trainable.layers
    if last > num_layers:
        raise ConfigError(
            f"training.trainable names block {last}, and {config.model.name!r} has {num_layers}",
            where="training.trainable",
            allowed=f"{{layers: [first, last]}} in 1 to {num_layers}",
            fix=f"set training.trainable: {{layers: [{min(first, num_layers)}, {num_layers}]}}",
        )
    if config.loss.contrastive_weight > 0 and config.loss.layer == "middle" and num_layers // 2 < first:
        raise ConfigError(
            f"below the middle layer {num_layers // 2} nothing is trained: training.trainable begins at {first}",
            where="loss.layer",
            allowed=f"{first} or above, all",
            fix=f"set loss.layer: {first}, or train lower blocks",
        )


def _check_model(config: TrialConfig) -> None:
    """Refuse a checkpoint that would not load, and texts with tokens that it has no embedding for."""
    from afp_ray.models.check import check_checkpoint

    outside = check_checkpoint(config.model)
    if not outside:
        return
    texts = evaluation.evaluation_texts(
        config.evaluation, languages=config.evaluated_languages, pivot=config.data.pivot
    )
    for text in itertools.chain(texts, read_texts(config) if config.training.max_steps > 0 else ()):
        token = next((token for token in outside if token in text), None)
        if token is not None:
            raise ModelError(
                f"a text uses the token {token!r}, which the model {config.model.name!r} has no embedding for: "
                f"{text[:80]!r}",
                where="model.name",
                fix="take it out of the data, or use a model that embeds it",
            )


def fingerprints(config: TrialConfig) -> dict[str, str]:
    """Content hashes of what the names and paths of `config` point to; they enter the trial id."""
    declare(config.data.declared)
    hashes = {
        "model": describe(config.model).fingerprint,
        "evaluation": evaluation.evaluation_fingerprint(
            config.evaluation, languages=config.evaluated_languages, pivot=config.data.pivot
        ),
    }
    if config.evaluation.representation is not None:
        hashes["heldout"] = sources.heldout_fingerprint(
            config.evaluation.representation.source, config.data.pivot, retrieval_languages(config)
        )
    # A model that is not trained scores the same whatever the training rows are.
    hashes["data"] = sources.fingerprint(config.data) if config.training.max_steps > 0 else ""
    if config.data.instruction_scores is not None:
        hashes["instruction_scores"] = scores_digest(config.data.instruction_scores)
    return hashes
