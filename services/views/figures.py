"""The pictures of a report as files for a paper: SVG of our own, and PDF by matplotlib from the same marks."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Circle as Disc
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke

from afp_ray.errors import StorageError
from afp_ray.redaction import redact
from afp_ray.store import write_atomic
from services.views.pictures import (
    COLOURS,
    STYLES,
    Box,
    Circle,
    Dots,
    Line,
    Mark,
    Picture,
    Text,
    light,
    to_svg,
)
from services.views.pictures import (
    Path as Polyline,
)

_POINT = 0.75
"""Points of a pixel: 96 pixels are an inch."""
_FONT, _FONT_SHARE = "DejaVu Sans", 0.9
"""The font that comes with matplotlib, and how large it is drawn: its letters are wider than those of a page."""


def write_figures(pictures: Iterable[Picture], folder: Path) -> list[Path]:
    """Write each picture as SVG and as PDF, on white; files of the same names are replaced.

    Args:
        pictures: what is drawn; where two have one name, the later one gets a number.
        folder: made where it is not there.
    Returns: the files.
    Raises: StorageError when they cannot be written.
    """
    files, names = [], set()
    for picture in pictures:
        name, number = picture.name, 2
        while name in names:
            name, number = f"{picture.name}-{number}", number + 1
        names.add(name)
        svg, pdf = folder / f"{name}.svg", folder / f"{name}.pdf"
        write_atomic(svg, redact(to_svg(picture, is_file=True)))
        _write_pdf(picture, pdf)
        files += [svg, pdf]
    return files


def _write_pdf(picture: Picture, file: Path) -> None:
    with matplotlib.rc_context({"pdf.fonttype": 42, "font.family": _FONT}):  # TrueType, which journals ask for
        figure = Figure(figsize=(picture.width * _POINT / 72, picture.height * _POINT / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, picture.width)
        axes.set_ylim(picture.height, 0)
        axes.set_axis_off()
        for order, mark in enumerate(picture.marks):
            _draw(axes, mark, order)
        try:
            figure.savefig(file, format="pdf", metadata={"Title": picture.title, "CreationDate": None})
        except OSError as error:
            raise StorageError(f"cannot write {file}: {error}") from error


def _draw(axes: Axes, mark: Mark, order: int) -> None:
    style = STYLES[mark.kind]
    stroke, fill = light(style.stroke, mark.colour), light(style.fill, mark.colour)
    width = style.width * _POINT
    dash = tuple(float(part) for part in style.dash.split()) or None
    line: dict[str, Any] = {
        "color": stroke,
        "linewidth": width,
        "linestyle": (0, tuple(part / style.width for part in dash)) if dash else "-",
        "alpha": style.opacity,
        "zorder": order,
    }
    match mark:
        case Line():
            axes.add_line(Line2D([mark.x1, mark.x2], [mark.y1, mark.y2], solid_capstyle="butt", **line))
        case Polyline():
            axes.add_line(Line2D([x for x, _ in mark.points], [y for _, y in mark.points], **line))
        case Dots():
            points: dict[str, Any] = {
                "linestyle": "",
                "marker": "o",
                "markersize": width,
                "markeredgewidth": 0,
                "color": stroke,
            }
            axes.add_line(
                Line2D(
                    [x for x, _ in mark.points],
                    [y for _, y in mark.points],
                    alpha=style.opacity,
                    zorder=order,
                    **points,
                )
            )
        case Circle():
            _add(axes, Disc((mark.x, mark.y), mark.radius), stroke, fill, width, style.opacity, order)
        case Box():
            shape = Rectangle((mark.x, mark.y), mark.width, mark.height)
            _add(axes, shape, stroke, fill, width, style.opacity * mark.strength, order)
        case Text():
            _write(axes, mark, fill or "black", order)


def _add(
    axes: Axes, shape: Patch, stroke: str | None, fill: str | None, width: float, opacity: float, order: int
) -> None:
    shape.set(edgecolor=stroke or "none", facecolor=fill or "none", linewidth=width if stroke else 0)
    shape.set(alpha=opacity, zorder=order)
    axes.add_patch(shape)


def _write(axes: Axes, mark: Text, colour: str, order: int) -> None:
    style = STYLES[mark.kind]
    align = {"start": "left", "middle": "center", "end": "right"}[mark.anchor]
    text = axes.text(
        mark.x,
        mark.y,
        _drawable(redact(mark.words)),
        color=colour,
        fontsize=style.size * _POINT * _FONT_SHARE,
        fontweight="bold" if style.weight >= 600 else "normal",
        horizontalalignment=align,
        verticalalignment="center" if mark.is_turned else "baseline",
        rotation=90 if mark.is_turned else 0,
        parse_math=False,
        zorder=order,
    )
    if mark.kind == "name":
        text.set_path_effects([Stroke(linewidth=3 * _POINT, foreground=COLOURS["panel"][0]), Normal()])


def _drawable(words: str) -> str:
    """The words with a question mark for each letter that the font lacks, where there would be an empty box."""
    return "".join(letter if ord(letter) in _letters() else "?" for letter in words)


@cache
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family=_FONT))).get_charmap())
