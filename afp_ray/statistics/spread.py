"""How far an estimate may be off: the spread over contents and, apart from it, that over training seeds.

An arm's score is a mean over contents that were drawn and over training runs that were drawn. Both vary by themselves,
and what a run does to single contents varies too; that last part is in the spread of the seeds' scores as well as in
the spread of the contents' means. Few seeds tell little of their own spread, which Student's t must pay for.

Shapes: S seeds, C contents.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afp_ray.statistics.layout import Floats

_MOST_DEGREES = 1000.0
"""Beyond, Student's t is as good as normal."""
_TAKEN_OUT = 0.75
"""Share of what contents explain that leaves the spread of the seeds: by simulation, intervals hold the truth nearest
to as often as they say from no training noise to noise that outweighs all else."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison.

    Attributes:
        scores: (S,) score of each seed.
        influences: (S, C) what each content moves each score by; the square root of their summed squares is the
            standard error over contents.
    """

    scores: Floats
    influences: Floats


@dataclass(frozen=True, slots=True)
class Spread:
    """Variances of an estimate.

    Attributes:
        contents: variance over contents.
        degrees: degrees of freedom behind it.
        plain: variance over contents without the factor for a mean that is estimated too: of answers that are right or
            wrong it is the variance of one answer over their number.
        seeds: variance over training seeds and its degrees of freedom, one pair for each side whose seeds vary by
            themselves; empty with one seed.
    """

    contents: float
    degrees: float
    plain: float
    seeds: tuple[tuple[float, int], ...] = ()

    def reach(self, confidence: float) -> float:
        """Distance from the estimate to an end of a symmetric interval that holds the truth so often.

        Source: Howe, Approximate Confidence Limits on the Mean of X + Y (1974): squares of the single reaches add up.
        """
        probability = (1 + confidence) / 2
        parts = ((self.contents, self.degrees), *self.seeds)
        squares = (variance * t_quantile(probability, degrees) ** 2 for variance, degrees in parts)
        return math.sqrt(sum(squares))


def measure_spread(sides: Sequence[Side], strata: Sequence[NDArray[np.intp]], *, has_seeds: bool = True) -> Spread:
    """Variances of the first side's mean score, or of its difference to the second's.

    Sides with equally many seeds are paired by seed. What single contents explain of the variance of the seeds' scores
    is in the spread over contents already, so most of it is taken out; taking out all would leave nothing too often
    where seeds are few.

    Args:
        sides: one or two.
        strata: indices of the contents that are redrawn among themselves.
        has_seeds: whether another training run is part of the question; without, the spread is of these very runs.
    """
    signs = (1.0, -1.0)[: len(sides)]
    mean = np.sum([sign * side.influences.mean(axis=0) for sign, side in zip(signs, sides, strict=True)], axis=0)
    contents, plain, degrees = _over_contents(mean, strata)
    counts = {len(side.scores) for side in sides}
    groups = list(sides)
    if len(sides) == 2 and len(counts) == 1:
        left, right = sides
        groups = [Side(left.scores - right.scores, left.influences - right.influences)]
    seeds = tuple(_over_seeds(side, strata) for side in groups if len(side.scores) > 1 and has_seeds)
    return Spread(contents, degrees, plain, seeds)


def _over_contents(influence: Floats, strata: Sequence[NDArray[np.intp]]) -> tuple[float, float, float]:
    """Variance over contents, the same without Bessel's factor, and Satterthwaite's degrees of freedom."""
    parts, plain = [], 0.0
    for members in strata:
        count = len(members)
        own = influence[members]
        square = float(np.square(own - own.mean()).sum())
        plain += square
        parts.append((square * count / max(1, count - 1), max(1, count - 1)))
    total = sum(variance for variance, _ in parts)
    if total <= 0:  # nothing says which stratum counts most
        return 0.0, 0.0, float(max(1, sum(count for _, count in parts)))
    degrees = total**2 / sum(variance**2 / count for variance, count in parts)
    return total, plain, max(1.0, min(_MOST_DEGREES, math.floor(degrees + 1e-9)))


def _over_seeds(side: Side, strata: Sequence[NDArray[np.intp]]) -> tuple[float, int]:
    """Variance of the mean over seeds, less what single contents explain, and its degrees of freedom."""
    count = len(side.scores)
    seen = float(side.scores.var(ddof=1)) / count
    together, *_ = _over_contents(side.influences.mean(axis=0), strata)
    alone = float(np.mean([_over_contents(row, strata)[0] for row in side.influences]))
    of_contents = max(0.0, (alone - together) / (count - 1))
    return max(0.0, seen - _TAKEN_OUT * of_contents), count - 1


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t distribution, for 0.5 <= probability < 1 and degrees >= 1."""
    # Imported here, since it takes 0.3 s: trials take no more than standard errors from this room.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
