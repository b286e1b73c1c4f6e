"""Intervals and tests of scores and of paired differences, from the spread over contents and that over seeds.

Shapes: S seeds, N examples, C contents, K cells (one per task and language), R resamples.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from afp_ray.statistics.estimate import Contents, Estimate, Interval, PairedDifference
from afp_ray.statistics.layout import (
    Floats,
    Layout,
    as_matrix,
    as_pair,
    chunks,
    draw_contents,
    lay_out,
    macro,
    redrawn_seeds,
)
from afp_ray.statistics.spread import Side, Spread, measure_spread, t_quantile
from afp_ray.statistics.testing import permutation_test

_ROUNDING = 1e-12


def score_interval(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    tasks: Sequence[Hashable] | None = None,
    languages: Sequence[Hashable] | None = None,
    is_share: bool = False,
) -> Interval:
    """95 % interval of the macro mean of `values`.

    Args:
        values: (N,) or (S, N).
        clusters, tasks, languages: as for `paired_interval`.
        is_share: whether every value lies in [0, 1], so that the interval does.
    Raises: ValueError when there are fewer than two contents.
    """
    matrix = as_matrix(values)
    layout = lay_out(clusters, tasks, languages, matrix.shape[1])
    _check_contents(layout)
    spread = measure_spread([_side(matrix, layout)], layout.strata)
    mean = float(macro(layout, matrix.mean(axis=0)))
    deviates = np.abs(matrix - round(mean)).max(axis=0) > _ROUNDING
    contents = contents_of(layout, (matrix.mean(axis=0), np.square(matrix).mean(axis=0)), deviates)
    return Estimate(mean, spread, contents, "share" if is_share else "free").interval()


def paired_interval(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    tasks: Sequence[Hashable] | None = None,
    languages: Sequence[Hashable] | None = None,
    is_share: bool = False,
    confidence: float = 0.95,
    resample_seeds: bool = True,
) -> Interval:
    """Confidence interval of the macro mean of `a - b`.

    The variance over contents, within each group of cells that share contents, and as many of its square roots as
    Student's t says for so many contents. With several seeds on a side and `resample_seeds` the spread over its seeds
    is added, as `spread` tells: this is the headline, since it says what another training run would give. Sides with
    equally many seeds are paired by seed (row s of both is the same seed). Without `resample_seeds`, seeds are averaged
    per example and the interval speaks of these very runs; so does every interval of one seed.

    How often such intervals hold the truth is simulated in `benchmarks/coverage.py`.

    Args:
        a, b: (N,) or (S, N) values of the two sides, for instance 1 where an answer is right; a side may have fewer
            seeds than the other.
        clusters: (N,) content of each example; equal contents in several tasks or languages are one.
        tasks, languages: (N,) cell of each example; null means that all examples share one.
        is_share: whether values of a side differ by at most 1, as shares do: the interval then lies in [-1, 1] and has
            a width also where the sides never differ (`bounded`). Without, it is symmetric.
        confidence: how often the truth is to be inside.
        resample_seeds: whether another training run is part of the question.

    Raises: ValueError when the sides have different examples, or there are fewer than two contents.
    """
    estimate = _paired(a, b, _lay_out_of(a, clusters, tasks, languages), is_share=is_share, has_seeds=resample_seeds)
    return estimate.interval(confidence)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    tasks: Sequence[Hashable] | None = None,
    languages: Sequence[Hashable] | None = None,
    is_share: bool = False,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """The headline of a comparison: a p-value that knows of the seeds, and the interval that agrees with it.

    The permutation test speaks of the very runs that were made. Where a side has several seeds, a difference must also
    be one that other runs would show: the p-value is then the larger of that test's and the one of the spread over
    contents and seeds, so that a null effect is claimed no more often than either of them errs.

    Args:
        a, b, clusters, tasks, languages, is_share: as for `paired_interval`.
        resamples, seed: of the permutation test.
    Raises: ValueError as `paired_interval` does.
    """
    estimate = _paired(a, b, _lay_out_of(a, clusters, tasks, languages), is_share=is_share)
    p = permutation_test(a, b, clusters, tasks=tasks, languages=languages, resamples=resamples, seed=seed)
    return PairedDifference(estimate, max(p, estimate.p_value()) if estimate.spread.seeds else p)


def moved_by(left: Floats, right: Floats, *, power: int = 1) -> Floats:
    """(N,) mean of the absolute difference of two sides of (S, N) values to a power.

    By seed where both have as many, else over all pairs of runs.
    """
    if len(left) == len(right):
        gaps = np.abs(left - right) ** power
    else:
        gaps = np.abs(left[:, None] - right[None]).reshape(-1, left.shape[1]) ** power
    return np.asarray(gaps.mean(axis=0), dtype=np.float64)


def _lay_out_of(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    tasks: Sequence[Hashable] | None,
    languages: Sequence[Hashable] | None,
) -> Layout:
    """Where the examples of a side belong."""
    return lay_out(clusters, tasks, languages, as_matrix(values).shape[1])


def _paired(a: ArrayLike, b: ArrayLike, layout: Layout, *, is_share: bool, has_seeds: bool = True) -> Estimate:
    left, right = as_pair(a, b)
    _check_contents(layout)
    spread = measure_spread([_side(left, layout), _side(right, layout)], layout.strata, has_seeds=has_seeds)
    moved = moved_by(left, right)
    mean = float(macro(layout, left.mean(axis=0)) - macro(layout, right.mean(axis=0)))
    squares = (left.mean(axis=0) - right.mean(axis=0), moved_by(left, right, power=2))
    contents = contents_of(layout, squares, moved > _ROUNDING)
    # Rounding must not make the share that moved smaller than what moved one way.
    share = min(1.0, max(abs(mean), float(macro(layout, moved))))
    return Estimate(mean, spread, contents, "difference" if is_share else "free", share)


def contents_of(layout: Layout, moments: tuple[Floats, Floats], deviates: NDArray[np.bool_]) -> Contents:
    """The contents of an estimate.

    Args:
        layout: where the rows belong.
        moments: (N,) mean and (N,) mean square of each row.
        deviates: (N,) whether a row is not as the most frequent ones are.
    """
    first, second = moments
    rows = layout.sums(np.ones(len(first)))  # (C, K)
    counts = rows.sum(axis=0)
    weights = (rows / counts) @ layout.weight
    means = layout.sums(first).sum(axis=0) / counts
    of_a_row = max(0.0, float(macro(layout, second) - np.square(means) @ layout.weight))
    share = float(np.square(weights).sum())
    deviating = int((layout.sums(deviates.astype(float)).sum(axis=1) > 0).sum())
    return Contents(len(weights), share, share * of_a_row, deviating)


def _check_contents(layout: Layout) -> None:
    if int(layout.content.max()) < 1:
        raise ValueError("an interval over contents needs at least 2 of them")


def _side(values: Floats, layout: Layout) -> Side:
    """Scores by seed, and what each content moves them by.

    A cell's mean is a sum over rows divided by their number, and contents differ in both. To first order a content
    moves it by the deviations of its rows from that mean, over the number of rows; cells weigh as in the macro mean.
    """
    rows = layout.sums(np.ones(values.shape[1]))  # (C, K)
    weight = layout.weight / rows.sum(axis=0)
    influences = []
    for row in values:
        sums = layout.sums(row)
        influences.append((sums - rows * (sums.sum(axis=0) / rows.sum(axis=0))) @ weight)
    return Side(np.array([macro(layout, row) for row in values]), np.stack(influences))


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
        clusters, tasks, languages, resample_seeds: as for `paired_interval`.
        resamples, seed: of the bootstrap over contents.

    Returns: one share per arm; they sum to 1.
    Raises: ValueError when the arms have different examples, or there are fewer than two contents.
    """
    matrices = [as_matrix(arm) for arm in arms]
    if len({matrix.shape[1] for matrix in matrices}) != 1:
        raise ValueError("probability_best needs one or more arms, all with the same examples")
    layout = lay_out(clusters, tasks, languages, matrices[0].shape[1])
    drawn = _redrawn(matrices, layout, resamples=resamples, seed=seed, resample_seeds=resample_seeds)
    # A difference of rounding is a tie.
    is_best = drawn >= drawn.max(axis=1, keepdims=True) - 1e-12
    shares = (is_best / is_best.sum(axis=1, keepdims=True)).mean(axis=0)
    return [float(share) for share in shares]


