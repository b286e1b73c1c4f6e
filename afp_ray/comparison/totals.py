"""Intervals and tests of scores that are computed from sums over sentences, such as BLEU, beside plain means.

What is redrawn or flipped is a content, as in `statistics`; the score of every cell is computed anew from the sums of
what was drawn, and cells are averaged as everywhere: over shots, then languages, then tasks.

Shapes: S seeds, N examples, C contents, K cells (one per task, language and shots), D totals, R resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afp_ray.comparison.confirmed import ConfirmedArm
from afp_ray.evaluation.text_metrics import bleu_of_totals
from afp_ray.records import Difference
from afp_ray.statistics import (
    Interval,
    Side,
    Spread,
    content_strata,
    interval_of,
    measure_spread,
    redrawn_contents,
    redrawn_seeds,
)

Floats = NDArray[np.float64]
OF_TOTALS: dict[str, Callable[[Floats], Floats]] = {"bleu": bleu_of_totals}
"""(R, D) sums -> (R,) values, by the main metrics that are no means."""
_NEEDED = "paired bootstrap and permutation of sentences, clustered by content"


@dataclass(frozen=True, slots=True)
class _Sums:
    """The chosen examples of one arm.

    Attributes:
        parts: (S, C, D) sums over the rows of each content, one array per cell; a plain mean has (value, 1) per row.
        metrics: K names; "" for plain means.
        weights: (K,) weight of each cell in the macro mean.
        contents, cells: (N,) names by row.
    """

    parts: list[Floats]
    metrics: list[str]
    weights: Floats
    contents: list[str]
    cells: list[tuple[str, str, int]]


def has_totals(arm: ConfirmedArm, where: NDArray[np.bool_]) -> bool:
    """Whether a score under the mask is computed from totals."""
    return arm.totals is not None and bool(np.isin(arm.examples.metric[where], list(OF_TOTALS)).any())


def value(arm: ConfirmedArm, where: NDArray[np.bool_]) -> float:
    """The macro mean under the mask, mean over seeds."""
    sums = _sums(arm, where)
    return float(_scores(sums, [part.sum(axis=1) for part in sums.parts]).mean())


def interval(
    arms: Sequence[ConfirmedArm], where: NDArray[np.bool_], *, sign: int = 1, resamples: int, seed: int = 0
) -> Interval | None:
    """95 % interval of the first arm's score, or of its difference to the second; None with fewer than two contents."""
    found = _interval(arms, where, sign=sign, resamples=resamples, seed=seed)
    return found[0] if found else None


def _interval(
    arms: Sequence[ConfirmedArm], where: NDArray[np.bool_], *, sign: int, resamples: int, seed: int = 0
) -> tuple[Interval, Spread] | None:
    drawn = _redrawn(arms, where, resamples=resamples, seed=seed, with_seeds=False)
    if drawn is None:
        return None
    sums = [_sums(arm, where) for arm in arms]
    spread = measure_spread([_side(one) for one in sums], content_strata(sums[0].contents, sums[0].cells))
    values = [value(arm, where) for arm in arms]
    if len(arms) == 1:
        return interval_of(values[0], drawn[:, 0], spread), spread
    return interval_of(sign * (values[0] - values[1]), sign * (drawn[:, 0] - drawn[:, 1]), spread), spread


def _side(sums: _Sums) -> Side:
    """Scores by seed, and what each content moves them by: what they lose when it is left out."""
    num_seeds, num_contents, _ = sums.parts[0].shape
    scores, influences = np.empty(num_seeds), np.empty((num_seeds, num_contents))
    for s in range(num_seeds):
        whole = [part[s].sum(axis=0) for part in sums.parts]
        scores[s] = _scores(sums, [total[None] for total in whole])[0]
        left_out = [_or_whole(total - part[s], total) for total, part in zip(whole, sums.parts, strict=True)]
        influences[s] = (scores[s] - _scores(sums, left_out)) * (num_contents - 1) / num_contents
    return Side(scores, influences)


def difference(
    arm: ConfirmedArm, base: ConfirmedArm, where: NDArray[np.bool_], *, sign: int, resamples: int
) -> Difference:
    """`arm` minus `base` over the examples under the mask; positive is better."""
    n = int(where.sum())
    found = _interval([arm, base], where, sign=sign, resamples=resamples)
    if found is None:
        delta = sign * (value(arm, where) - value(base, where))
        return Difference(delta=delta, n=n, test="none: fewer than two contents")
    interval, spread = found
    p = permutation(arm, base, where, resamples=resamples)
    if spread.seeds:  # a difference that other runs would not show is none
        p = max(p, spread.p_value(interval.mean))
    return Difference(delta=interval.mean, ci95=(interval.low, interval.high), p=p, n=n, test=_NEEDED)


