"""Where examples belong: contents that are redrawn, cells that are averaged, and the macro mean over them.

Shapes: S seeds, N examples, C contents, K cells (one per task and language), R resamples.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_MAX_DRAWS = 1 << 23
"""Random numbers held at a time; resamples beyond are drawn in the next chunk."""


@dataclass(frozen=True, slots=True)
class Layout:
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


def clustered_standard_error(values: ArrayLike, clusters: Sequence[Hashable]) -> float | None:
    """Standard error of the mean of `values` when rows of one cluster are not independent.

    With one row per cluster this is the usual standard deviation / sqrt(N).

    Args:
        values: (N,).
        clusters: (N,) content of each example.

    Returns: the standard error, on the scale of the values; None when there are fewer than two clusters.
    """
    array = np.asarray(values, dtype=float)
    index = indices(clusters, len(array))
    count = int(index.max()) + 1
    if count < 2:
        return None
    residuals = np.bincount(index, weights=array - array.mean())
    return float(np.sqrt((residuals**2).sum() * count / (count - 1)) / len(array))


def redrawn_contents(
    clusters: Sequence[Hashable], cells: Sequence[Hashable], *, resamples: int, seed: int = 0
) -> Iterator[Floats]:
    """How often each content is drawn in each resample: (R', C), some resamples at a time.

    Contents are numbered in the order of their first row; `clusters` and `cells` are (N,).
    """
    layout = lay_out(clusters, cells, None, len(cells))
    random, number = np.random.default_rng(seed), int(layout.content.max()) + 1
    for size in chunks(resamples, number):
        yield draw_contents(random, layout.strata, number, size)


def content_strata(clusters: Sequence[Hashable], cells: Sequence[Hashable]) -> list[NDArray[np.intp]]:
    """Contents, numbered as for `redrawn_contents`, by the groups that are redrawn among themselves."""
    return lay_out(clusters, cells, None, len(cells)).strata


def as_matrix(values: ArrayLike) -> Floats:
    """(S, N) of values; a vector is one seed."""
    matrix = np.atleast_2d(np.asarray(values, dtype=float))
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"values of shape {matrix.shape} are neither (examples) nor (seeds, examples)")
    return matrix


def as_pair(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    """(S, N) of the values of both sides, which were scored on the same N examples.

    Raises: ValueError when they were not.
    """
    left, right = as_matrix(a), as_matrix(b)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"a has {left.shape[1]} examples, b has {right.shape[1]}; a paired test needs the same ones")
    return left, right


def indices(names: Sequence[Hashable], size: int) -> NDArray[np.intp]:
    """(N,) number of each name, in order of first appearance."""
    if len(names) != size:
        raise ValueError(f"{size} values and {len(names)} labels")
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.intp)


def lay_out(
    clusters: Sequence[Hashable],
    tasks: Sequence[Hashable] | None,
    languages: Sequence[Hashable] | None,
    size: int,
) -> Layout:
    """Contents and cells of N examples, numbered in the order in which they first appear."""
    tasks = [None] * size if tasks is None else tasks
    languages = [None] * size if languages is None else languages
    if not len(tasks) == len(languages) == size:
        raise ValueError(f"{size} values, {len(tasks)} tasks and {len(languages)} languages")
    content = indices(clusters, size)
    pairs = list(zip(tasks, languages, strict=True))
    cell = indices(pairs, size)
    cells = list(dict.fromkeys(pairs))
    per_task = {task: sum(1 for name, _ in cells if name == task) for task, _ in cells}
    weight = np.array([1 / (len(per_task) * per_task[task]) for task, _ in cells])
    return Layout(content, cell, weight, _strata(content, cell, len(cells)))


def _strata(content: NDArray[np.intp], cell: NDArray[np.intp], num_cells: int) -> list[NDArray[np.intp]]:
    """Contents grouped by cells that share contents, directly or through others.

    So a cell with contents of its own keeps their number in every resample, and cells that say the same in several
    languages move together. Groups of one content, which has no spread by itself, are joined.

        xcopa/zh  a b c          xcopa shares a, b, c over its languages, so they are drawn together;
        xcopa/sw  a b c          xnli shares nothing with it and is drawn by itself:
        xnli/zh         d e      strata {a, b, c} and {d, e}
    """
    group = np.arange(num_cells)
    order = np.argsort(content, kind="stable")
    first = np.empty(int(content.max()) + 1, dtype=np.intp)
    first[content[order][::-1]] = cell[order][::-1]
    # Label propagation: every cell takes the lowest label among the cells that it shares contents with, until none
    # changes. A chain of cells takes as many rounds as it has links.
    while True:
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


def macro(layout: Layout, values: Floats) -> np.float64:
    """Macro mean of (N,) values."""
    counts = np.bincount(layout.cell, minlength=len(layout.weight))
    means = np.bincount(layout.cell, weights=values, minlength=len(layout.weight)) / counts
    return np.float64(means @ layout.weight)


def draw_contents(
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


def redrawn_seeds(random: np.random.Generator, num_seeds: int, size: int) -> Floats:
    """(R, S) weights of the seeds, summing to 1; S - 1 draws."""
    if num_seeds == 1:
        return np.ones((size, 1))
    picks = random.integers(0, num_seeds, size=(size, num_seeds - 1))
    return np.asarray((picks[..., None] == np.arange(num_seeds)).mean(axis=1), dtype=np.float64)


def chunks(total: int, width: int) -> list[int]:
    """Numbers of resamples whose draws fit in memory, summing to `total`."""
    size = max(1, _MAX_DRAWS // max(1, width))
    return [min(size, total - begin) for begin in range(0, total, size)]
