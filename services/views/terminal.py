"""The terminal: a console through which no secret and no control character of the data passes, and its tables."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from afp_ray.redaction import redact
from services.output import plain
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


MAX_NAME = 40
"""Characters of a first column that is never folded in the terminal."""


def to_terminal(grid: Grid, title: str) -> Table:
    """A table for rich; nothing in it is read as markup."""
    table = Table(title=title, title_justify="left", title_style="bold")
    has_names = max((len(row[0]) for row in grid.rows), default=0) <= MAX_NAME  # sentences may be folded
    for index, name in enumerate(grid.header):
        table.add_column(Text(name), justify="right" if index else "left", no_wrap=index == 0 and has_names)
    for row, marks in zip(grid.rows, grid.is_best, strict=True):
        table.add_row(*(Text(cell, style="bold" if mark else "") for cell, mark in zip(row, marks, strict=True)))
    return table


def console(*, stderr: bool = False) -> Console:
    """A terminal that heeds NO_COLOR; piped output is plain and never cut at 80 columns."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 160
    return PlainConsole(
        file=stream, width=width, soft_wrap=not stream.isatty(), highlight=False, markup=False, emoji=False
    )
