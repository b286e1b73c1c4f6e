"""Restricts arms that were scored on different tasks, or in different languages, to what all of them share.

A cell is a task, a language and a number of shots. Arms of the same cells are handed back as they are.
"""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from afp_ray.comparison.confirmed import ConfirmedArm, Examples, check_same_examples
from afp_ray.errors import ConfigError, DataError
from afp_ray.evaluation.objective import objective_value
from afp_ray.records import TrialResult

_Cells = frozenset[tuple[str, str, int]]
_SAME_DATA = ("data_dir", "limit", "representation")
"""Fields of the evaluation by which two arms read the same rows of a cell."""


def comparable(arms: Sequence[ConfirmedArm], *, metric: str) -> tuple[list[ConfirmedArm], list[str]]:
    """The arms on the cells that all of them were scored on, and a sentence on what was left out.

    Args:
        arms: of one or more studies, read for one split.
        metric: the study's objective, which is computed again where cells of an arm are left out.
    Raises: DataError when arms share no cell, or answered different examples of a cell.
    """
    cells, spoken = [_cells_of(arm) for arm in arms], [_retrieval_of(arm) for arm in arms]
    differs = {"evaluation": len(set(cells)) > 1, "heldout": len(set(spoken)) > 1}
    if not any(differs.values()):
        check_same_examples(arms)
        return list(arms), []
    shared, languages = frozenset.intersection(*cells), frozenset.intersection(*spoken)
    if not shared:
        raise DataError(
            f"{', '.join(arm.name for arm in arms)} were scored on no task and language that all of them share",
            fix="score all arms in one language of a task: evaluation.languages, or evaluation.tasks",
        )
    for arm in arms[1:]:
        ours, theirs = arms[0].config["evaluation"], arm.config["evaluation"]
        for name in _SAME_DATA:
            if ours[name] != theirs[name]:
                raise DataError(
                    f"{arms[0].name} and {arm.name} were not scored on the same rows: evaluation.{name} differs",
                    fix="give both the same value",
                )
    restricted = [_restricted(arm, shared, languages, metric) for arm in arms]
    check_same_examples(restricted, data=[name for name, is_other in differs.items() if not is_other])
    left_out = sorted({f"{task}/{language}" for own in cells for task, language, _ in own - shared})
    left_out += sorted({f"retrieval/{language}" for own in spoken for language in own - languages})
    return restricted, [f"compared on what all arms were scored on; left out: {', '.join(left_out)}"]


def _cells_of(arm: ConfirmedArm) -> _Cells:
    examples = arm.examples
    columns = (examples.task.tolist(), examples.language.tolist(), examples.shots.tolist())
    return frozenset(zip(*columns, strict=True))


def _retrieval_of(arm: ConfirmedArm) -> frozenset[str]:
    """Languages in which retrieval was measured."""
    return frozenset(row.language for result in arm.results for row in result.layers)


def _restricted(arm: ConfirmedArm, shared: _Cells, languages: frozenset[str], metric: str) -> ConfirmedArm:
    examples = arm.examples
    columns = zip(examples.task.tolist(), examples.language.tolist(), examples.shots.tolist(), strict=True)
    where = np.array([cell in shared for cell in columns], dtype=bool)
    values = {field.name: getattr(examples, field.name) for field in fields(Examples)}
    columns_kept = {name: column[where] for name, column in values.items() if column is not None}
    results = tuple(_on_cells(result, shared, languages) for result in arm.results)
    objectives = [_objective(result, metric, arm.pivot) for result in results]
    return replace(
        arm,
        examples=Examples(**columns_kept),
        values=arm.values[:, where],
        totals=None if arm.totals is None else arm.totals[:, where],
        results=results,
        records=tuple(
            record.model_copy(update={"objective": value})
            for record, value in zip(arm.records, objectives, strict=True)
        ),
    )


def _on_cells(result: TrialResult, shared: _Cells, languages: frozenset[str]) -> TrialResult:
    """The result with the scores of some cells, on either split, and retrieval in some languages."""
    scores = tuple(
        score
        for score in result.scores
        if (score.task, score.language, score.shots) in shared
        or (score.task == "retrieval" and score.language in languages)
    )
    layers = tuple(row for row in result.layers if row.language in languages)
    return result.model_copy(update={"scores": scores, "layers": layers})


def _objective(result: TrialResult, metric: str, pivot: str) -> float | None:
    try:
        return objective_value(result.scores, metric, pivot=pivot)
    except ConfigError:
        return None
