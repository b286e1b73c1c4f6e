"""Curves of trainings: both losses, the norm of the gradient, and the angle between the gradients of the two terms."""

import math
from collections.abc import Mapping, Sequence

from services.service_schemas import TrainingCurve
from services.views.axes import Scale, around, frame, short
from services.views.pictures import Circle, Line, Mark, Path, Picture, Point, Text
from services.views.score_pictures import WIDTH

PANELS = {
    "contrastive_loss": ("Contrastive loss", "nats"),
    "instruction_loss": ("Instruction loss", "nats per token"),
    "gradient_norm": ("Norm of the gradient", "before it is clipped"),
    "gradient_cosine": (
        "Do the two terms pull the same way?",
        "cosine between the gradients of the contrastive and the instruction term; below 0 they oppose each other",
    ),
}
"""Metric of a curve -> title and note."""
_MAX_POINTS, _MIN_POINTS = 8000, 20
"""Of one picture, and of one training in it."""
_LOG_FROM = 15.0
"""Ratio of the highest to the lowest value from which an axis is logarithmic."""


def curve_pictures(curves: Mapping[str, Sequence[TrainingCurve]], colours: Mapping[str, str]) -> list[Picture]:
    """One picture per metric that some training has.

    Args:
        curves: arm -> a curve for each seed; those of arms that are not trained are empty.
        colours: of the arms.
    """
    return [
        picture
        for metric, (title, note) in PANELS.items()
        if (picture := _picture(metric, title, note, curves, colours)) is not None
    ]


def _picture(
    metric: str,
    title: str,
    note: str,
    curves: Mapping[str, Sequence[TrainingCurve]],
    colours: Mapping[str, str],
) -> Picture | None:
    lines = {arm: [points for curve in own if (points := _points(curve, metric))] for arm, own in curves.items()}
    lines = {arm: own for arm, own in lines.items() if own}
    if not lines:
        return None
    most = max(_MIN_POINTS, min(150, _MAX_POINTS // sum(len(own) for own in lines.values())))
    drawn = {arm: [_thinned(points, most) for points in own] for arm, own in lines.items()}
    values = [value for own in drawn.values() for points in own for _, value in points]
    last = max(step for own in lines.values() for points in own for step, _ in points)
    is_log = min(values) > 0 and max(values) / min(values) > _LOG_FROM
    is_cosine = metric == "gradient_cosine"
    low, high = (min(values) / 1.1, max(values) * 1.1) if is_log else around([*values, 0.0] if is_cosine else values)
    x, y = Scale(0, last, 52, WIDTH - 12), Scale(low, high, 232, 34, is_log=is_log)
    marks = frame(x, y, x_words="step")
    if is_cosine:
        marks.append(Line(x.start, y(0), x.end, y(0), "zero"))
    marks += legend(list(drawn), colours)
    for arm, own in drawn.items():
        for number, points in enumerate(own):
            pixels = [(x(step), y(value)) for step, value in points]
            marks += _line(pixels, colours[arm], f"{arm}, seed {number + 1} of {len(own)}", has_dots=is_cosine)
    label = f"{title} by step, a line per training. " + "; ".join(_told(arm, own) for arm, own in drawn.items())
    scale = "; logarithmic" if is_log else ""
    return Picture(metric.replace("_", "-"), title, f"{note}{scale}; a line per seed.", label, WIDTH, 272, tuple(marks))


def _points(curve: TrainingCurve, metric: str) -> list[Point]:
    values = curve.metrics.get(metric, ())
    pairs = zip(curve.steps, values, strict=False)
    return [(float(step), value) for step, value in pairs if value is not None and math.isfinite(value)]


def _thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many points, each the mean of its neighbours."""
    size = -(-len(points) // most)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(step for step, _ in part) / len(part), sum(value for _, value in part) / len(part)) for part in parts]


def _line(pixels: list[Point], colour: str, title: str, *, has_dots: bool) -> list[Mark]:
    if has_dots or len(pixels) == 1:
        return [Path(pixels, "curve", colour, title), *(Circle(x, y, 2.5, "full", colour) for x, y in pixels)]
    return [Path(pixels, "curve", colour, title)]


def legend(arms: Sequence[str], colours: Mapping[str, str]) -> list[Mark]:
    """Names of arms above the frame, in their colours."""
    marks: list[Mark] = []
    x = 52.0
    for arm in arms:
        marks += [Line(x, 18, x + 16, 18, "whisker", colours[arm]), Text(x + 22, 22, arm)]
        x += 42 + 7.6 * len(arm)
    return marks


def _told(arm: str, own: Sequence[Sequence[Point]]) -> str:
    first = sum(points[0][1] for points in own) / len(own)
    last = sum(points[-1][1] for points in own) / len(own)
    return f"{arm} from {short(first)} to {short(last)}"
