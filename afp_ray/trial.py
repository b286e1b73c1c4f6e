"""The one arrow, `TrialConfig -> TrialResult`: where data, model, training and evaluation meet."""

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afp_ray import __version__
from afp_ray.config import TrainingRuntime, TrialConfig
from afp_ray.data import sources
from afp_ray.data.quality.best import read_scores, scores_digest
from afp_ray.errors import ConfigError, ModelError
from afp_ray.evaluation import run as evaluation
from afp_ray.evaluation.score_cache import ScoreCache, is_caching_wanted
from afp_ray.models.describe import describe
from afp_ray.preparation import SPLITS, Split, heldout_pairs, retrieval_languages, tokenized_rows
from afp_ray.records import LayerMetrics, Score, TrainingSummary, TrialResult
from afp_ray.store import TrialPaths, write_json
from afp_ray.training.reporter import Reporter
from afp_ray.training.together import check_together

if TYPE_CHECKING:  # torch comes with these; checking a study must not wait for it
    from afp_ray.models.load import LoadedModel

logger = logging.getLogger(__name__)


def check_trial(config: TrialConfig) -> None:
    """Refuse, within about a second and without torch, what would fail once a GPU is granted.

    Raises: ModelError, DataError, TaskError or ConfigError, each with the place, the allowed set and the fix.
    """
    description = describe(config.model)
    if (
        config.loss.contrastive_weight > 0
        and config.training.max_steps > 0
        and isinstance(config.loss.layer, int)
        and config.loss.layer > description.num_layers
    ):
        raise ConfigError(
            f"loss.layer {config.loss.layer} is beyond the model {config.model.name!r}",
            where="loss.layer",
            allowed=f"0 (the embedding output) to {description.num_layers}",
            fix=f"choose a layer up to {description.num_layers}",
        )
    limit = description.max_positions
    if config.training.max_steps > 0 and limit is not None and config.training.max_length > limit:
        raise ConfigError(
            f"training.max_length {config.training.max_length} is beyond the positions of {config.model.name!r}",
            where="training.max_length",
            allowed=f"2 to {limit}",
            fix=f"set training.max_length: {limit}",
        )
    if config.training.max_steps > 0:
        sources.check(config.data)
        if config.data.keep_best is not None and config.data.instruction_scores is not None:
            read_scores(config.data.instruction_scores)
    evaluation.check_evaluation(config.evaluation, languages=config.evaluated_languages, pivot=config.data.pivot)
    for language in retrieval_languages(config):
        heldout_pairs(config, language, "validation")


def fingerprints(config: TrialConfig) -> dict[str, str]:
    """Content hashes of what the names and paths of `config` point to; they enter the trial id."""
    found = {
        "model": describe(config.model).fingerprint,
        "evaluation": evaluation.evaluation_fingerprint(
            config.evaluation, languages=config.evaluated_languages, pivot=config.data.pivot
        ),
    }
    if config.evaluation.representation is not None:
        found["heldout"] = sources.heldout_fingerprint(
            config.evaluation.representation.source, config.data.pivot, retrieval_languages(config)
        )
    # A model that is not trained scores the same whatever the training rows are.
    found["data"] = sources.fingerprint(config.data) if config.training.max_steps > 0 else ""
    if config.data.instruction_scores is not None:
        found["instruction_scores"] = scores_digest(config.data.instruction_scores)
    return found


@dataclass(frozen=True)
class _Run:
    """What the stages of one trial share."""

    config: TrialConfig
    trial_id: str
    paths: TrialPaths
    reporter: Reporter
    runtime: TrainingRuntime
    device: str
    rank: int
    world_size: int
    stop: Callable[[], bool] | None
    keeps_scores: bool


