"""What a model scores that always gives the most frequent right choice: the floor that a score is read against."""

from collections.abc import Sequence

import numpy as np

from afp_ray.comparison.confirmed import ConfirmedArm
from afp_ray.findings import MajorityRow, TableCell


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
