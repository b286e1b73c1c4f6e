"""What a model scores that always gives the most frequent right choice: the floor that a score is read against."""

from collections.abc import Sequence

import numpy as np

from afp_ray.comparison.confirmed import ConfirmedArm
from afp_ray.records import ArmRow, MajorityRow, TableCell


def majority(arms: Sequence[ConfirmedArm]) -> MajorityRow | None:
    """The row of the majority baseline, from the right choices of the examples that every arm answered.

    The most frequent choice is taken for each task and language by itself.

    Returns: None where no task has choices; its mean is null where some task has none.
    """
    first = arms[0]
    examples = first.examples
    if examples.gold is None:
        return None
    cells: list[TableCell] = []
    is_whole = True
    for task, language in sorted({(str(t), str(c)) for t, c in zip(examples.task, examples.language, strict=True)}):
        where = (examples.task == task) & (examples.language == language)
        gold = examples.gold[where].astype(int)
        if (gold < 0).any():
            is_whole = False
            continue
        share = float(np.bincount(gold).max() / len(gold))
        cells.append(TableCell(task=task, language=language, mean=share))
    if not cells:
        return None
    pivot = first.pivot
    return MajorityRow(
        cells=tuple(cells),
        mean=_mean([cell for cell in cells if cell.language != pivot]) if is_whole else None,
        pivot_mean=_mean([cell for cell in cells if cell.language == pivot]) if is_whole else None,
    )


def _mean(cells: Sequence[TableCell]) -> float | None:
    """Mean over tasks of the mean over languages."""
    tasks = [[cell.mean for cell in cells if cell.task == task] for task in {cell.task for cell in cells}]
    return float(np.mean([np.mean(values) for values in tasks])) if tasks else None


def majority_warnings(row: MajorityRow | None, arms: Sequence[ArmRow], pivot: str) -> list[str]:
    """A sentence where every arm scores below the majority: on the whole, and by task."""
    if row is None:
        return []
    warnings = []
    means = [(arm.mean.mean, arm.arm) for arm in arms if arm.mean is not None]
    if row.mean is not None and means and max(means)[0] < row.mean:
        warnings.append(_all_below("every arm", max(means), row.mean))
    for task in dict.fromkeys(cell.task for cell in row.cells):
        floor = _of_task(row.cells, task, pivot)
        own = [(_of_task(arm.cells, task, pivot), arm.arm) for arm in arms]
        if max(own)[0] < floor:
            warnings.append(_all_below(f"{task}: every arm", max(own), floor))
    return warnings


def _all_below(who: str, best: tuple[float, str], floor: float) -> str:
    return (
        f"{who} scores below the majority ({100 * floor:.1f} %): the best, {best[1]}, has {100 * best[0]:.1f} %, so "
        f"the model does not do this, and differences between arms say little"
    )


def _of_task(cells: Sequence[TableCell], task: str, pivot: str) -> float:
    """Mean over languages, of which the pivot counts where there is no other, of the mean over shots."""
    own = [cell for cell in cells if cell.task == task]
    own = [cell for cell in own if cell.language != pivot] or own
    by_language: dict[str, list[float]] = {}
    for cell in own:
        by_language.setdefault(cell.language, []).append(cell.mean)
    return float(np.mean([np.mean(values) for values in by_language.values()]))
