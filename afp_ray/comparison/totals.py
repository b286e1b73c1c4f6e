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
from afp_ray.statistics import (
    Contents,
    Estimate,
    Floats,
    Interval,
    PairedDifference,
    Side,
    content_strata,
    measure_spread,
    moved_by,
    redrawn_contents,
    redrawn_seeds,
)

OF_TOTALS: dict[str, Callable[[Floats], Floats]] = {"bleu": bleu_of_totals}
"""(R, D) sums -> (R,) values, by the main metrics that are no means."""
TEST = "paired score interval and permutation of sentences, clustered by content"


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
    return float(by_seed(arm, where).mean())


def by_seed(arm: ConfirmedArm, where: NDArray[np.bool_]) -> Floats:
    """(S,) the macro mean under the mask at each seed."""
    sums = _sums(arm, where)
    return _scores(sums, [part.sum(axis=1) for part in sums.parts])


def interval(arm: ConfirmedArm, where: NDArray[np.bool_]) -> Interval:
    """95 % interval of the arm's score under the mask, in [0, 1]; it needs two contents."""
    sums = _sums(arm, where)
    side = _side(sums)
    spread = measure_spread([side], content_strata(sums.contents, sums.cells))
    return Estimate(
        value(arm, where), spread, _contents(sums, side.influences.mean(axis=0), spread.plain), "share"
    ).interval()


def difference(
    arm: ConfirmedArm, base: ConfirmedArm, where: NDArray[np.bool_], *, sign: int, resamples: int
) -> PairedDifference:
    """`arm` minus `base` over the examples under the mask; positive is better. It needs two contents.

    What a content moves the difference by takes the place of the difference of a pair of answers.
    """
    sums = [_sums(arm, where), _sums(base, where)]
    left, right = (_side(side_sums) for side_sums in sums)
    spread = measure_spread([left, right], content_strata(sums[0].contents, sums[0].cells))
    delta = sign * (value(arm, where) - value(base, where))
    own = left.influences.mean(axis=0) - right.influences.mean(axis=0)
    moved = float(moved_by(*(side.influences * len(own) + side.scores[:, None] for side in (left, right))).mean())
    estimate = Estimate(
        delta, spread, _contents(sums[0], own, spread.plain), "difference", min(1.0, max(abs(delta), moved))
    )
    p = permutation(arm, base, where, resamples=resamples)
    # A difference that other runs would not show is none.
    return PairedDifference(estimate, max(p, estimate.p_value()) if spread.seeds else p)


def _contents(sums: _Sums, influences: Floats, plain: float) -> Contents:
    """The contents by their rows in each cell; those deviate that move the score."""
    rows = np.zeros((len(influences), len(sums.weights)))
    number = {name: index for index, name in enumerate(dict.fromkeys(sums.contents))}
    cells = {cell: index for index, cell in enumerate(dict.fromkeys(sums.cells))}
    for name, cell in zip(sums.contents, sums.cells, strict=True):
        rows[number[name], cells[cell]] += 1
    weights = (rows / rows.sum(axis=0)) @ sums.weights
    deviating = int((np.abs(influences) > 1e-12).sum())
    # How alike the rows of a content are cannot be told apart from what they do to the score.
    return Contents(len(weights), float(np.square(weights).sum()), plain, deviating)


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
    # Swapping a content moves what it sums to from one side to the other: every pattern is one row of a product with
    # the differences, whatever the number of sentences.
    sides = []
    for own, other in ((ours, theirs), (theirs, ours)):
        sums = [mine.sum(axis=0) + swapped @ (yours - mine) for mine, yours in zip(own, other, strict=True)]
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
        weights = {number: redrawn_seeds(generator, number, len(counts)) for number, generator in random.items()}
        chunk = []
        for side in sums:
            by_seed = [
                _scores(side, [_or_whole(counts @ part[s], part[s].sum(axis=0)) for part in side.parts])
                for s in range(len(side.parts[0]))
            ]
            chunk.append((np.stack(by_seed, axis=1) * weights[len(by_seed)]).sum(axis=1))
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
    number = {name: index for index, name in enumerate(dict.fromkeys(contents))}
    content = np.array([number[name] for name in contents])
    cell = np.array([names.index(name) for name in cells])
    metrics = examples.metric[where]
    parts, kinds = [], []
    for index in range(len(names)):
        rows = cell == index
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
    weights = []
    for task, code, _ in cells:
        codes = sum(name == task for name, _ in languages)
        shots = sum((name, other) == (task, code) for name, other, _ in cells)
        weights.append(1 / (len(tasks) * codes * shots))
    return np.array(weights)
