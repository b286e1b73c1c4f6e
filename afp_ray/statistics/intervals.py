"""Intervals of scores and of paired differences, by the bootstrap over contents and the spread over seeds.

Shapes: S seeds, N examples, C contents, K cells (one per task and language), R resamples.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from afp_ray.statistics.layout import Floats, Layout, as_matrix, chunks, draw_contents, lay_out, macro, redrawn_seeds
from afp_ray.statistics.spread import Side, Spread, measure_spread
from afp_ray.statistics.student import t_quantile
from afp_ray.statistics.testing import permutation_test


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: the estimate.
        low, high: ends of the interval, on the scale of the mean.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """A paired difference with its interval and its test.

    Attributes:
        interval: of the macro mean of the differences.
        p: two-sided, in (0, 1].
    """

    interval: Interval
    p: float


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    tasks: Sequence[Hashable] | None = None,
    languages: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
    resample_seeds: bool = True,
) -> Interval:
    """Confidence interval of the macro mean of `a - b`.

    Contents are redrawn with replacement, C - 1 of C (so that the spread of the redrawn means is that of the mean
    itself, not less), within each group of cells that share contents; the interval reaches as many of their standard
    deviations as Student's t says for so many contents. With several seeds on a side and `resample_seeds` the spread
    over its seeds is added, as `spread` tells: this is the headline, since it says what another training run would
    give. Sides with equally many seeds are paired by seed (row s of both is the same seed). Without `resample_seeds`,
    seeds are averaged per example and the interval speaks of these very runs; so does every interval of one seed.

    How often such intervals hold the truth is simulated in `benchmarks/coverage.py`.

    Args:
        a, b: (N,) or (S, N) values of the two sides, for instance 1 where an answer is right; a side may have fewer
            seeds than the other.
        clusters: (N,) content of each example; equal contents in several tasks or languages are redrawn together.
        tasks, languages: (N,) cell of each example; null means that all examples share one.
        resamples: R.
        seed: of the draws; equal seeds give equal intervals, and swapping `a` and `b` negates them.
        confidence: how often the truth is to be inside.
        resample_seeds: whether another training run is part of the question.

    Raises: ValueError when the sides have different examples, or there are fewer than two contents.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 12; C - 1 draws: Rao and Wu,
        Resampling Inference With Complex Survey Data (1988).
    """
    left, right = _pair(a, b)
    layout = lay_out(clusters, tasks, languages, left.shape[1])
    spread = measure_spread([_side(left, layout), _side(right, layout)], layout.strata, has_seeds=resample_seeds)
    return _interval(left, right, layout, spread, resamples=resamples, seed=seed, confidence=confidence)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    tasks: Sequence[Hashable] | None = None,
    languages: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """The headline of a comparison: the interval of `paired_bootstrap`, and a p-value that knows of the seeds.

    The permutation test speaks of the very runs that were made. Where a side has several seeds, a difference must also
    be one that other runs would show: the p-value is then the larger of that test's and the one of the spread over
    contents and seeds, so that a null effect is claimed no more often than either of them errs.

    Args:
        a, b, clusters, tasks, languages, resamples, seed: as for `paired_bootstrap`.
    Raises: ValueError as `paired_bootstrap` does.
    """
    left, right = _pair(a, b)
    layout = lay_out(clusters, tasks, languages, left.shape[1])
    spread = measure_spread([_side(left, layout), _side(right, layout)], layout.strata)
    interval = _interval(left, right, layout, spread, resamples=resamples, seed=seed, confidence=0.95)
    p = permutation_test(left, right, clusters, tasks=tasks, languages=languages, resamples=resamples, seed=seed)
    return PairedDifference(interval, max(p, spread.p_value(interval.mean)) if spread.seeds else p)


def interval_of(estimate: float, drawn: Floats, spread: Spread, *, confidence: float = 0.95) -> Interval:
    """The interval of an estimate from its (R,) redrawn values over contents and its spread.

    It is symmetric: where answers are seldom wrong, or contents few, the quantiles of redrawn values lean the wrong way
    and hold the truth less often.
    """
    reach = spread.reach(confidence, float(np.var(drawn)))
    return Interval(estimate, estimate - reach, estimate + reach)


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    left, right = as_matrix(a), as_matrix(b)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"a has {left.shape[1]} examples, b has {right.shape[1]}; a paired test needs the same ones")
    return left, right


def _side(values: Floats, layout: Layout) -> Side:
    """Scores by seed, and what each content moves them by."""
    rows = layout.sums(np.ones(values.shape[1]))  # (C, K)
    weight = layout.weight / rows.sum(axis=0)
    influences = []
    for row in values:
        sums = layout.sums(row)
        influences.append((sums - rows * (sums.sum(axis=0) / rows.sum(axis=0))) @ weight)
    return Side(np.array([macro(layout, row) for row in values]), np.stack(influences))


def _interval(
    left: Floats, right: Floats, layout: Layout, spread: Spread, *, resamples: int, seed: int, confidence: float
) -> Interval:
    drawn = _redrawn([left, right], layout, resamples=resamples, seed=seed, resample_seeds=False)
    mean = float(macro(layout, left.mean(axis=0)) - macro(layout, right.mean(axis=0)))
    return interval_of(mean, drawn[:, 0] - drawn[:, 1], spread, confidence=confidence)


def probability_best(
    arms: Sequence[ArrayLike],
    clusters: Sequence[Hashable],
    *,
    tasks: Sequence[Hashable] | None = None,
    languages: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    resample_seeds: bool = True,
) -> list[float]:
    """Share of redrawn data sets (and seeds) in which each arm has the highest macro mean; ties are shared out.

    Args:
        arms: (N,) or (S, N) values per arm, all on the same examples, higher is better.
        clusters, tasks, languages, resamples, seed, resample_seeds: as for `paired_bootstrap`.

    Returns: one share per arm; they sum to 1.
    Raises: ValueError when the arms have different examples, or there are fewer than two contents.
    """
    matrices = [as_matrix(arm) for arm in arms]
    if len({matrix.shape[1] for matrix in matrices}) != 1:
        raise ValueError("probability_best needs one or more arms, all with the same examples")
    layout = lay_out(clusters, tasks, languages, matrices[0].shape[1])
    drawn = _redrawn(matrices, layout, resamples=resamples, seed=seed, resample_seeds=resample_seeds)
    is_best = drawn >= drawn.max(axis=1, keepdims=True) - 1e-12
    shares = (is_best / is_best.sum(axis=1, keepdims=True)).mean(axis=0)
    return [float(share) for share in shares]


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean over S seeds with its Student t interval.

    Raises: ValueError for fewer than two values: one run says nothing about the spread.
    """
    if len(values) < 2:
        raise ValueError(f"an interval over seeds needs at least 2 values, got {len(values)}")
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    reach = t_quantile((1 + confidence) / 2, len(array) - 1) * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Interval(mean, mean - reach, mean + reach)


