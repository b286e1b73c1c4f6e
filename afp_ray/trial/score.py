"""What a trial scores: its tasks, on every worker a part of the examples, and its representations, on the first alone.

Predictions and states are written beside the trial; scores and layers are handed back.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from afp_ray.config import SPLITS, Split, TrialConfig
from afp_ray.evaluation.cell_scoring import ScoringHost
from afp_ray.evaluation.run import (
    Evaluation,
    IncompleteError,
    evaluate_tasks,
    require_one_model,
    write_predictions,
)
from afp_ray.records import LayerMetrics, Score, TrialResult
from afp_ray.reporter import PartReporter, Reporter
from afp_ray.store import TrialPaths
from afp_ray.trial.prepare import heldout_pairs, retrieval_languages

if TYPE_CHECKING:  # torch comes with it; checking a study must not wait for it
    from afp_ray.models.load import LoadedModel


@dataclass(frozen=True, slots=True)
class TrialScores:
    """All scores of a trial's model, those of earlier calls too, as `TrialResult` holds them."""

    scores: tuple[Score, ...]
    layers: tuple[LayerMetrics, ...]
    predictions: Mapping[str, str]
    warnings: tuple[str, ...]
    seconds: float
    """That scoring took now."""

    @property
    def splits(self) -> tuple[Split, ...]:
        """Those that were scored."""
        return tuple(split for split in SPLITS if split in self.predictions)


def score_splits(
    config: TrialConfig,
    loaded: "LoadedModel",
    splits: Sequence[Split],
    *,
    paths: TrialPaths,
    stored: TrialResult | None,
    host: ScoringHost,
) -> TrialScores | None:
    """Score the splits that `stored` lacks and join them with what it has; all workers of the trial call this alike.

    Args:
        config: the resolved trial.
        loaded: its model, equal on every worker.
        splits: those that are wanted.
        paths: where predictions and states go.
        stored: what was scored before; None for nothing.
        host: the workers that score a part each, the cache that they ask first, and who hears of progress.
    Returns: None on workers other than the first.
    Raises: IncompleteError when a task cannot be scored in a language, on all workers, once all other scores are made;
        UserError for bad input, ElsewhereFailedError when another worker failed, whatever torch raises.
    """
    started = time.perf_counter()
    missing = [split for split in splits if stored is None or split not in stored.splits]
    evaluated = _evaluate(config, loaded, missing, host)
    if not host.workers.is_first:
        return None
    scores = [score for score in stored.scores if score.task != "retrieval"] if stored else []
    layers = list(stored.layers) if stored else []
    predictions = dict(stored.predictions) if stored else {}
    warnings = list(stored.warnings) if stored else []
    for split, evaluation in evaluated.items():
        scores += evaluation.scores
        warnings += evaluation.warnings
        file = paths.predictions_of(split)
        write_predictions(evaluation.predictions, file)
        predictions[split] = str(file.relative_to(paths.folder))
        layers += _measure(config, loaded, split, layers, paths=paths, reporter=host.reporter)
    scores += _headline_scores(layers)
    seconds = time.perf_counter() - started
    return TrialScores(tuple(scores), tuple(layers), predictions, tuple(dict.fromkeys(warnings)), seconds)


def _evaluate(
    config: TrialConfig, loaded: "LoadedModel", splits: Sequence[Split], host: ScoringHost
) -> dict[Split, Evaluation]:
    """Every task on each split; a split that lacks a score does not keep the next one from being scored.

    Raises: IncompleteError with the scores and the gaps of all splits.
    """
    evaluated: dict[Split, Evaluation] = {}
    incomplete: list[IncompleteError] = []
    with host.workers.together():
        require_one_model(loaded.model, loaded.tokenizer, host.workers)
        for part, split in enumerate(splits):
            try:
                evaluated[split] = evaluate_tasks(
                    loaded.model,
                    loaded.tokenizer,
                    config.evaluation,
                    languages=config.evaluated_languages,
                    pivot=config.data.pivot,
                    split=split,
                    host=replace(host, reporter=PartReporter(host.reporter, part, len(splits))),
                )
            except IncompleteError as error:
                incomplete.append(error)
    if incomplete:
        scores = [score for evaluation in evaluated.values() for score in evaluation.scores]
        scores += [score for error in incomplete for score in error.report.scores]
        missing = [cell for error in incomplete for cell in error.report.missing]
        raise IncompleteError(scores, missing) from incomplete[0].__cause__
    return evaluated


def _measure(
    config: TrialConfig,
    loaded: "LoadedModel",
    split: Split,
    earlier: Sequence[LayerMetrics],
    *,
    paths: TrialPaths,
    reporter: Reporter,
) -> list[LayerMetrics]:
    """Metrics of every layer on `split`; states are written at the layer that validation chooses, for drawings.

    The metrics of validation are among these, or among those of the splits measured `earlier`.
    """
    from afp_ray.evaluation.projection import write_states
    from afp_ray.evaluation.representation import choose_headline, measure_representation

    if config.evaluation.representation is None:
        return []
    pairs = {language: heldout_pairs(config, language, split) for language in retrieval_languages(config)}
    reporter.report("represent", 0, len(pairs))
    measured = measure_representation(loaded.model, loaded.tokenizer, pairs, split=split)
    headline = choose_headline([row for row in (*earlier, *measured.rows) if row.split == "validation"])
    if headline is not None:
        write_states(measured.to_keep(headline), paths.representation_of(split))
    return measured.rows


def _headline_scores(layers: Sequence[LayerMetrics]) -> list[Score]:
    from afp_ray.evaluation.representation import headline_scores

    by_split = {split: [row for row in layers if row.split == split] for split in SPLITS}
    return [score for rows in by_split.values() if rows for score in headline_scores(by_split["validation"], rows)]
