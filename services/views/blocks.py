"""Tables that a page can hold: one task's scores by arm and language, and wide tables folded into parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from afp_ray.records import Comparison, TableCell, TrialExamples
from services.views.grid import Grid, mark, over_seeds, percent, plain_grid
from services.views.pictures import file_name

_CHAR, _PADDING, _LONGEST = 7.6, 20.0, 34
"""Pixels of a digit and of a cell's padding; longer texts are broken into lines."""
PAGE = 700.0
"""Pixels that a table has on a narrow screen and on paper."""


@dataclass(frozen=True, slots=True)
class Block:
    """One table with its name, in parts that fit a page; every part begins with the first column."""

    name: str
    parts: list[Grid]

    @property
    def label(self) -> str:
        """What LaTeX refers to the table by."""
        return f"tab:{file_name(self.name)}"


def block(name: str, grid: Grid) -> Block:
    """A table that is folded where it is wider than a page; columns that are joined stay beside each other.

    Args:
        name: what it is called when it is copied.
        grid: the whole table.
    """
    widths = [
        _CHAR * min(_LONGEST, max([_longest_word(head), *(len(row[i]) for row in grid.rows)])) + _PADDING
        for i, head in enumerate(grid.header)
    ]
    if sum(widths) <= PAGE:
        return Block(name, [grid])
    parts: list[list[int]] = []
    used = PAGE
    for group in grid.groups():
        needed = sum(widths[column] for column in group)
        if used + needed > PAGE:
            parts.append([0])
            used = widths[0]
        parts[-1] += group
        used += needed
    return Block(name, [_columns(grid, part) for part in parts])


def text_columns(grid: Grid) -> list[bool]:
    """Whether each column holds sentences, which are read from the left and broken into lines."""
    return [any(len(row[i]) > _LONGEST for row in grid.rows) for i in range(len(grid.header))]


def _longest_word(text: str) -> int:
    return max((len(word) for word in text.split()), default=0)


def _columns(grid: Grid, columns: Sequence[int]) -> Grid:
    return Grid(
        [grid.header[i] for i in columns],
        [[row[i] for i in columns] for row in grid.rows],
        [[marks[i] for i in columns] for marks in grid.is_best],
    )


def tasks_of(comparison: Comparison) -> list[str]:
    """The tasks of a comparison, in the order of its cells."""
    return list(dict.fromkeys(cell.task for arm in comparison.arms for cell in arm.cells))


def task_grid(comparison: Comparison, task: str, *, has_std: bool = False) -> Grid:
    """The scores of one task: arms down, languages (and shots where there are several) across, with marks.

    `has_std` sets the standard deviation over seeds behind each mean.
    """
    keys = sorted({(c.language, c.shots or 0) for arm in comparison.arms for c in arm.cells if c.task == task})
    several = len({shots for _, shots in keys}) > 1
    header = ["arm", *(f"{language}/{shots}" if several else language for language, shots in keys)]
    of_arms = [(arm, {(c.language, c.shots or 0): c for c in arm.cells if c.task == task}) for arm in comparison.arms]
    best = [max((cells[key].mean for _, cells in of_arms if key in cells), default=None) for key in keys]
    rows, marks = [], []
    if comparison.majority is not None:
        floor = {cell.language: cell.mean for cell in comparison.majority.cells if cell.task == task}
        if floor:
            rows.append(["majority", *(percent(floor.get(language)) for language, _ in keys)])
            marks.append([False] * len(header))
    for arm, cells in of_arms:
        rows.append([arm.arm, *(_score(cells.get(key), has_std) for key in keys)])
        marks.append([False, *(key in cells and cells[key].mean == top for key, top in zip(keys, best, strict=True))])
    return Grid(header, rows, marks)


def _score(cell: TableCell | None, has_std: bool) -> str:
    if cell is None:
        return "-"
    if has_std:
        return percent(cell.mean) + mark(cell.vs_base) + over_seeds(cell.by_seed)
    spread = "" if cell.demo_deviation is None else f" ±{100 * cell.demo_deviation:.1f}"
    return percent(cell.mean) + mark(cell.vs_base) + spread


def changed_grid(flipped: TrialExamples) -> Grid:
    """How many answers of a trial turned right (+) and wrong (-), by task and language."""
    cells = {(cell.task, cell.language): cell for cell in flipped.cells}
    tasks, languages = (list(dict.fromkeys(key[side] for key in cells)) for side in (0, 1))
    rows = [
        [task, *(f"+{cell.gained} -{cell.lost}" if (cell := cells.get((task, code))) else "-" for code in languages)]
        for task in tasks
    ]
    return plain_grid(["task", *languages], rows)


def off_target_grid(rates: Mapping[str, Mapping[str, float]]) -> Grid:
    """Share of generated answers in the asked language, in %: arms down, languages across."""
    languages = list(dict.fromkeys(language for own in rates.values() for language in own))
    rows = [[arm, *(percent(own.get(language)) for language in languages)] for arm, own in rates.items()]
    return plain_grid(["arm", *languages], rows)
