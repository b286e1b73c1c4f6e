"""Tests of paired differences, and Holm over the family of those that are shown.

Shapes: S seeds, N examples, C contents.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from afp_ray.statistics.layout import as_pair, chunks, lay_out

_EXACT_CONTENTS = 12
"""Up to so many contents, the permutation test counts every sign pattern instead of drawing some."""


def permutation_test(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    tasks: Sequence[Hashable] | None = None,
    languages: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value of the macro mean of `a - b` under sign flips, one sign per content.

    Under the null hypothesis the two sides of a content could be swapped. Seeds are averaged per example first, so the
    test speaks of these very runs. Up to 12 contents every sign pattern is counted and the p-value is exact.

    Args:
        a, b, clusters, tasks, languages: as for `paired_interval`.
        resamples: sign patterns drawn where they are not all counted.
        seed: of the draws.

    Returns: p in (0, 1]; 1 when no example differs. Where no drawn pattern is as extreme, it is at most
        1 / (resamples + 1), and less where a bound on such sums is: many tests of one family need small p-values.
    Raises: ValueError when the sides have different examples.
    Source: the bound is Hoeffding, Probability Inequalities for Sums of Bounded Random Variables (1963), theorem 2.
    """
    left, right = as_pair(a, b)
    layout = lay_out(clusters, tasks, languages, left.shape[1])
    rows = layout.sums(np.ones(left.shape[1])).sum(axis=0)
    gains = layout.sums(left.mean(axis=0) - right.mean(axis=0)) @ (layout.weight / rows)  # (C,), they sum to the mean
    gains = gains[gains != 0]
    if len(gains) == 0:
        return 1.0
    # Equal statistics must count as equal whatever the order of their sums.
    threshold = abs(gains.sum()) - 1e-9 * float(np.abs(gains).sum())
    if len(gains) <= _EXACT_CONTENTS:
        # Row k holds the bits of k, so that the rows are all patterns; at most 4,096 of them.
        patterns = np.arange(1 << len(gains))[:, None] >> np.arange(len(gains)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ gains) >= threshold))
    # scipy.stats.permutation_test takes six times as long, and its p-values stop at 1 / (resamples + 1).
    random = np.random.default_rng(seed)
    extreme = 0
    for size in chunks(resamples, len(gains)):
        signs = random.integers(0, 2, size=(size, len(gains)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ gains) >= threshold).sum())
    # Hoeffding for a sum of gains of random sign, each in [-|gain|, |gain|].
    bound = 2 * math.exp(-(threshold**2) / (2 * float(np.square(gains).sum())))
    return min((extreme + 1) / (resamples + 1), bound)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values, in the order given: rejecting those below alpha errs in any of them with <= alpha.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted


def holm_levels(p_values: Sequence[float], alpha: float = 0.05) -> list[float]:
    """The level at which Holm's procedure judges each p-value, in the order given.

    A p-value lies below its level exactly where its adjusted one lies below `alpha`, so that an interval at confidence
    1 minus the level excludes zero just there. Those not rejected share the level at which the procedure stops.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    levels = [alpha] * len(p_values)
    level, is_open = alpha, True
    for rank, index in enumerate(order):
        if is_open:
            level = alpha / (len(p_values) - rank)
            is_open = p_values[index] < level
        levels[index] = level
    return levels