def run_trial(
    config: TrialConfig,
    *,
    trial_id: str,
    folder: Path,
    splits: Sequence[str],
    reporter: Reporter,
    device: str = "auto",
    runtime: TrainingRuntime | None = None,
    num_threads: int | None = None,
    stop: Callable[[], bool] | None = None,
    keep_scores: bool = True,
) -> TrialResult | None:
    """Train and score one configuration; what `folder` already holds is not done again.

    Inside a process group every worker calls this alike: all train, the first scores and writes.

    Args:
        config: the resolved trial.
        trial_id: its content address.
        folder: the trial's own folder; `result.json` is durable there before this returns.
        splits: "validation", "test" or both; only those that a stored result lacks are scored.
        reporter: hears of progress.
        device: "auto" takes a GPU where there is one.
        runtime: memory, checkpoints and watching; nothing there changes a score. None takes the defaults.
        num_threads: torch threads; None leaves torch's choice.
        stop: asked at every step of training; true saves what is done, for a later attempt to go on with.
        keep_scores: take what the very same weights answered before from the cache, and keep what they answer now;
            `AFP_CACHE_SCORES=0` says no for all.
    Returns: the result, None on workers other than the first.
    Raises: UserError for bad input, DivergedError, TrainingInterruptedError when `stop` said so, whatever torch raises.
    """
    started = time.perf_counter()
    import torch

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    rank, world_size = _worker()
    if device == "auto":
        device = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    paths, runtime = TrialPaths(folder), runtime or TrainingRuntime()
    keeps = keep_scores and is_caching_wanted()
    run = _Run(config, trial_id, paths, reporter, runtime, device, rank, world_size, stop, keeps)
    stored = read_result(run.paths)
    if stored is not None and set(splits) <= set(stored.splits):
        return stored if rank == 0 else None
    check_together(config.loss, config.training, runtime, num_workers=world_size)
    loaded, summary = _trained_model(run, stored)
    if rank != 0:
        return None
    result = _score(run, loaded, [split for split in SPLITS if split in splits], stored)
    seconds = time.perf_counter() - started
    held_hours = seconds * world_size / 3600
    result = result.model_copy(
        update={
            "trial_id": trial_id,
            "training": summary.model_copy(update={"gpu_hours": summary.gpu_hours + held_hours}),
            "checkpoint": run.paths.checkpoint.name if run.paths.checkpoint.is_dir() else None,
            "seconds": (stored.seconds if stored else 0.0) + seconds,
            "warnings": tuple(dict.fromkeys([*summary.notes, *result.warnings])),
        }
    )
    write_json(run.paths.result, result.model_dump(mode="json"))
    shutil.rmtree(run.paths.states, ignore_errors=True)
    return result


def read_result(paths: TrialPaths) -> TrialResult | None:
    """The stored result of a trial, or None when there is none yet."""
    if not paths.result.is_file():
        return None
    return TrialResult.model_validate_json(paths.result.read_bytes())


