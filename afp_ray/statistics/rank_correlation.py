"""How well one ranking of the same things tells another: Spearman's correlation, its interval and its test.

And what a correlation would be over all things where only the best of them were measured twice.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_PAIRS = 3
"""Below so many pairs a correlation of ranks says nothing: of two it is always 1 or -1."""
_EXACT_PAIRS = 7
"""Up to so many pairs the test counts every order instead of drawing some."""
_DRAWN_PAIRS = 100
"""Up to so many it draws orders; beyond, the statistic is normal enough."""
_Z = 1.959964


@dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Spearman's correlation of N pairs.

    Attributes:
        rho: in [-1, 1]; 1 where both rankings are the same.
        low, high: ends of the 95 % interval; -1 and 1 where three pairs are all there are.
        p: of so large a correlation, either way, when nothing connects the rankings.
        n: pairs.
    """

    rho: float
    low: float
    high: float
    p: float
    n: int


def rank_correlation(
    a: Sequence[float], b: Sequence[float], *, resamples: int = 2000, seed: int = 0
) -> RankCorrelation | None:
    """Spearman's correlation of two rankings of the same N things; equal values share their mean rank.

    The interval is Fisher's with the variance of Bonett and Wright; a perfect ranking is taken for it as half an
    exchange of neighbours away from perfect. The test permutes one side: every order up to 7 pairs, drawn ones up to
    100, and beyond them the normal approximation.

    Args:
        a, b: N finite values each.
        resamples: orders drawn where they are not all counted.
        seed: of the draws.
    Returns: None for fewer than 3 pairs, and where one side has a single value.
    Raises: ValueError when the lengths differ.
    Source: Bonett and Wright, Psychometrika 65 (2000).
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values make no pairs")
    n = len(a)
    if n < MIN_PAIRS or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    left, right = _standard_ranks(a), _standard_ranks(b)
    rho = float(np.clip(left @ right, -1.0, 1.0))
    low, high = _interval(rho, n)
    return RankCorrelation(rho, low, high, _p_value(left, right, rho, resamples=resamples, seed=seed), n)


def unrestricted_correlation(
    selected: Sequence[float], later: Sequence[float], everything: Sequence[float]
) -> float | None:
    """Correlation over all things, where only those selected by their first value were measured a second time.

    What was selected is alike in what selected it, so a correlation over that alone is too near 0. It is
    corrected by how much wider the first values of all things spread, which takes the second values to rise with the
    first at one rate throughout.

    Args:
        selected, later: first and second value of the N things that were selected.
        everything: first values of all, the selected ones included.
    Returns: Pearson's correlation in [-1, 1]; None for fewer than 3 pairs, and where one side has a single value.
    Source: Thorndike, Personnel Selection (1949), case 2.
    """
    if len(selected) < MIN_PAIRS or len(set(selected)) == 1 or len(set(later)) == 1:
        return None
    r = float(np.corrcoef(selected, later)[0, 1])
    wider = float(np.std(everything) / np.std(selected))
    return r * wider / math.sqrt(1 - r**2 + (r * wider) ** 2)


def _standard_ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """(N,) mean ranks, centred and of unit length."""
    array = np.asarray(values, dtype=float)
    _, index, counts = np.unique(array, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[index]
    centred = ranks - ranks.mean()
    return np.asarray(centred / np.linalg.norm(centred), dtype=np.float64)


def _interval(rho: float, n: int) -> tuple[float, float]:
    if n == MIN_PAIRS:
        return -1.0, 1.0
    limit = 1 - 6 / (n**3 - n)
    inside = min(max(rho, -limit), limit)
    reach = _Z * math.sqrt((1 + inside**2 / 2) / (n - 3))
    low, high = (math.tanh(math.atanh(inside) + sign * reach) for sign in (-1, 1))
    return min(low, rho), max(high, rho)


def _p_value(left: NDArray[np.float64], right: NDArray[np.float64], rho: float, *, resamples: int, seed: int) -> float:
    n = len(left)
    if n > _DRAWN_PAIRS:
        return math.erfc(abs(rho) * math.sqrt((n - 1) / 2))
    if n <= _EXACT_PAIRS:
        correlations = np.array(list(itertools.permutations(left))) @ right
        return float(np.mean(np.abs(correlations) >= abs(rho) - 1e-9))
    orders = np.random.default_rng(seed).permuted(np.tile(left, (resamples, 1)), axis=1)
    hits = int(np.sum(np.abs(orders @ right) >= abs(rho) - 1e-9))
    return (1 + hits) / (1 + resamples)
