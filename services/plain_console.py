"""A console of `rich` through which no secret and no control character of the data reaches the terminal."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from afp_ray.redaction import redact
from services.output import plain


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