def permutation(
    arm: ConfirmedArm, base: ConfirmedArm, where: NDArray[np.bool_], *, resamples: int, seed: int = 0
) -> float:
    """Two-sided p-value of the difference when the two sides of each content may be swapped.

    Totals are averaged over the seeds of a side first, so the test speaks of these very runs.
    """
    left, right = _sums(arm, where), _sums(base, where)
    ours, theirs = ([part.mean(axis=0) for part in side.parts] for side in (left, right))  # K times (C, D)
    num_contents = len(ours[0])
    random = np.random.default_rng(seed)
    # The first pattern swaps nothing: it is the difference that was seen.
    swapped = np.concatenate([np.zeros((1, num_contents)), random.integers(0, 2, size=(resamples, num_contents))])
    sides = []
    for kept, other in ((ours, theirs), (theirs, ours)):
        sums = [mine.sum(axis=0) + swapped @ (yours - mine) for mine, yours in zip(kept, other, strict=True)]
        sides.append(_scores(left, [part for part in sums]))
    gaps = np.abs(sides[0] - sides[1])
    # Equal statistics must count as equal whatever the order of their sums.
    return float((gaps[1:] >= gaps[0] - 1e-9).sum() + 1) / (resamples + 1) if gaps[0] > 1e-12 else 1.0


def shares_of_best(
    arms: Sequence[ConfirmedArm], where: NDArray[np.bool_], *, sign: int, resamples: int, seed: int = 0
) -> list[float] | None:
    """Share of resamples in which each arm has the best score; ties are shared out."""
    drawn = _redrawn(arms, where, resamples=resamples, seed=seed)
    if drawn is None:
        return None
    signed = sign * drawn
    is_best = signed >= signed.max(axis=1, keepdims=True) - 1e-12
    shares = (is_best / is_best.sum(axis=1, keepdims=True)).mean(axis=0)
    return [float(share) for share in shares]


def _redrawn(
    arms: Sequence[ConfirmedArm], where: NDArray[np.bool_], *, resamples: int, seed: int, with_seeds: bool = True
) -> Floats | None:
    """(R, number of arms) scores of redrawn contents, and seeds if asked; None with fewer than two contents."""
    sums = [_sums(arm, where) for arm in arms]
    first = sums[0]
    if len(set(first.contents)) < 2:
        return None
    # Arms with equally many seeds redraw the same ones.
    random = {len(side.parts[0]): np.random.default_rng((seed, len(side.parts[0]))) for side in sums}
    rows = []
    for counts in redrawn_contents(first.contents, first.cells, resamples=resamples, seed=seed):
        weights = {number: redrawn_seeds(one, number, len(counts)) for number, one in random.items()}
        chunk = []
        for side in sums:
            by_seed = [
                _scores(side, [_or_whole(counts @ part[s], part[s].sum(axis=0)) for part in side.parts])
                for s in range(len(side.parts[0]))
            ]
            share = weights[len(by_seed)] if with_seeds else 1 / len(by_seed)
            chunk.append((np.stack(by_seed, axis=1) * share).sum(axis=1))
        rows.append(np.stack(chunk, axis=1))
    return np.concatenate(rows)


def _or_whole(drawn: Floats, whole: Floats) -> Floats:
    """Sums of what was drawn; a cell without a drawn row, which only a tiny one ever is, keeps all its rows."""
    return np.where(drawn.any(axis=1, keepdims=True), drawn, whole)


def _scores(sums: _Sums, totals: Sequence[Floats]) -> Floats:
    """(R,) macro means from the (R, D) sums of each cell."""
    values = [
        OF_TOTALS[metric](part) if metric else part[:, 0] / part[:, 1]
        for metric, part in zip(sums.metrics, totals, strict=True)
    ]
    return np.asarray(np.stack(values, axis=1) @ sums.weights, dtype=np.float64)


def _sums(arm: ConfirmedArm, where: NDArray[np.bool_]) -> _Sums:
    assert arm.totals is not None
    examples = arm.examples
    columns = (examples.task[where], examples.language[where], examples.shots[where])
    cells = [(str(task), str(code), int(shots)) for task, code, shots in zip(*columns, strict=True)]
    names = list(dict.fromkeys(cells))
    contents = [str(name) for name in examples.content_id[where]]
    number = {name: place for place, name in enumerate(dict.fromkeys(contents))}
    content = np.array([number[name] for name in contents])
    cell = np.array([names.index(name) for name in cells])
    metrics = examples.metric[where]
    parts, kinds = [], []
    for place in range(len(names)):
        rows = cell == place
        kind = str(metrics[rows][0])
        if kind in OF_TOTALS:
            kinds.append(kind)
            per_row = arm.totals[:, where][:, rows]
        else:
            kinds.append("")
            plain = arm.values[:, where][:, rows]
            per_row = np.stack([plain, np.ones_like(plain)], axis=2)
        summed = np.zeros((len(per_row), len(number), per_row.shape[2]))
        for seed, values in enumerate(per_row):
            np.add.at(summed[seed], content[rows], values)
        parts.append(summed)
    return _Sums(parts, kinds, _weights(names), contents, cells)


def _weights(cells: Sequence[tuple[str, str, int]]) -> Floats:
    """(K,) weights of the mean over tasks of the mean over languages of the mean over shots."""
    tasks = {task for task, _, _ in cells}
    languages = {(task, code) for task, code, _ in cells}
    found = []
    for task, code, _ in cells:
        codes = sum(name == task for name, _ in languages)
        shots = sum((name, other) == (task, code) for name, other, _ in cells)
        found.append(1 / (len(tasks) * codes * shots))
    return np.array(found)
