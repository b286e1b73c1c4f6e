"""Scales, round ticks and the frame of a chart: from numbers to pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.views.pictures import Box, Line, Mark, Text, real_minus

_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of numbers on a range of pixels, straight or logarithmic.

    Attributes:
        low, high: the numbers at both ends; above 0 where it is logarithmic.
        start, end: their pixels.
        is_log: whether equal ratios are equally long.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a number."""
        low, high, at = (math.log(x) if self.is_log else x for x in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers within the range, at most about `most`."""
        if self.is_log:
            return _log_ticks(self.low, self.high, most)
        step = round_step((self.high - self.low) / max(1, most - 1))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def round_step(least: float) -> float:
    """The smallest round number that is at least `least`."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in _ROUND if factor * power >= least * (1 - 1e-9))


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        inside = [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(inside) <= most:
            break
    return inside if len(inside) > 1 else [low, high]


def around(values: Sequence[float], margin: float = 0.06) -> tuple[float, float]:
    """Lowest and highest of some numbers with a margin; a range around a single one."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    reach = (high - low) or abs(high) or 1.0
    return low - margin * reach, high + margin * reach


def short(value: float) -> str:
    """A number in few signs, with a real minus; nothing has a sign where it rounds to nothing."""
    text = f"{value:.3g}"
    if "e" in text and 1 <= abs(value) < 1e6:
        text = f"{value:.0f}"
    return "0" if float(text) == 0 else real_minus(text)


def signed(points: float) -> str:
    """A number with its sign, none for 0."""
    return "0" if abs(points) < 1e-9 else real_minus(f"{points:+.3g}")


def frame(
    x: Scale,
    y: Scale,
    *,
    title: str = "",
    x_words: str = "",
    x_ticks: Sequence[tuple[float, str]] | None = None,
    y_ticks: Sequence[tuple[float, str]] | None = None,
) -> list[Mark]:
    """The frame of a chart: box, lines and words of the ticks, title above and what x is below.

    Args:
        x, y: scales; `y` grows upwards, so its start is the lower edge.
        title: above.
        x_words: what `x` is, below.
        x_ticks, y_ticks: number and words; round ones where not given.
    """
    left, right, bottom, top = x.start, x.end, y.start, y.end
    marks: list[Mark] = [Box(left, top, right - left, bottom - top, "frame")]
    for value, words in y_ticks if y_ticks is not None else [(tick, short(tick)) for tick in y.ticks(4)]:
        marks += [Line(left, y(value), right, y(value), "axis"), Text(left - 6, y(value) + 4, words, "quiet", "end")]
    for value, words in x_ticks if x_ticks is not None else [(tick, short(tick)) for tick in x.ticks(5)]:
        marks += [
            Line(x(value), bottom, x(value), bottom + 4, "axis"),
            Text(x(value), bottom + 17, words, "quiet", "middle"),
        ]
    if title:
        marks.append(Text(left, top - 9, title, "strong"))
    if x_words:
        marks.append(Text((left + right) / 2, bottom + 34, x_words, "quiet", "middle"))
    return marks
