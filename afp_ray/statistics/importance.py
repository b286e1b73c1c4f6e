"""Which searched field mattered for reaching the best trials of a search: PED-ANOVA, with intervals and a test.

Shapes: T trials, G points of a field's grid.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afp_ray.statistics.estimate import Interval
from afp_ray.statistics.layout import Floats

_STEPS = 50
"""Most points of a numerical field's grid."""
_NARROWEST = 0.5 / 1.64
"""Standard deviation of a kernel, in steps of the grid, below which it would fall between them."""
MIN_TRIALS = 10
"""Fewer trials than this tell nothing about a top share of them."""


@dataclass(frozen=True, slots=True)
class SearchedField:
    """One field of a search and where its T trials took it.

    Attributes:
        name: dotted name.
        grid_index: (T,) index into the grid of each trial's value.
        grid_size: G.
        is_ordered: whether neighbours of the grid are alike; false for choices.
    """

    name: str
    grid_index: NDArray[np.intp]
    grid_size: int
    is_ordered: bool

    @classmethod
    def of_numbers(
        cls,
        name: str,
        values: Sequence[float],
        *,
        low: float,
        high: float,
        log: bool = False,
        is_int: bool = False,
        step: float | None = None,
    ) -> "SearchedField":
        """A field that was searched from `low` to `high`, in whole numbers or in steps."""
        steps = _STEPS
        if is_int and log:
            steps = min(steps, math.ceil(math.log2(high - low + 1)) + 1)
        elif is_int or step:
            steps = min(steps, round((high - low) / (step or 1)) + 1)
        if low == high or steps < 2:
            return cls(name, np.zeros(len(values), dtype=np.intp), 1, True)
        ends, scaled = np.array([low, high], dtype=float), np.asarray(values, dtype=float)
        if log:
            ends, scaled = np.log(ends), np.log(scaled)
        grid_index = np.ceil((scaled - ends[0]) / ((ends[1] - ends[0]) / (steps - 1)) - 0.5).astype(np.intp)
        return cls(name, np.clip(grid_index, 0, steps - 1), steps, True)

    @classmethod
    def of_choices(cls, name: str, values: Sequence[object], choices: Sequence[object]) -> "SearchedField":
        """A field that was searched among `choices`."""
        keys = [(isinstance(choice, bool), choice) for choice in choices]
        grid_index = [keys.index((isinstance(value, bool), value)) for value in values]
        return cls(name, np.array(grid_index, dtype=np.intp), len(choices), False)


@dataclass(frozen=True, slots=True)
class Importance:
    """How much one field mattered.

    Attributes:
        name: of the field.
        share: of the importance of all fields, with its interval over trials.
        p: of an importance this large when the field did not matter, unadjusted.
    """

    name: str
    share: Interval
    p: float


def importances(
    fields: Sequence[SearchedField],
    values: Sequence[float],
    *,
    quantile: float = 0.1,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Importance]:
    """Share of each field in what tells the best trials from all trials.

    The interval is of the bootstrap over trials. The test shuffles which trial got which value: the importance of a
    field that did not matter is as large by chance in a share p of the shuffles.

    Args:
        fields: what was searched, each with T values.
        values: (T,) objective of each trial, higher is better.
        quantile: share of the trials that are called best.
        resamples: number of redrawn sets of trials, and of shuffles.
        seed: of the draws.

    Returns: one per field, in the order given.
    Raises: ValueError for fewer than `MIN_TRIALS` trials, or fields of other lengths.
    Source: Watanabe, Bansal, Hutter, PED-ANOVA, arXiv:2304.10255: the Pearson divergence of the density of the best
        trials from that of all, per field, kernels by Scott's rule on a grid.
    """
    array = np.asarray(values, dtype=float)
    if len(array) < MIN_TRIALS or any(len(field.grid_index) != len(array) for field in fields):
        raise ValueError(f"importances need at least {MIN_TRIALS} trials and one value of every field for each")
    random = np.random.default_rng(seed)
    seen = _divergences(fields, array, np.arange(len(array)), quantile)
    redrawn, shuffled = [], []
    for _ in range(resamples):
        redrawn.append(_shares(_divergences(fields, array, random.integers(0, len(array), len(array)), quantile)))
        shuffled.append(_divergences(fields, random.permutation(array), np.arange(len(array)), quantile))
    # The interval is made to hold the share that was seen, which a bootstrap of few trials need not.
    low, high = np.quantile(redrawn, [0.025, 0.975], axis=0)
    extreme = (np.stack(shuffled) >= seen - 1e-12).sum(axis=0)
    p_values = [float(count + 1) / (resamples + 1) for count in extreme]
    return [
        Importance(field.name, Interval(float(share), min(float(share), float(a)), max(float(share), float(b))), p)
        for field, share, a, b, p in zip(fields, _shares(seen), low, high, p_values, strict=True)
    ]