def _redrawn(arms: Sequence[Floats], layout: Layout, *, resamples: int, seed: int, resample_seeds: bool) -> Floats:
    """(R, number of arms) macro means; all arms see the same redrawn contents, each its own redrawn seeds."""
    num_contents = int(layout.content.max()) + 1
    if num_contents < 2:
        raise ValueError("a bootstrap over contents needs at least 2 of them")
    random = np.random.default_rng(seed)
    # One generator per number of seeds: arms with equally many redraw the same, whatever the order of the arms.
    sides = [arm if resample_seeds else arm.mean(axis=0, keepdims=True) for arm in arms]
    seed_random = {len(side): np.random.default_rng((seed, len(side))) for side in sides}
    rows = layout.sums(np.ones(len(layout.content)))  # (C, K)
    sums = [np.stack([layout.sums(values) for values in arm], axis=2) for arm in sides]  # (C, K, S) each
    whole = [total.sum(axis=0) / rows.sum(axis=0)[:, None] for total in sums]  # (K, S) means of all rows
    stacked = np.concatenate([rows, *(total.reshape(num_contents, -1) for total in sums)], axis=1)
    parts = []
    for size in chunks(resamples, num_contents):
        totals = draw_contents(random, layout.strata, num_contents, size) @ stacked
        counts, offset = totals[:, : rows.shape[1]], rows.shape[1]
        part = np.empty((size, len(sums)))
        seed_weights = {number: redrawn_seeds(seed_random[number], number, size) for number in seed_random}
        for number, (total, full) in enumerate(zip(sums, whole, strict=True)):
            width = full.size
            drawn = totals[:, offset : offset + width].reshape(size, *full.shape)  # (R, K, S)
            offset += width
            # A cell without a redrawn row keeps its mean over all rows; only tiny cells ever come to that.
            means = np.where(counts[..., None] > 0, drawn / np.maximum(counts, 1)[..., None], full)
            macro = np.einsum("rks,k->rs", means, layout.weight)
            part[:, number] = (macro * seed_weights[total.shape[2]]).sum(axis=1)
        parts.append(part)
    return np.concatenate(parts)
