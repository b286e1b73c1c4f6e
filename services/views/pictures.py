"""A picture as a list of marks in pixels, and its SVG: inside the page, where the page colours it, or as a file.

The same marks are what `figures` draws as PDF, so that a page and a paper show one picture.
"""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]
NUM_COLOURS = 12
"""Colours `c0`, `c1`, ...; further ones begin again."""
COLOURS: dict[str, tuple[str, str]] = {
    "text": ("#1c2330", "#e7eaf0"),
    "soft": ("#5b6472", "#a2abba"),
    "line": ("#d7dce3", "#38414f"),
    "back": ("#ffffff", "#14181f"),
    "panel": ("#f5f7fa", "#1c222c"),
    "good": ("#14733f", "#5fcf91"),
    "bad": ("#a3231b", "#ff8f85"),
    "mark": ("#2557b8", "#85b0ff"),
    "more": ("#2f6fd6", "#4c84e0"),
    "less": ("#d9722b", "#c8692a"),
    "c0": ("#1f5fbf", "#7fb0ff"),
    "c1": ("#c4401c", "#ff9a76"),
    "c2": ("#14804a", "#62d394"),
    "c3": ("#8a3fb5", "#cfa0ff"),
    "c4": ("#a06a00", "#e8bc52"),
    "c5": ("#00808c", "#5fd3de"),
    "c6": ("#b8256e", "#ff8fc4"),
    "c7": ("#5d6470", "#b5bcc8"),
    "c8": ("#667500", "#c3d353"),
    "c9": ("#7a4a2b", "#d0a184"),
    "c10": ("#3f3fc4", "#a5a5ff"),
    "c11": ("#a32020", "#ff8080"),
}
"""Name -> colour on white and on a dark page."""
OWN = "own"
"""Stands in a style for the colour of the mark."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a kind of mark is painted; colours are names of `COLOURS` or `OWN`, lengths are pixels."""

    stroke: str | None = None
    fill: str | None = None
    width: float = 1.0
    dash: str = ""
    opacity: float = 1.0
    size: float = 13.0
    weight: int = 400


STYLES: dict[str, Style] = {
    "axis": Style(stroke="line"),
    "zero": Style(stroke="soft", dash="4 3"),
    "frame": Style(stroke="line", fill="panel"),
    "whisker": Style(stroke=OWN, width=2),
    "range": Style(stroke="text", width=1.5),
    "arrow": Style(stroke=OWN, width=3, opacity=0.45),
    "open": Style(stroke=OWN, fill="back", width=2),
    "full": Style(stroke=OWN, fill=OWN, width=2),
    "speck": Style(fill=OWN, opacity=0.45),
    "dots": Style(stroke=OWN, width=6, opacity=0.75),
    "curve": Style(stroke=OWN, width=1.6, opacity=0.85),
    "was": Style(stroke="soft", fill="back", width=2),
    "waslines": Style(stroke="soft", width=2, dash="5 4"),
    "now": Style(stroke="mark", fill="mark", width=2),
    "nowlines": Style(stroke="mark", width=2),
    "shade": Style(fill=OWN),
    "bar": Style(fill=OWN, opacity=0.8),
    "words": Style(fill="text"),
    "strong": Style(fill="text", weight=600),
    "quiet": Style(fill="soft", size=12),
    "name": Style(fill=OWN, weight=700),
}
"""Kind of mark -> how it is painted."""


@dataclass(frozen=True, slots=True)
class Line:
    """From one point to another."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str
    colour: str = "mark"


@dataclass(frozen=True, slots=True)
class Path:
    """A line through points."""

    points: Sequence[Point]
    kind: str
    colour: str = "mark"
    title: str = ""


@dataclass(frozen=True, slots=True)
class Dots:
    """Many equal dots at whole pixels, as one mark."""

    points: Sequence[Point]
    kind: str
    colour: str = "mark"
    title: str = ""


@dataclass(frozen=True, slots=True)
class Circle:
    """A circle; its title is what a pointer over it, and a screen reader, is told."""

    x: float
    y: float
    radius: float
    kind: str
    colour: str = "mark"
    title: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; `strength` in [0, 1] multiplies the opacity of its style."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    colour: str = "mark"
    strength: float = 1.0
    title: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """Words at a point of their base line; `anchor` is start, middle or end, turned ones are read upwards."""

    x: float
    y: float
    words: str
    kind: str = "words"
    anchor: str = "start"
    colour: str = "mark"
    is_turned: bool = False


Mark: TypeAlias = Line | Path | Dots | Circle | Box | Text


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawing.

    Attributes:
        name: of its file and its element: letters, digits and hyphens.
        title: its heading.
        note: what is seen and how to read it.
        label: what it shows in words, its main numbers included: the text for who cannot see it.
        width, height: pixels.
        marks: from back to front.
    """

    name: str
    title: str
    note: str
    label: str
    width: float
    height: float
    marks: tuple[Mark, ...]


def real_minus(text: str) -> str:
    """`text` with a minus sign before negative numbers, where a hyphen stood."""
    return re.sub(r"(?<![\w.\-])-(?=\d)", "−", text)


def file_name(*parts: str) -> str:
    """Letters, digits and hyphens of the parts: the name of a picture."""
    return re.sub(r"[\W_]+", "-", "-".join(parts).lower()).strip("-")


def arm_colours(arms: Iterable[tuple[str, bool]]) -> dict[str, str]:
    """A colour for each (arm, is base), the same in every picture; a base is grey."""
    names = {name: is_base for name, is_base in arms}
    trained = [name for name, is_base in names.items() if not is_base]
    usable = [number for number in range(NUM_COLOURS) if number != 7]  # c7 is grey
    colours = {name: f"c{usable[index % len(usable)]}" for index, name in enumerate(trained)}
    return {name: colours.get(name, "soft") for name in names}