def _shares(divergences: Floats) -> Floats:
    total = divergences.sum()
    return divergences / total if total > 0 else np.full(len(divergences), 1 / max(1, len(divergences)))


def _divergences(fields: Sequence[SearchedField], values: Floats, drawn: NDArray[np.intp], quantile: float) -> Floats:
    """Importance of each field among the drawn trials; trials as good as the last of the best are best too."""
    own = values[drawn]
    rank = math.ceil(quantile * len(own)) - 1
    best = drawn[own >= -np.partition(-own, rank)[rank]]
    return np.array([divergence(field, best, drawn) for field in fields]) * (len(best) / len(drawn)) ** 2


def divergence(field: SearchedField, best: NDArray[np.intp], drawn: NDArray[np.intp]) -> float:
    """Pearson divergence of the field's density among the best trials from that among all that were drawn."""
    if field.grid_size < 2:
        return 0.0
    top = _density(np.bincount(field.grid_index[best], minlength=field.grid_size), field.is_ordered) + 1e-12
    every = _density(np.bincount(field.grid_index[drawn], minlength=field.grid_size), field.is_ordered) + 1e-12
    return float(every @ np.square(top / every - 1))


def _density(counts: NDArray[np.intp], is_ordered: bool) -> Floats:
    """(G,) density of trials with these counts, one uniform trial added."""
    from scipy.special import ndtr  # the cumulative normal distribution; imported here as in `t_quantile`

    size, total = len(counts), counts.sum()
    if not is_ordered:
        # Each kernel spreads a little over all choices, the less the more of them were taken.
        kernels = int(np.count_nonzero(counts)) + 1
        spread = 1 / kernels
        mixed = (counts + spread * total) / (1 + size * spread) + 1 / size
        return np.asarray(mixed / (total + 1), dtype=np.float64)
    grid_index = np.flatnonzero(counts)
    weights = counts[grid_index].astype(float)
    widths = np.append(np.full(len(grid_index), _width(grid_index, weights)), float(size))
    centres = np.append(grid_index.astype(float), (size - 1) / 2)
    edges = np.arange(size + 1) - 0.5
    below = ndtr((edges[None, :] - centres[:, None]) / widths[:, None])
    mass = np.diff(below, axis=1) / (below[:, -1:] - below[:, :1])
    mixed = np.append(weights, 1.0) @ mass / (total + 1)
    return np.asarray(mixed, dtype=np.float64)


def _width(grid_index: NDArray[np.intp], weights: Floats) -> float:
    """Bandwidth by Scott's rule, in steps of the grid."""
    total = weights.sum()
    mean = grid_index @ weights / total
    deviation = math.sqrt(float(np.square(grid_index - mean) @ weights) / max(1.0, float(total) - 1))
    cumulative = np.cumsum(weights)
    first = int(np.searchsorted(cumulative, total // 4, side="left"))
    third = min(len(grid_index) - 1, int(np.searchsorted(cumulative, total * 3 // 4, side="right")))
    middle = float(grid_index[third] - grid_index[first])
    return float(max(1.059 * min(middle / 1.34, deviation) * float(total) ** -0.2, _NARROWEST))
