"""The terminal: a console through which no secret and no control character of the data passes; what is too wide folds.

A table that is wider than the terminal becomes several, each with the first column; a sentence goes on in the next
line. No number is ever cut.
"""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from afp_ray.redaction import redact
from services.output import plain, say
from services.views.grid import Grid


class PlainConsole(Console):
    """Shows control characters of what is rendered; styles and cursor movements are its own."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """The segments of a renderable, nested ones included."""
        if isinstance(renderable, Text):  # before it is wrapped: half a secret shows no form
            renderable = renderable.copy()
            renderable.plain = redact(renderable.plain)
        elif isinstance(renderable, str):
            renderable = redact(renderable)
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else plain(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)


UNFOLDED = 100_000
"""Columns of what is no terminal: a file and a pipe have lines of any length."""
_PIECE = re.compile(r"\s*(?:[(]*\[[^\[\]]{1,24}\]\S*|[(]*p [=<] \S+|[-+]?[\d.]+ %\S*|\S+)")
"""A word with the space before it; an interval, a p-value and a share are one each."""
_NUMBER = re.compile(r"[-+−±<>=≤≥~\d.,%\[\]()†‡*:/ ]*|yes|no")
SHORT = 12
"""Terminal columns of a text that is never broken, such as a layer and its pooling."""
_EDGES = 3
"""Columns that a table takes for each of its own, beside what stands in it."""


def show_grid(grid: Grid, title: str, terminal: Console | None = None) -> None:
    """Print a table, folded where the terminal is too narrow; nothing in it is read as markup."""
    terminal = terminal or console()
    terminal.print(Text(title, style="bold"))
    for table in folded_grid(grid, terminal.width):
        terminal.print(table)


def folded_grid(grid: Grid, width: int) -> list[Table]:
    """A table as one of at most `width` columns, or as several, each with the first column of the whole."""
    # Before anything is measured or broken: half a secret shows no form.
    grid = replace(grid, header=[*map(plain, grid.header)], rows=[[*map(plain, row)] for row in grid.rows])
    needed = [_least_width(grid, column, width) for column in range(len(grid.header))]
    blocks: list[list[int]] = [[]]
    for group in grid.groups():
        block = blocks[-1]
        if block and _total(needed, [0, *block, *group]) > width:
            blocks.append([])
        for column in group:  # one after another, should they not fit even alone
            if blocks[-1] and _total(needed, [0, *blocks[-1], column]) > width:
                blocks.append([])
            blocks[-1].append(column)
    return [_table(grid, [0, *block], needed, width) for block in blocks]


def _total(widths: Sequence[int], columns: Sequence[int]) -> int:
    return sum(widths[column] + _EDGES for column in columns) + 1


def _least_width(grid: Grid, column: int, width: int) -> int:
    """Terminal columns below which a number would be cut; words go to the next line, and long ones break in the end."""
    cells = [row[column] for row in grid.rows]
    widths = [cell_len(word) for word in grid.header[column].split()]
    for cell in cells:
        is_whole = cell_len(cell) <= SHORT or _NUMBER.fullmatch(cell)
        widths += [cell_len(cell)] if is_whole else [cell_len(word) for word in cell.split()]
    # A name may take up to half of the terminal beside the numbers.
    return min(max(widths, default=1), max(8, width // 2 - _EDGES))


def _table(grid: Grid, columns: Sequence[int], needed: Sequence[int], width: int) -> Table:
    """Some columns as a table for rich, each as wide as its text where there is room."""
    widths, room = {column: needed[column] for column in columns}, width - _total(needed, columns)
    for column in columns:
        whole = max(cell_len(text) for text in (grid.header[column], *(row[column] for row in grid.rows)))
        more = max(0, min(room, whole - widths[column]))
        widths[column], room = widths[column] + more, room - more
    table = Table()
    for column in columns:
        justify: Any = "right" if column else "left"
        table.add_column(Text(grid.header[column]), justify=justify, width=widths[column], overflow="fold")
    for row, marks in zip(grid.rows, grid.is_best, strict=True):
        table.add_row(*(Text(row[column], style="bold" if marks[column] else "") for column in columns))
    return table


def say_folded(text: str) -> None:
    """A line of words and numbers; on a terminal it goes on in the next line, between words and further in."""
    for line in folded_text(plain(text), console().width):
        say(line)


def folded_text(text: str, width: int, indent: int = 2) -> list[str]:
    """Lines of at most `width` columns, unless a single word is wider; those after the first stand further in."""
    if cell_len(text) <= width:
        return [text]
    margin = " " * min(len(text) - len(text.lstrip()) + indent, width // 3)
    lines, line = [], ""
    for piece in _PIECE.findall(text):
        if line.strip() and cell_len(line) + cell_len(piece) > width:
            lines.append(line)
            line = margin + piece.lstrip()
        else:
            line += piece
    return [*lines, line]


def console(*, stderr: bool = False) -> Console:
    """A terminal that heeds NO_COLOR and COLUMNS; what is piped is plain and never folded."""
    stream = sys.stderr if stderr else sys.stdout
    has_width = stream.isatty() or "COLUMNS" in os.environ
    return PlainConsole(
        file=stream,
        width=None if has_width else UNFOLDED,
        soft_wrap=not has_width,
        highlight=False,
        markup=False,
        emoji=False,
    )