def style_sheet() -> str:
    """CSS of every kind and colour of mark, light and dark."""
    light, dark = (" ".join(f"--{name}: {pair[side]};" for name, pair in COLOURS.items()) for side in (0, 1))
    # `light` is set for a moment by the page's script, while it saves a picture as a file.
    rules = [
        f":root, :root.light {{ {light} }}",
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}",
    ]
    rules += [f".{name} {{ --own: var(--{name}); }}" for name in COLOURS]
    for kind, style in STYLES.items():
        paint = [f"fill: var(--{style.fill})" if style.fill else "fill: none"]
        paint += [f"stroke: var(--{style.stroke}); stroke-width: {style.width:g}"] if style.stroke else []
        paint += [f"stroke-dasharray: {style.dash}"] if style.dash else []
        paint += [f"font-size: {style.size:g}px; font-weight: {style.weight}"] if kind in _OF_TEXT else []
        paint += [f"opacity: {style.opacity:g}"] if style.opacity != 1 else []
        rules.append(f"svg .{kind} {{ {'; '.join(paint)}; }}")
    rules.append(
        "svg .dots { stroke-linecap: round; } "
        "svg .name { stroke: var(--panel); stroke-width: 4px; paint-order: stroke; }"
    )
    return "\n".join(rules)


_OF_TEXT = ("words", "strong", "quiet", "name")


def to_svg(picture: Picture, *, is_file: bool = False) -> str:
    """The picture as SVG.

    Args:
        picture: what is drawn.
        is_file: whether it stands alone, with light colours of its own, instead of inside the page, whose style
            sheet colours it.
    """
    head = f'<svg viewBox="0 0 {_number(picture.width)} {_number(picture.height)}" width="{_number(picture.width)}"'
    head += f' height="{_number(picture.height)}" role="img" aria-label="{_escape(picture.label)}"'
    if is_file:
        head += ' xmlns="http://www.w3.org/2000/svg" font-family="Helvetica, Arial, sans-serif"'
    else:
        head += f' id="picture-{picture.name}"'
    marks = [_mark(mark, is_file) for mark in picture.marks]
    return "\n".join([f"{head}>", *marks, "</svg>"])


def _mark(mark: Mark, is_file: bool) -> str:
    paint = _attributes(mark) if is_file else f'class="{_classes(mark)}"'
    match mark:
        case Line():
            ends = zip(("x1", "y1", "x2", "y2"), (mark.x1, mark.y1, mark.x2, mark.y2), strict=True)
            return f"<line {paint} {_pairs(ends)}/>"
        case Path():
            points = " ".join(f"{_number(x)},{_number(y)}" for x, y in mark.points)
            return _titled("polyline", f'{paint} points="{points}"', mark.title)
        case Dots():
            path = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in mark.points)
            return _titled("path", f'{paint} d="{path}"', mark.title)
        case Circle():
            place = zip(("cx", "cy", "r"), (mark.x, mark.y, mark.radius), strict=True)
            return _titled("circle", f"{paint} {_pairs(place)}", mark.title)
        case Box():
            place = zip(("x", "y", "width", "height"), (mark.x, mark.y, mark.width, mark.height), strict=True)
            strength = f' fill-opacity="{_number(mark.strength)}"' if mark.strength != 1 else ""
            return _titled("rect", f"{paint} {_pairs(place)}{strength}", mark.title)
        case Text():
            x, y = (-mark.y, mark.x) if mark.is_turned else (mark.x, mark.y)
            turned = ' transform="rotate(-90)"' if mark.is_turned else ""
            anchor = f' text-anchor="{mark.anchor}"' if mark.anchor != "start" else ""
            return f'<text {paint} x="{_number(x)}" y="{_number(y)}"{anchor}{turned}>{_escape(mark.words)}</text>'


def _classes(mark: Mark) -> str:
    style = STYLES[mark.kind]
    return f"{mark.kind} {mark.colour}" if OWN in (style.stroke, style.fill) else mark.kind


def light(name: str | None, own: str) -> str | None:
    """A colour of a style on white; None where there is none."""
    return COLOURS[own if name == OWN else name][0] if name else None


def _attributes(mark: Mark) -> str:
    """The style as attributes, which every program that reads SVG knows."""
    style = STYLES[mark.kind]
    shown = {"fill": light(style.fill, mark.colour) or "none"}
    if style.stroke:
        shown |= {"stroke": light(style.stroke, mark.colour) or "none", "stroke-width": f"{style.width:g}"}
    if style.dash:
        shown["stroke-dasharray"] = style.dash
    if style.opacity != 1:
        shown["opacity"] = f"{style.opacity:g}"
    if isinstance(mark, Dots):
        shown["stroke-linecap"] = "round"
    if isinstance(mark, Text):
        shown |= {"font-size": f"{style.size:g}", "font-weight": f"{style.weight}"}
    return " ".join(f'{name}="{value}"' for name, value in shown.items())


def _titled(tag: str, attributes: str, title: str) -> str:
    return f"<{tag} {attributes}><title>{_escape(title)}</title></{tag}>" if title else f"<{tag} {attributes}/>"


def _pairs(values: Iterable[tuple[str, float]]) -> str:
    return " ".join(f'{name}="{_number(value)}"' for name, value in values)


def _number(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _escape(text: str) -> str:
    return html.escape(text)