def _worker() -> tuple[int, int]:
    """Rank and number of workers; (0, 1) outside a process group."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _trained_model(run: _Run, stored: TrialResult | None) -> tuple["LoadedModel", TrainingSummary]:
    """The model to score: the stored checkpoint, or one that is trained now and saved."""
    from afp_ray.models.load import load_model
    from afp_ray.training.checkpoint import save_checkpoint, verify_checkpoint
    from afp_ray.training.loop import train

    config, paths = run.config, run.paths
    run.reporter.report("load", 0, 1)
    kept = config.model.model_copy(update={"name": str(paths.checkpoint), "revision": None})
    if stored is not None and config.training.max_steps > 0:
        if not paths.checkpoint.is_dir():
            raise ModelError(
                f"the checkpoint of trial {stored.trial_id} is gone",
                where=str(paths.checkpoint),
                fix="remove the trial's folder to train it again, or keep it with runtime.keep_checkpoints: all",
            )
        verify_checkpoint(paths.checkpoint)
        return load_model(kept, device=run.device), stored.training
    trained = _finished_training(paths)
    if trained is not None:
        return load_model(kept, device=run.device), trained
    loaded = load_model(config.model, device=run.device)
    if config.training.max_steps == 0:
        return loaded, TrainingSummary(steps=0)
    batches = _training_batches(run, loaded)
    if run.rank == 0:
        _record_training_call(paths)
    summary = train(
        loaded.model,
        batches,
        loss=config.loss,
        training=config.training,
        reporter=run.reporter,
        device=run.device,
        seed=config.seed,
        runtime=run.runtime,
        paths=paths,
        trial_id=run.trial_id,
        stop=run.stop,
    )
    summary = summary.model_copy(update={"dropped_tokens": batches.dropped_tokens})
    if run.rank == 0:
        save_checkpoint(loaded.model, loaded.tokenizer, paths.checkpoint)
        held_hours = summary.seconds * run.world_size / 3600
        finished = summary.model_copy(update={"gpu_hours": held_hours})
        write_json(paths.trained, finished.model_dump(mode="json"))
    return loaded, summary


def _finished_training(paths: TrialPaths) -> TrainingSummary | None:
    """What an attempt that was killed while it scored had trained, if its checkpoint is whole."""
    from afp_ray.training.checkpoint import verify_checkpoint

    if not paths.trained.is_file():
        return None
    try:
        verify_checkpoint(paths.checkpoint)
    except ModelError as error:
        logger.warning("training goes on from its last state: %s", error.problem)
        return None
    return TrainingSummary.model_validate_json(paths.trained.read_bytes())


def _training_batches(run: _Run, loaded: "LoadedModel") -> Any:
    from afp_ray.data.batches import TrainingBatches

    config = run.config
    pairs, instructions = tokenized_rows(config, loaded)
    return TrainingBatches(
        pairs,
        instructions,
        loaded.tokenizer,
        batch_size=config.training.batch_size,
        pair_batch_size=config.training.num_pairs_per_step,
        max_length=config.training.max_length,
        seed=config.seed,
        rank=run.rank,
        world_size=run.world_size,
        micro_batch_size=run.runtime.micro_batch_size,
    )


def _record_training_call(paths: TrialPaths) -> None:
    """Append a line each time that training really starts, so that anybody can count what was repeated."""
    paths.folder.mkdir(parents=True, exist_ok=True)
    with paths.training_calls.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": time.time(), "pid": os.getpid()}) + "\n")


def _score(run: _Run, loaded: "LoadedModel", splits: Sequence[Split], stored: TrialResult | None) -> TrialResult:
    """Score the splits that `stored` lacks and join them with what it has."""
    from afp_ray.evaluation.representation import headline

    config = run.config
    scores = [score for score in stored.scores if score.task != "retrieval"] if stored else []
    layers = list(stored.layers) if stored else []
    predictions = dict(stored.predictions) if stored else {}
    warnings = list(stored.warnings) if stored else []
    cache = ScoreCache(loaded.model, loaded.tokenizer) if run.keeps_scores else None
    for split in splits:
        if stored is not None and split in stored.splits:
            continue
        scored = evaluation.evaluate_tasks(
            loaded.model,
            loaded.tokenizer,
            config.evaluation,
            languages=config.evaluated_languages,
            pivot=config.data.pivot,
            split=split,
            reporter=run.reporter,
            cache=cache,
        )
        scores += scored.scores
        warnings += scored.warnings
        file = run.paths.predictions_of(split)
        evaluation.write_predictions(scored.predictions, file)
        predictions[split] = str(file.relative_to(run.paths.folder))
        layers += _measure(run, loaded, split, layers)
    scores += _headline_scores(layers, headline)
    return TrialResult(
        trial_id="",
        config=config.model_dump(mode="json"),
        splits=tuple(split for split in SPLITS if split in predictions),
        scores=tuple(scores),
        layers=tuple(layers),
        training=TrainingSummary(steps=0),
        predictions=predictions,
        fingerprints=fingerprints(config),
        environment=_environment(run.device),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _measure(run: _Run, loaded: "LoadedModel", split: Split, known: Sequence[LayerMetrics]) -> list[LayerMetrics]:
    """Metrics of the states on `split`; what drawings need is kept at the layer that validation, `known`, chooses."""
    from afp_ray.evaluation.projection import write_states
    from afp_ray.evaluation.representation import headline_place, measure_representation

    if run.config.evaluation.representation is None:
        return []
    pairs = {language: heldout_pairs(run.config, language, split) for language in retrieval_languages(run.config)}
    run.reporter.report("represent", 0, len(pairs))
    measured = measure_representation(loaded.model, loaded.tokenizer, pairs, split=split)
    place = headline_place([row for row in (*known, *measured.rows) if row.split == "validation"])
    if place is not None:
        write_states(measured.to_draw(place), run.paths.representation_of(split))
    return measured.rows


def _headline_scores(layers: Sequence[LayerMetrics], headline: Any) -> list[Score]:
    by_split: Mapping[str, list[LayerMetrics]] = {
        split: [row for row in layers if row.split == split] for split in SPLITS
    }
    return [score for rows in by_split.values() if rows for score in headline(by_split["validation"], rows)]


def _environment(device: str) -> dict[str, str]:
    """Versions and device that a score may depend on in its last digits."""
    import torch
    import transformers

    name = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or platform.machine()
    )
    return {
        "afp_ray": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": f"{device.split(':')[0]} {name}",
        "threads": str(torch.get_num_threads()),
    }
