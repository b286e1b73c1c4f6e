"""Tasks in, scores and predictions out; the checks of the same evaluation need no torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from afp_ray.config import DIRECTIONS, EvaluationConfig, Split
from afp_ray.errors import AfpError, ConfigError, ModelError, UserError
from afp_ray.evaluation.ahead import one_thread
from afp_ray.evaluation.cell_scoring import ScoringHost
from afp_ray.evaluation.cells_ahead import CellsAhead
from afp_ray.evaluation.check import check_evaluation, evaluation_fingerprint, evaluation_texts
from afp_ray.evaluation.choice_scores import ChoiceScoring
from afp_ray.evaluation.generation_scores import GenerationScoring
from afp_ray.evaluation.generation_task import GenerationCell
from afp_ray.evaluation.incomplete import IncompleteError
from afp_ray.evaluation.objective import allowed_metrics, check_metric, objective_value
from afp_ray.evaluation.predictions import Prediction, read_predictions, write_predictions
from afp_ray.evaluation.prompts import generation_languages, task_of
from afp_ray.evaluation.questions import Cell
from afp_ray.evaluation.tasks import choice_task
from afp_ray.evaluation.workers import Workers, one_line
from afp_ray.records import MissingScore, Score

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
    host: ScoringHost | None = None,
) -> Evaluation:
    """Score every task in every language on `split`; all workers call this alike, inside `together`.

    Args:
        model: a causal LM; its mode and weights are left as they are, and are rounded for `config.precision` alone.
        tokenizer: its tokenizer.
        config: tasks, shots, demonstration seeds, prompt language, limit, precision, decoding.
        languages: languages to score; generation tasks go between the pivot and each other one.
        pivot: language of the prompts when `prompt_language` is `pivot`, and one side of the generation tasks.
        split: rows to score; demonstrations always come from validation.
        host: cache, workers and reporter; None scores everything anew in this process.

    Returns: scores per (task, language, shots), over all demonstration seeds; every value in [0, 1]. The same on every
        worker.
    Raises: IncompleteError, with all other scores, when a task cannot be scored in a language: none is left out
        silently. What stands against every score is raised as it is: ModelError, ConfigError, memory that ran out, a
        disk that refuses, ElsewhereFailedError when another worker has left; so is the error when nothing was scored.
    """
    side, spoken = generation_languages(config, languages=languages, pivot=pivot)
    result, host = Evaluation([], []), host or ScoringHost()
    choices = ChoiceScoring(model, tokenizer, config, pivot, split, result.warnings, host)
    generations = GenerationScoring(model, tokenizer, config, side, split, result.warnings, host)
    units: list[_Unit] = []
    for task in (*config.tasks, *config.own_tasks):
        if task in config.choice_tasks:
            units += [_Unit(choices, task, language) for language in config.languages_of(task, languages)]
        else:
            directions = [name for name in DIRECTIONS[task] if name in config.directions]
            units += [_Unit(generations, name, language) for name in directions for language in spoken[name]]
    from afp_ray.models.precision import weights_in  # checks of an evaluation must not load torch

    with weights_in(model, config.precision):
        missing, first = _score_units(units, result, host)
    if first is not None:
        if not result.scores:
            raise first
        raise IncompleteError(result.scores, missing) from first
    return result


@dataclass(frozen=True, slots=True)
class _Unit:
    """One task, or direction of a task, in one language: what is scored or missing as a whole."""

    scoring: ChoiceScoring | GenerationScoring
    name: str
    language: str


def _score_units(
    units: Sequence[_Unit], result: Evaluation, host: ScoringHost
) -> tuple[list[MissingScore], Exception | None]:
    """Add the predictions and scores of each unit to `result`; what could not be scored, and the first reason why."""
    with one_thread() as executor:
        cells = CellsAhead([(unit.scoring, unit.name, unit.language) for unit in units], executor)
        return _score_each(units, cells, result, host)


def _score_each(
    units: Sequence[_Unit], cells: CellsAhead, result: Evaluation, host: ScoringHost
) -> tuple[list[MissingScore], Exception | None]:
    missing: list[MissingScore] = []
    first: Exception | None = None
    numbers = [_num_cells(unit) for unit in units]
    for index, unit in enumerate(units):
        num_cells = numbers[index]
        if host.cache is not None:
            host.cache.of_task(unit.name, task_version(unit.name, unit.scoring.config))

        def report(done: int, before: int = sum(numbers[:index]), total: int = sum(numbers)) -> None:
            host.reporter.report("evaluate", before + done, total)

        scored, error = host.workers.attempt(partial(_score_unit, unit, cells.of(index), report), ends_all=_ends_all)
        if error is not None:
            first = first or error
            split = unit.scoring.split
            missing.append(MissingScore(task=unit.name, language=unit.language, split=split, problem=one_line(error)))
            report(num_cells)
        elif scored is not None:
            predictions, scores = scored
            result.predictions.extend(predictions)
            result.scores.extend(scores)
    return missing, first


def _num_cells(unit: _Unit) -> int:
    """One for each number of demonstrations and draw of them."""
    config = unit.scoring.config
    return sum(len(config.demo_seeds) if shots else 1 for shots in config.shots)


def _score_unit(
    unit: _Unit, cells: Iterator[Any], report: Callable[[int], None]
) -> tuple[list[Prediction], list[Score]]:
    """Predictions and scores of one unit, from its cells; `report` hears how many of them are done."""
    scoring, name = unit.scoring, f"{unit.name}/{unit.language}"
    by_shots: dict[int, list[Prediction]] = {shots: [] for shots in scoring.config.shots}
    for done, cell in enumerate(cells, start=1):
        by_shots[cell.shots] += _score_cell(scoring, cell)
        report(done)
    if left_out := getattr(cell, "left_out", ""):
        scoring.warnings.append(f"{name}: {left_out} has no labels and was left out")
    if cell.num_skipped:
        scoring.warnings.append(f"{name}: {cell.num_skipped} rows without text to score were skipped")
    predictions = [prediction for part in by_shots.values() for prediction in part]
    return predictions, [score for part in by_shots.values() for score in scoring.scores(part)]


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


def task_version(name: str, config: EvaluationConfig) -> int:
    """Version of a choice task, or of the task that a direction belongs to; another one is never read from a cache."""
    return choice_task(name, config).version if name in config.choice_tasks else task_of(name).version


def _score_cell(scoring: Any, cell: Cell | GenerationCell) -> list[Prediction]:
    name = f"{cell.task}/{cell.language} at {cell.shots} shots"
    try:
        predictions: list[Prediction] = scoring.score_cell(cell, name)
    except UserError as error:
        where = f"{name}, {error.where}" if error.where else name
        raise type(error)(error.problem, where=where, allowed=error.allowed, fix=error.fix) from error
    return predictions
