"""The table of text that every form of a report is rendered from, and how numbers read in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afp_ray.records import Difference, signed_points

if TYPE_CHECKING:
    from rich.table import Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
}


FAMILY = "intervals at the level at which Holm tests each (95 % where there is one): 0 is inside just where p >= 0.05"


MAX_NAME = 40
"""Characters of a first column that is never folded in the terminal."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of text: the column names, the rows, and the marks of the best value of each column."""

    header: list[str]
    rows: list[list[str]]
    is_best: list[list[bool]]


def plain_grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    """A table in which no value is the best."""
    return Grid(list(header), [list(row) for row in rows], [[False] * len(header) for _ in rows])


def to_terminal(grid: Grid, title: str) -> "Table":
    """A table for rich; nothing in it is read as markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold")
    has_names = max((len(row[0]) for row in grid.rows), default=0) <= MAX_NAME  # sentences may be folded
    for index, name in enumerate(grid.header):
        table.add_column(Text(name), justify="right" if index else "left", no_wrap=index == 0 and has_names)
    for row, marks in zip(grid.rows, grid.is_best, strict=True):
        table.add_row(*(Text(cell, style="bold" if mark else "") for cell, mark in zip(row, marks, strict=True)))
    return table


def grid_markdown(grid: Grid) -> str:
    """The table as Markdown; the best value of a column is bold."""
    lines = ["| " + " | ".join(map(escape_markdown, grid.header)) + " |", "|" + " --- |" * len(grid.header)]
    for row, marks in zip(grid.rows, grid.is_best, strict=True):
        cells = [
            f"**{escape_markdown(c)}**" if mark else escape_markdown(c) for c, mark in zip(row, marks, strict=True)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def grid_latex(grid: Grid, caption: str) -> str:
    """The table as a LaTeX `table` (booktabs); the best value of a column is bold."""
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}", r"\toprule"]
    lines += [" & ".join(map(escape_latex, grid.header)) + r" \\", r"\midrule"]
    for row, marks in zip(grid.rows, grid.is_best, strict=True):
        cells = [
            rf"\textbf{{{escape_latex(cell)}}}" if mark else escape_latex(cell)
            for cell, mark in zip(row, marks, strict=True)
        ]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{escape_latex(caption)}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """`text` with everything that LaTeX reads as a command made harmless."""
    return "".join(_LATEX.get(char, char) for char in text if char.isprintable())


def escape_markdown(text: str) -> str:
    """`text` with everything that Markdown reads as a mark made harmless."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)


def percent(value: float | None) -> str:
    """A fraction in percent, "-" for none."""
    return "-" if value is None else f"{100 * value:.1f}"


def plain(value: float) -> str:
    """A number that is no share, with three digits; nothing has a sign where it rounds to nothing."""
    text = f"{value:.3f}"
    return text.lstrip("-") if not text.strip("-0.") else text


def interval(ends: tuple[float, float] | None) -> str:
    """The interval of a difference in points, "-" for none."""
    return f"[{signed_points(ends[0])}, {signed_points(ends[1])}]" if ends else "-"


def with_interval(delta: Difference) -> str:
    """A difference in points with the interval that agrees with its p-value."""
    shown = signed_points(delta.delta)
    return f"{shown} {interval(delta.shown)}" if delta.shown else shown


RAW = ("alignment", "uniformity")
"""Metrics that are no shares."""


def scored(value: float, metric: str) -> str:
    """A score of a metric without its unit: in percent, or as it is where it is no share."""
    return plain(value) if metric in RAW else percent(value)


def mark(delta: Difference | None) -> str:
    """The mark of a significant difference."""
    return mark_of(None if delta is None else delta.p if delta.p_holm is None else delta.p_holm)


def mark_of(p: float | None) -> str:
    """The mark of a p-value; "" where nothing was tested."""
    return "" if p is None or p >= 0.05 else "‡" if p < 0.01 else "†"
