"""A console of `rich` through which no control character of the data reaches the terminal."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

from services.output import plain


class PlainConsole(Console):
    """Shows control characters of what is rendered; styles and cursor movements are its own."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """The segments of a renderable, nested ones included."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else plain(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)
