"""The table of text that every form of a report is rendered from, and how numbers read in it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import stdev

from afp_ray.records import Difference, signed_points

FAMILY = "intervals at the level at which Holm tests each (95 % where there is one): 0 is inside just where p >= 0.05"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of text.

    Attributes:
        header: names of the columns.
        rows: the cells.
        is_best: whether a cell is the best of its column.
        joined: indices of columns that say nothing without the one before, beside which they stay when it is folded.
    """

    header: list[str]
    rows: list[list[str]]
    is_best: list[list[bool]]
    joined: frozenset[int] = frozenset()

    def groups(self) -> list[list[int]]:
        """The columns but the first, those together that stay beside each other."""
        groups: list[list[int]] = []
        for column in range(1, len(self.header)):
            if groups and column in self.joined:
                groups[-1].append(column)
            else:
                groups.append([column])
        return groups


def plain_grid(header: Sequence[str], rows: Sequence[Sequence[str]], joined: Iterable[int] = ()) -> Grid:
    """A table in which no value is the best."""
    return Grid(list(header), [list(row) for row in rows], [[False] * len(header) for _ in rows], frozenset(joined))


def percent(value: float | None) -> str:
    """A fraction in percent, "-" for none."""
    return "-" if value is None else f"{100 * value:.1f}"


def over_seeds(values: Sequence[float]) -> str:
    """The standard deviation over seeds in points, to stand behind a mean; "" where there are not two."""
    return f" ±{100 * stdev(values):.1f}" if len(values) > 1 else ""


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


def signed_difference(before: float | None, after: float | None, metric: str) -> str:
    """A metric's change with its sign, in points where it is a share; "-" where one of the two is lacking."""
    if before is None or after is None:
        return "-"
    if metric not in RAW:
        return signed_points(after - before)
    return plain(after - before) if after < before else f"+{plain(after - before)}"


def mark(delta: Difference | None) -> str:
    """The mark of a significant difference."""
    return mark_of(None if delta is None else delta.p if delta.p_holm is None else delta.p_holm)


def mark_of(p: float | None) -> str:
    """The mark of a p-value; "" where nothing was tested."""
    return "" if p is None or p >= 0.05 else "‡" if p < 0.01 else "†"
