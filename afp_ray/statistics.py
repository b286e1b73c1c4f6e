"""Intervals, tests and choices over scores: paired, clustered by content, over seeds.

Every comparison here is paired: both sides were scored on the same N examples. Rows made from the same facts are not
independent, so whatever is redrawn or flipped is a content, never a row; a content takes its rows in every task and
language with it. The quantity is always the macro mean: over tasks, of the mean over languages, of the mean over rows.

Shapes: S seeds, N examples, C contents, K cells (one per task and language), R resamples.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_MAX_DRAWS = 1 << 23
"""Random numbers held at a time; resamples beyond are drawn in the next chunk."""
_EXACT_CONTENTS = 12
"""Up to so many contents, the permutation test counts every sign pattern instead of drawing some."""


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
class _Layout:
    """Where the N examples belong.

    Attributes:
        content: (N,) index into the C contents.
        cell: (N,) index into the K cells.
        weight: (K,) weight of each cell's mean in the macro mean; sums to 1.
        strata: content indices that are redrawn among themselves.
    """

    content: NDArray[np.intp]
    cell: NDArray[np.intp]
    weight: Floats
    strata: list[NDArray[np.intp]]

    def sums(self, values: Floats) -> Floats:
        """(C, K) sum of the (N,) values of each content in each cell."""
        shape = (int(self.content.max()) + 1, len(self.weight))
        flat = np.bincount(self.content * shape[1] + self.cell, weights=values, minlength=shape[0] * shape[1])
        return np.asarray(flat, dtype=np.float64).reshape(shape)


def macro_mean(
    values: ArrayLike, *, tasks: Sequence[Hashable] | None = None, languages: Sequence[Hashable] | None = None
) -> float:
    """Mean over tasks of the mean over languages of the mean over examples.

    Args:
        values: (N,) one value per example, or (S, N): seeds are averaged per example first.
        tasks, languages: (N,) of each example; null means that all examples share one.
    """
    matrix = _matrix(values)
    layout = _layout(range(matrix.shape[1]), tasks, languages, matrix.shape[1])
    return float(_macro(layout, matrix.mean(axis=0)))


def clustered_standard_error(values: ArrayLike, clusters: Sequence[Hashable]) -> float | None:
    """Standard error of the mean of `values` when rows of one cluster are not independent.

    With one row per cluster this is the usual standard deviation / sqrt(N).

    Args:
        values: (N,).
        clusters: (N,) content of each example.

    Returns: the standard error, on the scale of the values; None when there are fewer than two clusters.
    """
    array = np.asarray(values, dtype=float)
    index = _indices(clusters, len(array))
    count = int(index.max()) + 1
    if count < 2:
        return None
    residuals = np.bincount(index, weights=array - array.mean())
    return float(np.sqrt((residuals**2).sum() * count / (count - 1)) / len(array))


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
    itself, not less), within each group of cells that share contents. With several seeds on a side and
    `resample_seeds`, its seeds are redrawn too, S - 1 of S, independently of the contents: this is the headline, since
    it says what another training run would give. Sides with equally many seeds redraw the same ones (row s of both is
    the same seed). Without `resample_seeds`, seeds are averaged per example and the interval speaks of these very runs.
    Of two or three seeds the spread is known poorly: the interval is then too narrow where seeds differ much.

    Args:
        a, b: (N,) or (S, N) values of the two sides, for instance 1 where an answer is right; a side may have fewer
            seeds than the other.
        clusters: (N,) content of each example; equal contents in several tasks or languages are redrawn together.
        tasks, languages: (N,) cell of each example; null means that all examples share one.
        resamples: R.
        seed: of the draws; equal seeds give equal intervals, and swapping `a` and `b` negates them.
        confidence: share of the redrawn means between `low` and `high`, the same share left out on both ends.
        resample_seeds: whether seeds are redrawn.

    Raises: ValueError when the sides have different examples, or there are fewer than two contents.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13; C - 1 draws: Rao and Wu,
        Resampling Inference With Complex Survey Data (1988).
    """
    left, right = _matrix(a), _matrix(b)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"a has {left.shape[1]} examples, b has {right.shape[1]}; a paired test needs the same ones")
    layout = _layout(clusters, tasks, languages, left.shape[1])
    drawn = _redrawn([left, right], layout, resamples=resamples, seed=seed, resample_seeds=resample_seeds)
    differences = drawn[:, 0] - drawn[:, 1]
    mean = float(_macro(layout, left.mean(axis=0)) - _macro(layout, right.mean(axis=0)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


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
        a, b, clusters, tasks, languages: as for `paired_bootstrap`.
        resamples: sign patterns drawn where they are not all counted.
        seed: of the draws.

    Returns: p in (0, 1]; 1 when no example differs.
    Raises: ValueError when the sides have different examples.
    """
    left, right = _matrix(a), _matrix(b)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"a has {left.shape[1]} examples, b has {right.shape[1]}; a paired test needs the same ones")
    layout = _layout(clusters, tasks, languages, left.shape[1])
    rows = layout.sums(np.ones(left.shape[1])).sum(axis=0)
    gains = layout.sums(left.mean(axis=0) - right.mean(axis=0)) @ (layout.weight / rows)  # (C,), they sum to the mean
    gains = gains[gains != 0]
    if len(gains) == 0:
        return 1.0
    # Equal statistics must count as equal whatever the order of their sums.
    threshold = abs(gains.sum()) - 1e-9 * float(np.abs(gains).sum())
    if len(gains) <= _EXACT_CONTENTS:
        patterns = np.arange(1 << len(gains))[:, None] >> np.arange(len(gains)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ gains) >= threshold))
    random = np.random.default_rng(seed)
    extreme = 0
    for size in _chunks(resamples, len(gains)):
        signs = random.integers(0, 2, size=(size, len(gains)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ gains) >= threshold).sum())
    return (extreme + 1) / (resamples + 1)


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
    matrices = [_matrix(arm) for arm in arms]
    if len({matrix.shape[1] for matrix in matrices}) != 1:
        raise ValueError("probability_best needs one or more arms, all with the same examples")
    layout = _layout(clusters, tasks, languages, matrices[0].shape[1])
    drawn = _redrawn(matrices, layout, resamples=resamples, seed=seed, resample_seeds=resample_seeds)
    is_best = drawn >= drawn.max(axis=1, keepdims=True) - 1e-12
    shares = (is_best / is_best.sum(axis=1, keepdims=True)).mean(axis=0)
    return [float(share) for share in shares]


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


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution, for 0.5 <= probability < 1.

    With t = sqrt(degrees) tan(angle) the density becomes cos(angle) ** (degrees - 1), smooth on a bounded range.
    """
    angles = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angles) ** (degrees - 1)
    cumulative = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2)))
    angle = float(np.interp(2 * probability - 1, cumulative / cumulative[-1], angles))
    return math.sqrt(degrees) * math.tan(angle)


