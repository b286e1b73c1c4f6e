"""Figures of a benchmark: one JSON line each, a table at the end, exit code 7 when a floor is missed."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

FLOOR_MISSED = 7


@dataclass(frozen=True)
class Figure:
    """One comparison in one run; `ratio` is how many times better than the peer we are.

    Attributes:
        name: benchmark and quantity, with the unit.
        ours, peer: medians; null where one of them cannot be had.
        ratio: median of the ratios of the rounds, or of the two values; above 1 is better.
        floor: smallest ratio that is promised; null for none.
        equal: whether the two gave equal results in this run; null where there is nothing to compare.
    """

    name: str
    ours: float | None
    peer: float | None
    ratio: float | None
    floor: float | None = None
    equal: bool | None = None

    @property
    def is_missed(self) -> bool:
        """Whether a promise is broken: a ratio below its floor, or results that differ."""
        return self.equal is False or (self.floor is not None and (self.ratio is None or self.ratio < self.floor))


@dataclass(frozen=True)
class Scale:
    """How large a benchmark is run.

    Attributes:
        is_tiny: a toy size, to test the benchmark itself; floors do not count.
        rounds: timed rounds.
    """

    is_tiny: bool
    rounds: int


def run(measure: Callable[[Scale], Sequence[Figure]], description: str | None, arguments: list[str] | None) -> int:
    """Command line of a benchmark: measure on one thread, print, and give the exit code."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a toy size, to test the benchmark itself")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    found = measure(Scale(options.tiny, options.rounds))
    return show([replace(figure, floor=None) for figure in found] if options.tiny else found)


def interleave(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> tuple[float, float, float]:
    """Time two variants in turn, after one round that does not count.

    Args:
        ours, peer: one unit of work each.
        rounds: rounds that count.
        clock: seconds; CPU seconds of this process by default, which other processes do not stretch.
    Returns: median seconds of ours, of the peer, and the median over rounds of peer / ours.
    """
    seconds: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        pair = []
        for work in (ours, peer):
            started = clock()
            work()
            pair.append(clock() - started)
        if number > 0:
            seconds.append((pair[0], pair[1]))
    middle = [statistics.median(column) for column in zip(*seconds, strict=True)]
    return middle[0], middle[1], statistics.median(theirs / own for own, theirs in seconds)


def show(figures: Sequence[Figure]) -> int:
    """Print the figures and give the exit code."""
    for figure in figures:
        sys.stdout.write(json.dumps(asdict(figure)) + "\n")
    width = max((len(figure.name) for figure in figures), default=4)
    sys.stdout.write(f"\n{'figure':{width}}  {'ours':>11}  {'peer':>11}  {'ratio':>7}  {'floor':>6}  equal\n")
    for figure in figures:
        cells = [f"{_cell(figure.ours):>11}", f"{_cell(figure.peer):>11}", f"{_cell(figure.ratio):>7}"]
        line = f"{figure.name:{width}}  {'  '.join(cells)}  {_cell(figure.floor):>6}  {_word(figure.equal)}"
        sys.stdout.write(line + ("  MISSED" if figure.is_missed else "") + "\n")
    return FLOOR_MISSED if any(figure.is_missed for figure in figures) else 0


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _word(value: bool | None) -> str:
    return "-" if value is None else ("yes" if value else "NO")
