"""Choice tasks in, scores and predictions out; the checks of the same evaluation need no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from afp_ray.config import EvaluationConfig
from afp_ray.errors import UserError
from afp_ray.evaluation.check import check_evaluation, evaluation_fingerprint
from afp_ray.evaluation.objective import allowed_metrics, check_metric, objective_value
from afp_ray.evaluation.predictions import Prediction, read_predictions, write_predictions
from afp_ray.evaluation.questions import Cell, render_cells
from afp_ray.evaluation.task import Split
from afp_ray.records import Score
from afp_ray.statistics import clustered_standard_error

__all__ = [
    "Evaluation",
    "Prediction",
    "allowed_metrics",
    "check_evaluation",
    "check_metric",
    "evaluate_tasks",
    "evaluation_fingerprint",
    "objective_value",
    "read_predictions",
    "write_predictions",
]


class Reporter(Protocol):
    """Receives progress, one call per scored cell."""

    def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
        """Say that `done` of `total` cells are scored."""
        ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation gave.

    Attributes:
        scores: accuracy per task, language and number of shots.
        predictions: one per example, number of shots and demonstration seed.
        warnings: skipped rows and cut contexts, in words.
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
) -> Evaluation:
    """Score every task in every language on `split`.

    Args:
        model: a causal LM; its mode and weights are left as they are.
        tokenizer: its tokenizer.
        config: tasks, shots, demonstration seeds, prompt language, limit.
        languages: languages to score.
        pivot: language of the prompts when `prompt_language` is `pivot`.
        split: rows to score; demonstrations always come from validation.
        reporter: told after every cell, as stage `evaluate`.

    Returns: a score per (task, language, shots), the mean over demonstration seeds; accuracy in [0, 1].
    Raises: TaskError, DataError or ModelError when any language cannot be scored: none is left out silently.
    """
    from afp_ray.evaluation.scoring import ContinuationScorer  # the checks above must not load torch

    scorer = ContinuationScorer(model, tokenizer)
    result = Evaluation([], [])
    seeds = {shots: len(config.demo_seeds) if shots else 1 for shots in config.shots}
    total, done = len(config.tasks) * len(languages) * sum(seeds.values()), 0
    for task in config.tasks:
        for language in languages:
            by_shots: dict[int, list[Prediction]] = {shots: [] for shots in config.shots}
            for cell in render_cells(task, config, language=language, pivot=pivot, split=split):
                by_shots[cell.shots] += _score_cell(scorer, cell, result.warnings)
                done += 1
                if reporter is not None:
                    reporter.report("evaluate", done, total)
            if cell.num_skipped:
                result.warnings.append(f"{task}/{language}: {cell.num_skipped} rows without text to score were skipped")
            for predictions in by_shots.values():
                result.predictions.extend(predictions)
                result.scores.append(_score(predictions, split))
    return result


def _score_cell(scorer: Any, cell: Cell, warnings: list[str]) -> list[Prediction]:
    truncated = scorer.num_truncated
    try:
        values = scorer.score([example.question.choices for example in cell.examples])
    except UserError as error:
        place = f"{cell.task}/{cell.language} at {cell.shots} shots"
        where = f"{place}, {error.where}" if error.where else place
        raise type(error)(error.problem, where=where, allowed=error.allowed, fix=error.fix) from error
    if cut := scorer.num_truncated - truncated:
        warnings.append(
            f"{cell.task}/{cell.language} at {cell.shots} shots: {cut} contexts were longer than the model's "
            f"{scorer.max_positions} positions and were cut on the left"
        )
    predictions = []
    for example, likelihoods in zip(cell.examples, values, strict=True):
        predicted = max(range(len(likelihoods)), key=likelihoods.__getitem__)
        gold = example.question.gold
        predictions.append(
            Prediction(
                task=cell.task,
                language=cell.language,
                shots=cell.shots,
                demo_seed=cell.demo_seed,
                example_id=example.id,
                content_id=example.content_id,
                gold=gold,
                predicted=predicted,
                correct=predicted == gold,
                log_likelihoods=likelihoods,
            )
        )
    return predictions


def _score(predictions: Iterable[Prediction], split: Split) -> Score:
    """Accuracy of one task, language and number of shots; seeds are averaged per example first."""
    correct: dict[str, list[bool]] = {}
    contents: dict[str, str] = {}
    for prediction in predictions:
        correct.setdefault(prediction.example_id, []).append(prediction.correct)
        contents[prediction.example_id] = prediction.content_id
    values = np.array([np.mean(seeds) for seeds in correct.values()])
    return Score(
        task=prediction.task,
        language=prediction.language,
        shots=prediction.shots,
        split=split,
        metric="accuracy",
        value=float(values.mean()),
        n=len(values),
        standard_error=clustered_standard_error(values, list(contents.values())),
    )