def pareto_front(qualities: Sequence[float], costs: Sequence[float]) -> list[int]:
    """Indices of the points that no other point beats, cheapest first.

    A point beats another when its quality is not lower, its cost not higher, and one of the two is better; equal
    points stay together.
    """
    if len(qualities) != len(costs):
        raise ValueError(f"{len(qualities)} qualities and {len(costs)} costs")
    front: list[int] = []
    best = -math.inf
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i], i)):
        is_equal = bool(front) and (qualities[index], costs[index]) == (qualities[front[-1]], costs[front[-1]])
        if qualities[index] > best or is_equal:
            front.append(index)
            best = qualities[index]
    return front


def _matrix(values: ArrayLike) -> Floats:
    """(S, N) of values; a vector is one seed."""
    matrix = np.atleast_2d(np.asarray(values, dtype=float))
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"values of shape {matrix.shape} are neither (examples) nor (seeds, examples)")
    return matrix


def _indices(names: Sequence[Hashable], size: int) -> NDArray[np.intp]:
    """(N,) number of each name, in order of first appearance."""
    if len(names) != size:
        raise ValueError(f"{size} values and {len(names)} labels")
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.intp)


def _layout(
    clusters: Sequence[Hashable],
    tasks: Sequence[Hashable] | None,
    languages: Sequence[Hashable] | None,
    size: int,
) -> _Layout:
    tasks = [None] * size if tasks is None else tasks
    languages = [None] * size if languages is None else languages
    if not len(tasks) == len(languages) == size:
        raise ValueError(f"{size} values, {len(tasks)} tasks and {len(languages)} languages")
    content = _indices(clusters, size)
    pairs = list(zip(tasks, languages, strict=True))
    cell = _indices(pairs, size)
    cells = list(dict.fromkeys(pairs))
    per_task = {task: sum(1 for name, _ in cells if name == task) for task, _ in cells}
    weight = np.array([1 / (len(per_task) * per_task[task]) for task, _ in cells])
    return _Layout(content, cell, weight, _strata(content, cell, len(cells)))


