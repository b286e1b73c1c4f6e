"""Drawings of sentence representations: the same axes before and after, and every measure by layer.

Coordinates are pixels of an SVG. Colours are classes of the page, so that they follow its light and dark scheme.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afp_ray.comparison.representation import MEASURES, Change, Drawing
from afp_ray.languages import find_language
from services.views.grid import Grid, percent, plain, plain_grid
from services.views.pictures import (
    NUM_COLOURS,
    Box,
    Circle,
    Dots,
    Line,
    Mark,
    Path,
    Picture,
    Text,
    file_name,
    real_minus,
)

_SIDE, _GAP, _LEFT, _TOP = 340.0, 26.0, 34.0, 66.0
_LEGEND_WIDTH, _LEGEND_HEIGHT = 100.0, 20.0
_LABEL_HEIGHT, _LABEL_STEPS = 15.0, 4
_CHART_WIDTH, _CHART_HEIGHT, _CHARTS_PER_ROW = 250.0, 150.0, 3
TITLES = {
    "retrieval_from_pivot": "retrieval@1 from the pivot, %",
    "retrieval_to_pivot": "retrieval@1 to the pivot, %",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "anisotropy": "anisotropy",
    "language_probe": "language probe, %",
}
_IN_PERCENT = ("retrieval_from_pivot", "retrieval_to_pivot", "language_probe")


@dataclass(frozen=True, slots=True)
class Cloud:
    """The sentences of one language in one panel.

    Attributes:
        language, colour: its code and class.
        points: pixels of each sentence.
        label: where its code stands, near the middle of its sentences; None where there is no room for it.
    """

    language: str
    colour: str
    points: list[tuple[float, float]]
    label: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Panel:
    """One frame of a scatter plot."""

    title: str
    x: float
    clouds: list[Cloud]


@dataclass(frozen=True, slots=True)
class Scatter:
    """Two frames to one scale."""

    panels: list[Panel]
    legend: list[tuple[float, float, str, str]]
    """x, y, colour and words of each language."""
    axes: tuple[str, str]
    top: float
    side: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """One measure by layer.

    Attributes:
        title, x, y: its name, and its upper left corner.
        before, after: points of the two lines; "" where there are none.
        ticks: place and words of the lowest and highest value.
        layers: place and number of layers below.
        chance: height of the line of chance.
        marks: x, y, class and words of every point.
        radius: of the points.
    """

    title: str
    x: float
    y: float
    before: str
    after: str
    ticks: list[tuple[float, str]]
    layers: list[tuple[float, str]]
    chance: float | None
    marks: list[tuple[float, float, str, str]]
    radius: float


@dataclass(frozen=True, slots=True)
class Figure:
    """Everything that is drawn of one arm."""

    arm: str
    base: str
    layer: str
    scatter: Scatter | None
    charts: list[Chart]
    charts_width: float
    charts_height: float
    grid: Grid
    is_open: bool

    @property
    def projection(self) -> Picture | None:
        """The two frames as a picture; None where no states were kept."""
        return scatter_picture(self) if self.scatter else None

    @property
    def layers(self) -> Picture:
        """Every measure by layer, as a picture."""
        return charts_picture(self)


def figures(changes: Sequence[Change], open_arm: str | None) -> list[Figure]:
    """One figure per arm; that of `open_arm`, else the first one, is open, and first."""
    names = [change.arm for change in changes]
    open_arm = open_arm if open_arm in names else names[0] if names else None
    return [
        Figure(
            arm=change.arm,
            base=change.base,
            layer=f"layer {change.layer}, {change.pooling} pooling",
            scatter=_scatter(change) if change.drawing else None,
            charts=_charts(change),
            charts_width=_CHARTS_PER_ROW * _CHART_WIDTH,
            charts_height=2 * _CHART_HEIGHT,
            grid=_layer_grid(change),
            is_open=change.arm == open_arm,
        )
        for change in sorted(changes, key=lambda change: change.arm != open_arm)
    ]


def scatter_picture(figure: Figure) -> Picture:
    """Sentences before and after, in the same two axes."""
    plot = figure.scatter
    assert plot is not None
    marks: list[Mark] = []
    for x, y, colour, name in plot.legend:
        marks += [Dots([(x, y - 4)], "dots", colour), Text(x + 10, y, name)]
    bottom = plot.top + plot.side
    for panel in plot.panels:
        middle = panel.x + plot.side / 2
        marks.append(Box(panel.x, plot.top, plot.side, plot.side, "frame"))
        marks.append(Text(middle, plot.top - 10, panel.title, "strong", "middle"))
        marks += [Dots(cloud.points, "dots", cloud.colour, cloud.language) for cloud in panel.clouds]
        labels = [(cloud, cloud.label) for cloud in panel.clouds if cloud.label]
        marks += [Text(at[0], at[1] + 5, cloud.language, "name", "middle", cloud.colour) for cloud, at in labels]
        marks.append(Text(middle, bottom + 18, plot.axes[0], "quiet", "middle"))
    marks.append(Text(20, plot.top + plot.side / 2, plot.axes[1], "quiet", "middle", is_turned=True))
    name = file_name("projection", figure.arm)
    note = (
        f"Held-out sentences at {figure.layer}, each a dot, on the two principal axes of {figure.base}: the axes stay, "
        "the sentences move. First seed."
    )
    label = f"Held-out sentences in two dimensions, {figure.base} on the left and {figure.arm} on the right"
    return Picture(name, f"{figure.base} to {figure.arm}", note, label, plot.width, plot.height, tuple(marks))


def charts_picture(figure: Figure) -> Picture:
    """Every measure by layer: dashed before, solid after."""
    marks: list[Mark] = []
    for chart in figure.charts:
        left, right = chart.x + 44, chart.x + 224
        marks.append(Text(left, chart.y + 14, chart.title, "strong"))
        for y, words in chart.ticks:
            marks += [Line(left, y, right, y, "axis"), Text(left - 6, y + 4, real_minus(words), "quiet", "end")]
        marks += [Text(x, chart.y + 134, words, "quiet", "middle") for x, words in chart.layers]
        if chart.chance is not None:
            marks.append(Line(left, chart.chance, right, chart.chance, "zero"))
            marks.append(Text(right, chart.chance - 4, "chance", "quiet", "end"))
        for line, kind in ((chart.before, "waslines"), (chart.after, "nowlines")):
            points = [(float(x), float(y)) for x, y in (point.split(",") for point in line.split())]
            marks += [Path(points, kind)] if points else []
        marks += [Circle(x, y, chart.radius, kind, title=real_minus(words)) for x, y, kind, words in chart.marks]
    note = (
        "By layer (0 is the embedding output), at the same pooling, mean over languages and seeds: dashed is "
        f"{figure.base}, solid is {figure.arm}."
    )
    label = f"Every measure by layer, {figure.base} and {figure.arm}; the same numbers stand in the table below"
    name = file_name("layers", figure.arm)
    return Picture(name, "By layer", note, label, figure.charts_width, figure.charts_height, tuple(marks))


def _scatter(change: Change) -> Scatter:
    drawing = change.drawing
    assert drawing is not None
    languages = list(dict.fromkeys([*drawing.before, *drawing.after]))
    colours = {language: f"c{index % NUM_COLOURS}" for index, language in enumerate(languages)}
    per_row = max(1, int((2 * _SIDE + _GAP) // _LEGEND_WIDTH))
    rows = (len(languages) - 1) // per_row + 1
    top = _TOP + (rows - 1) * _LEGEND_HEIGHT
    legend = [
        (
            _LEFT + 8 + (index % per_row) * _LEGEND_WIDTH,
            14 + (index // per_row) * _LEGEND_HEIGHT,
            colours[language],
            row.name if (row := find_language(language)) else language,
        )
        for index, language in enumerate(languages)
    ]
    middle, reach = _frame(drawing)
    panels = []
    for number, (title, points) in enumerate(
        ((f"before: {change.base}", drawing.before), (f"after: {change.arm}", drawing.after))
    ):
        left = _LEFT + number * (_SIDE + _GAP)
        corner = (left + _SIDE / 2, top + _SIDE / 2)
        panels.append(Panel(title, left, _clouds(points, colours, corner, middle, reach)))
    axes = tuple(
        f"{name} axis of {change.base}, {100 * share:.0f} % of its variance"
        for name, share in zip(("first", "second"), drawing.shares, strict=True)
    )
    width = _LEFT + 2 * _SIDE + _GAP + 6
    return Scatter(panels, legend, (axes[0], axes[1]), top, _SIDE, width, top + _SIDE + 30)


def _frame(drawing: Drawing) -> tuple[tuple[float, float], float]:
    """Middle and half width of the square that holds every sentence of both panels."""
    corners = []
    for axis in (0, 1):
        values = [
            float(value)
            for side in (drawing.before, drawing.after)
            for points in side.values()
            for value in points[:, axis]
        ]
        corners.append((min(values), max(values)))
    (left, right), (low, high) = corners
    reach = max(right - left, high - low, 1e-9) / 2 * 1.06
    return ((left + right) / 2, (low + high) / 2), reach


def _clouds(
    points: Mapping[str, Any],
    colours: Mapping[str, str],
    corner: tuple[float, float],
    middle: tuple[float, float],
    reach: float,
) -> list[Cloud]:
    scale = _SIDE / 2 / reach
    clouds: list[Cloud] = []
    taken: list[tuple[float, float]] = []
    for language, sentences in points.items():
        x = corner[0] + (sentences[:, 0] - middle[0]) * scale
        y = corner[1] - (sentences[:, 1] - middle[1]) * scale
        spots = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
        label = _free_place(float(x.mean()), float(y.mean()), taken)
        taken += [label] if label else []
        clouds.append(Cloud(language, colours[language], spots, label))
    return clouds


def _free_place(x: float, y: float, taken: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """The nearest height at which a label does not cover another one; None where that is far off."""
    for step in range(2 * _LABEL_STEPS + 1):
        height = y + (step + 1) // 2 * _LABEL_HEIGHT * (1 if step % 2 else -1)
        if all(abs(x - other) > 26 or abs(height - own) >= _LABEL_HEIGHT - 0.2 for other, own in taken):
            return round(x, 1), round(height, 1)
    return None


def _charts(change: Change) -> list[Chart]:
    charts = []
    for index, name in enumerate(MEASURES):
        x, y = index % _CHARTS_PER_ROW * _CHART_WIDTH, index // _CHARTS_PER_ROW * _CHART_HEIGHT
        charts.append(_chart(change, name, x, y))
    return charts


def _chart(change: Change, name: str, x: float, y: float) -> Chart:
    factor = 100.0 if name in _IN_PERCENT else 1.0
    by_layer = change.by_layer[name]
    sides = [
        {layer: factor * value for layer, pair in by_layer.items() if (value := pair[side]) is not None}
        for side in (0, 1)
    ]
    chance = factor * change.chance if name == "language_probe" and change.chance is not None else None
    values = [value for side in sides for value in side.values()] + ([] if chance is None else [chance])
    if factor == 100.0:
        values += [0.0, 100.0]
    low, high = min(values, default=0.0), max(values, default=1.0)
    last = max(max(by_layer, default=0), 1)
    left, width, top, height = x + 44, _CHART_WIDTH - 70, y + 28, _CHART_HEIGHT - 62

    def pixel(layer: int, value: float) -> tuple[float, float]:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(left + width * layer / last, 1), round(top + height * (1 - share), 1)

    lines, marks = [], []
    for side, words in zip(sides, ("before", "after"), strict=True):
        points = [(pixel(layer, value), layer, value) for layer, value in side.items()]
        lines.append(" ".join(f"{a},{b}" for (a, b), _, _ in points))
        marks += [
            (a, b, "was" if words == "before" else "now", f"{words}, layer {layer}: {_number(value, factor)}")
            for (a, b), layer, value in points
        ]
    step = max(1, -(-last // 6))
    layers = [(pixel(layer, low)[0], str(layer)) for layer in by_layer if layer % step == 0]
    ticks = [(pixel(0, value)[1], _number(value, factor)) for value in dict.fromkeys((low, high))]
    line = None if chance is None else pixel(0, chance)[1]
    radius = 3.5 if last <= 12 else 2.0
    return Chart(TITLES[name], x, y, lines[0], lines[1], ticks, layers, line, marks, radius)


def _number(value: float, factor: float) -> str:
    text = f"{value:.0f}" if factor == 100.0 else f"{value:.2f}"
    return text.lstrip("-") if not text.strip("-0.") else text


def _layer_grid(change: Change) -> Grid:
    """Every measure of every layer, before and after."""
    header = ["layer"]
    for name in MEASURES:
        header += [TITLES[name].removesuffix(", %"), "before"]
    layers = sorted({layer for values in change.by_layer.values() for layer in values})
    rows = []
    for layer in layers:
        row = [f"{layer}"]
        for name in MEASURES:
            before, after = change.by_layer[name].get(layer, (None, None))
            row += [_shown(after, name), _shown(before, name)]
        rows.append(row)
    return plain_grid(header, rows)


def _shown(value: float | None, name: str) -> str:
    if name in _IN_PERCENT:
        return percent(value)
    return "-" if value is None else plain(value)
