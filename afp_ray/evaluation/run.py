"""Tasks in, scores and predictions out; the checks of the same evaluation need no torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from afp_ray.config import CHOICE_TASKS, DIRECTIONS, EvaluationConfig, Split
from afp_ray.errors import AfpError, ConfigError, ModelError, UserError
from afp_ray.evaluation.check import check_evaluation, evaluation_fingerprint, evaluation_texts
from afp_ray.evaluation.choice_scores import ChoiceScoring
from afp_ray.evaluation.generation_scores import GenerationScoring
from afp_ray.evaluation.generation_task import GenerationCell
from afp_ray.evaluation.incomplete import IncompleteError
from afp_ray.evaluation.objective import allowed_metrics, check_metric, objective_value
from afp_ray.evaluation.predictions import Prediction, read_predictions, write_predictions
from afp_ray.evaluation.prompts import generation_languages, task_of
from afp_ray.evaluation.questions import Cell
from afp_ray.evaluation.score_cache import ScoreCache
from afp_ray.evaluation.tasks import TASKS
from afp_ray.evaluation.workers import Workers, one_line
from afp_ray.records import MissingScore, Score
from afp_ray.reporter import Reporter

__all__ = [
    "Evaluation",
    "IncompleteError",
    "Prediction",
    "allowed_metrics",
    "check_evaluation",
    "check_metric",
    "evaluate_tasks",
    "evaluation_fingerprint",
    "evaluation_texts",
    "objective_value",
    "read_predictions",
    "require_one_model",
    "write_predictions",
]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation gave.

    Attributes:
        scores: one or more metrics per task, language and number of shots, the main one first.
        predictions: one per example, number of shots and demonstration seed.
        warnings: skipped rows, cut contexts and texts that were not finished, in words.
    """

    scores: list[Score]
    predictions: list[Prediction]
    warnings: list[str] = field(default_factory=list)


def evaluate_tasks(
    model: Any,
    tokenizer: Any,
    config: EvaluationConfig,
    *,
    languages: Sequence[str],
    pivot: str,
    split: Split,
    reporter: Reporter | None = None,
    cache: ScoreCache | None = None,
    workers: Workers | None = None,
) -> Evaluation:
    """Score every task in every language on `split`; all workers call this alike, inside `together`.

    Args:
        model: a causal LM; its mode and weights are left as they are.
        tokenizer: its tokenizer.
        config: tasks, shots, demonstration seeds, prompt language, limit, decoding.
        languages: languages to score; generation tasks go between the pivot and each other one.
        pivot: language of the prompts when `prompt_language` is `pivot`, and one side of the generation tasks.
        split: rows to score; demonstrations always come from validation.
        reporter: told after every cell, as stage `evaluate`.
        cache: what this very model answered before; None scores everything anew.
        workers: those that score a part of the examples each; None leaves all of them to this process.

    Returns: scores per (task, language, shots), over all demonstration seeds; every value in [0, 1]. The same on every
        worker.
    Raises: IncompleteError, with all other scores, when a task cannot be scored in a language: none is left out
        silently. What stands against every score is raised as it is: ModelError, ConfigError, memory that ran out, a
        disk that refuses, ElsewhereFailedError when another worker has left; so is the error when nothing was scored.
    """
    side, spoken = generation_languages(config, languages=languages, pivot=pivot)
    result, workers = Evaluation([], []), workers or Workers()
    shared = (split, result.warnings, cache, workers)
    choices = ChoiceScoring(model, tokenizer, config, pivot, *shared)
    generations = GenerationScoring(model, tokenizer, config, side, *shared)
    units: list[tuple[ChoiceScoring | GenerationScoring, str, str]] = []
    for task in config.tasks:
        if task in CHOICE_TASKS:
            units += [(choices, task, language) for language in languages]
        else:
            chosen = [name for name in DIRECTIONS[task] if name in config.directions]
            units += [(generations, name, language) for name in chosen for language in spoken[name]]
    cells = sum(len(config.demo_seeds) if shots else 1 for shots in config.shots)
    missing: list[MissingScore] = []
    first: Exception | None = None
    for place, (scoring, name, language) in enumerate(units):
        if cache is not None:
            cache.of_task(name, task_version(name))

        def report(done: int, before: int = place * cells) -> None:
            if reporter is not None:
                reporter.report("evaluate", before + done, len(units) * cells)

        unit = partial(_score_unit, scoring, name, language, report)
        found, error = workers.attempt(unit, ends_all=_ends_all)
        if error is not None:
            first = first or error
            missing.append(MissingScore(task=name, language=language, split=split, problem=one_line(error)))
            report(cells)
        elif found is not None:
            result.predictions.extend(found[0])
            result.scores.extend(found[1])
    if first is not None:
        if not result.scores:
            raise first
        raise IncompleteError(result.scores, missing) from first
    return result


def _score_unit(
    scoring: ChoiceScoring | GenerationScoring, name: str, language: str, report: Callable[[int], None]
) -> tuple[list[Prediction], list[Score]]:
    """Predictions and scores of one task in one language; `report` hears how many cells of it are done."""
    by_shots: dict[int, list[Prediction]] = {shots: [] for shots in scoring.config.shots}
    cells: Iterator[Any] = scoring.cells(name, language)
    for done, cell in enumerate(cells, start=1):
        by_shots[cell.shots] += _score_cell(scoring, cell)
        report(done)
    if left_out := getattr(cell, "left_out", ""):
        scoring.warnings.append(f"{name}/{language}: {left_out} has no labels and was left out")
    if cell.num_skipped:
        scoring.warnings.append(f"{name}/{language}: {cell.num_skipped} rows without text to score were skipped")
    parts = list(by_shots.values())
    return [one for part in parts for one in part], [score for part in parts for score in scoring.scores(part)]


def _ends_all(error: Exception) -> bool:
    """Whether what failed stands against every other score too."""
    if isinstance(error, AfpError):
        return not isinstance(error, UserError) or isinstance(error, ModelError | ConfigError)
    is_memory = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return is_memory or isinstance(error, OSError | MemoryError)


def require_one_model(model: Any, tokenizer: Any, workers: Workers) -> None:
    """Refuse to join what workers say of different models; one of them may have found an older copy.

    Raises: DataError when weights or tokenizers differ.
    """
    if workers.number == 1:
        return
    from afp_ray.evaluation.weights_digest import tokenizer_digest, weights_digest

    workers.require_equal((weights_digest(model), tokenizer_digest(tokenizer)), "the weights or the tokenizer")


def task_version(name: str) -> int:
    """Version of a choice task, or of the task that a direction belongs to; another one is never read from a cache."""
    return TASKS[name].version if name in TASKS else task_of(name).version


def _score_cell(scoring: Any, cell: Cell | GenerationCell) -> list[Prediction]:
    place = f"{cell.task}/{cell.language} at {cell.shots} shots"
    try:
        predictions: list[Prediction] = scoring.score_cell(cell, place)
    except UserError as error:
        where = f"{place}, {error.where}" if error.where else place
        raise type(error)(error.problem, where=where, allowed=error.allowed, fix=error.fix) from error
    return predictions