def _strata(content: NDArray[np.intp], cell: NDArray[np.intp], num_cells: int) -> list[NDArray[np.intp]]:
    """Contents grouped by cells that share contents, directly or through others.

    So a cell with contents of its own keeps their number in every resample, and cells that say the same in several
    languages move together. Groups of one content, which has no spread by itself, are joined.
    """
    group = np.arange(num_cells)
    order = np.argsort(content, kind="stable")
    first = np.empty(int(content.max()) + 1, dtype=np.intp)
    first[content[order][::-1]] = cell[order][::-1]
    while True:  # label propagation: every cell takes the lowest label among the cells that it shares contents with
        lowest = np.full(len(first), num_cells)
        np.minimum.at(lowest, content, group[cell])
        merged = group.copy()
        np.minimum.at(merged, cell, lowest[content])
        if (merged == group).all():
            break
        group = merged
    label = group[first]
    groups = [np.flatnonzero(label == value) for value in np.unique(label)]
    single = [members for members in groups if len(members) == 1]
    large = [members for members in groups if len(members) > 1]
    if single:
        joined = np.concatenate(single)
        if len(joined) > 1 or not large:
            large.append(joined)
        else:
            large[-1] = np.concatenate([large[-1], joined])
    return large


def _macro(layout: _Layout, values: Floats) -> np.float64:
    counts = np.bincount(layout.cell, minlength=len(layout.weight))
    means = np.bincount(layout.cell, weights=values, minlength=len(layout.weight)) / counts
    return np.float64(means @ layout.weight)


def _redrawn(arms: Sequence[Floats], layout: _Layout, *, resamples: int, seed: int, resample_seeds: bool) -> Floats:
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
    for size in _chunks(resamples, num_contents):
        totals = _draw_contents(random, layout.strata, num_contents, size) @ stacked
        counts, offset = totals[:, : rows.shape[1]], rows.shape[1]
        part = np.empty((size, len(sums)))
        seed_weights = {number: _draw_seeds(seed_random[number], number, size) for number in seed_random}
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


def _draw_contents(
    random: np.random.Generator, strata: Sequence[NDArray[np.intp]], num_contents: int, size: int
) -> Floats:
    """(R, C) how often each content is drawn; C_s - 1 draws among the C_s of a stratum."""
    counts = np.zeros((size, num_contents))
    for members in strata:
        count = len(members)
        picks = random.integers(0, count, size=(size, max(1, count - 1)))
        flat = (picks + np.arange(size)[:, None] * count).ravel()
        counts[:, members] = np.bincount(flat, minlength=size * count).reshape(size, count)
    return counts


def _draw_seeds(random: np.random.Generator, num_seeds: int, size: int) -> Floats:
    """(R, S) weights of the seeds, summing to 1; S - 1 draws."""
    if num_seeds == 1:
        return np.ones((size, 1))
    picks = random.integers(0, num_seeds, size=(size, num_seeds - 1))
    return np.asarray((picks[..., None] == np.arange(num_seeds)).mean(axis=1), dtype=np.float64)


def _chunks(total: int, width: int) -> list[int]:
    """Numbers of resamples whose draws fit in memory, summing to `total`."""
    size = max(1, _MAX_DRAWS // max(1, width))
    return [min(size, total - begin) for begin in range(0, total, size)]
