"""What a trial scores: its tasks, on every worker a part of the examples, and its representations, on the first alone.

Predictions and states are written beside the trial; scores and layers are handed back.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afp_ray.config import SPLITS, Split, TrialConfig
from afp_ray.evaluation import run as evaluation
from afp_ray.evaluation.score_cache import ScoreCache
from afp_ray.evaluation.workers import Workers
from afp_ray.records import LayerMetrics, Score, TrialResult
from afp_ray.reporter import Reporter
from afp_ray.store import TrialPaths
from afp_ray.trial.prepare import heldout_pairs, retrieval_languages

if TYPE_CHECKING:  # torch comes with it; checking a study must not wait for it
    from afp_ray.models.load import LoadedModel


@dataclass(frozen=True, slots=True)
class TrialScores:
    """All that is known of a trial's model, as `TrialResult` holds it."""

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
    reporter: Reporter,
    workers: Workers,
    keep_scores: bool,
) -> TrialScores | None:
    """Score the splits that `stored` lacks and join them with what it has; all workers of the trial call this alike.

    Args:
        config: the resolved trial.
        loaded: its model, equal on every worker.
        splits: those that are wanted.
        paths: where predictions and states go.
        stored: what was scored before; None for nothing.
        reporter: hears of progress.
        workers: those that score a part each.
        keep_scores: ask the cache of scores first, and keep what it lacks.
    Returns: None on workers other than the first.
    Raises: IncompleteError when a task cannot be scored in a language, on all workers, once all other scores are made;
        UserError for bad input, ElsewhereFailedError when another worker failed, whatever torch raises.
    """
    started = time.perf_counter()
    missing = [split for split in splits if stored is None or split not in stored.splits]
    cache = ScoreCache(loaded.model, loaded.tokenizer) if keep_scores else None
    with workers.together():
        evaluation.require_one_model(loaded.model, loaded.tokenizer, workers)
        evaluated: dict[Split, evaluation.Evaluation] = {}
        failed: list[evaluation.IncompleteError] = []
        for split in missing:
            try:
                evaluated[split] = evaluation.evaluate_tasks(
                    loaded.model,
                    loaded.tokenizer,
                    config.evaluation,
                    languages=config.evaluated_languages,
                    pivot=config.data.pivot,
                    split=split,
                    reporter=reporter,
                    cache=cache,
                    workers=workers,
                )
            except evaluation.IncompleteError as error:
                failed.append(error)
    if failed:
        complete = [score for found in evaluated.values() for score in found.scores]
        raise evaluation.IncompleteError(
            [*complete, *(score for one in failed for score in one.found.scores)],
            [cell for one in failed for cell in one.found.missing],
        ) from failed[0].__cause__
    if not workers.is_first:
        return None
    scores = [score for score in stored.scores if score.task != "retrieval"] if stored else []
    layers = list(stored.layers) if stored else []
    predictions = dict(stored.predictions) if stored else {}
    warnings = list(stored.warnings) if stored else []
    for split, found in evaluated.items():
        scores += found.scores
        warnings += found.warnings
        file = paths.predictions_of(split)
        evaluation.write_predictions(found.predictions, file)
        predictions[split] = str(file.relative_to(paths.folder))
        layers += _measure(config, loaded, split, layers, paths=paths, reporter=reporter)
    scores += _headline_scores(layers)
    seconds = time.perf_counter() - started
    return TrialScores(tuple(scores), tuple(layers), predictions, tuple(dict.fromkeys(warnings)), seconds)


def _measure(
    config: TrialConfig,
    loaded: "LoadedModel",
    split: Split,
    known: Sequence[LayerMetrics],
    *,
    paths: TrialPaths,
    reporter: Reporter,
) -> list[LayerMetrics]:
    """Metrics of the states on `split`; what drawings need is kept at the layer that validation, `known`, chooses."""
    from afp_ray.evaluation.projection import write_states
    from afp_ray.evaluation.representation import headline_place, measure_representation

    if config.evaluation.representation is None:
        return []
    pairs = {language: heldout_pairs(config, language, split) for language in retrieval_languages(config)}
    reporter.report("represent", 0, len(pairs))
    measured = measure_representation(loaded.model, loaded.tokenizer, pairs, split=split)
    place = headline_place([row for row in (*known, *measured.rows) if row.split == "validation"])
    if place is not None:
        write_states(measured.to_draw(place), paths.representation_of(split))
    return measured.rows


def _headline_scores(layers: Sequence[LayerMetrics]) -> list[Score]:
    from afp_ray.evaluation.representation import headline

    by_split = {split: [row for row in layers if row.split == split] for split in SPLITS}
    return [score for rows in by_split.values() if rows for score in headline(by_split["validation"], rows)]