def seeds_interval(shares: Sequence[float], number: int) -> Interval:
    """95 % interval of a share in [0, 1] of which only its value at each of S seeds is known.

    Args:
        shares: (S,), one or more.
        number: of the independent answers that each is a share of.
    """
    mean, count = float(np.mean(shares)), len(shares)
    seeds = ((float(np.var(shares, ddof=1)) / count, count - 1),) if count > 1 else ()
    over_answers = mean * (1 - mean) / number
    spread = Spread(over_answers, float(max(1, number - 1)), over_answers, seeds)
    return Estimate(mean, spread, Contents(number, 1 / number, over_answers, number), "share").interval()


def shares_difference(after: Sequence[float], before: Sequence[float], number: int) -> PairedDifference:
    """A difference of two shares of the same answers, of which only the values at each seed are known.

    Which answers the two sides have in common is not known, so as few are taken to be as the shares allow: no pairing
    makes the interval wider.

    Args:
        after, before: shares in [0, 1], (S,) and (S',), one or more seeds each.
        number: of the independent answers that each is a share of, at least 2.
    """
    first, second = float(np.mean(after)), float(np.mean(before))
    delta = first - second
    moved = max(abs(delta), min(first + second, 2 - first - second))  # rounding must not make it smaller
    over_answers = max(0.0, moved - delta**2) / number
    seeds = tuple((float(np.var(side, ddof=1)) / len(side), len(side) - 1) for side in (after, before) if len(side) > 1)
    spread = Spread(over_answers, float(max(1, number - 1)), over_answers, seeds)
    estimate = Estimate(delta, spread, Contents(number, 1 / number, over_answers, number), "difference", moved)
    return PairedDifference(estimate, estimate.p_value())


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
    """(R, number of arms) macro means; all arms see the same redrawn contents, and the same seeds if equally many.

    A resample is a count for each content, so the sums of all arms, seeds and cells are one product of the (R, C)
    counts with what each content sums to: no row is gathered, and R is cut so that the counts fit in memory.
    """
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
