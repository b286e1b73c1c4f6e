"""What became of sentence representations: an arm beside base, at the layer that is reported, by layer, and drawn.

Shapes: N sentences.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from afp_ray.comparison.confirmed import ConfirmedArm
from afp_ray.comparison.metric import RESAMPLES
from afp_ray.comparison.retrieval import found_pairs
from afp_ray.comparison.wording import Measured, adjust, p_of, p_text, points
from afp_ray.evaluation.projection import SentenceStates, read_states
from afp_ray.records import ArmRow, Comparison, Difference, Interval, LayerMetrics, RepresentationRow
from afp_ray.statistics import MIN_CONTENTS, seeds_interval, shares_difference
from afp_ray.store import StudyPaths, find_result

Points = Mapping[str, NDArray[np.floating[Any]]]
"""(N, 2) by language."""
BaseOf = Callable[[Any, Sequence[Any]], Any]
MEASURES = (
    "retrieval_from_pivot",
    "retrieval_to_pivot",
    "alignment",
    "uniformity",
    "anisotropy",
    "language_probe",
)
_TRIPLE = ("retrieval_at_1", "alignment", "uniformity")


@dataclass(frozen=True, slots=True)
class Drawing:
    """Sentences of base and of an arm in two dimensions, both in the axes of base.

    Attributes:
        shares: share of base's variance along each axis, in [0, 1].
        before, after: where the sentences lie.
    """

    shares: tuple[float, float]
    before: Points
    after: Points


@dataclass(frozen=True, slots=True)
class Change:
    """What one arm did to the representations of its base.

    Attributes:
        arm, base: names.
        layer, pooling: what is reported, and drawn.
        by_layer: measure -> layer -> (before, after), mean over languages and seeds at `pooling`; None where a result
            lacks it.
        chance: of the language probe.
        drawing: of the first seed; None where its states, or those of base, were not kept.
    """

    arm: str
    base: str
    layer: int
    pooling: str
    by_layer: Mapping[str, Mapping[int, tuple[float | None, float | None]]]
    chance: float | None
    drawing: Drawing | None


def representation_rows(
    arms: Sequence[ConfirmedArm], bases: Sequence[ConfirmedArm | None], split: str
) -> list[RepresentationRow]:
    """Per arm: the mean over languages, then each language, at the layer that validation chose; its base beside it."""
    rows: list[RepresentationRow] = []
    measured: dict[str, Measured | None] = {}
    for arm, base in zip(arms, bases, strict=True):
        layers = [row for result in arm.results for row in result.layers]
        reported = _best_layer(layers)
        if reported is None:
            continue
        before = [row for result in base.results for row in result.layers] if base else []
        for language in ("", *sorted({row.language for row in layers})):
            ours, theirs = (_at(rows_of, reported, split, language) for rows_of in (layers, before))
            if ours:
                rows.append(_row(arm.name, reported, language, ours, theirs))
        measured[arm.name] = _retrieval(arm, base, reported, split) if base else None
    differences = dict(zip(measured, adjust(list(measured.values())), strict=True))
    by_name = {arm.name: (arm, base) for arm, base in zip(arms, bases, strict=True)}
    return [
        row if row.language else _with_intervals(row, *by_name[row.arm], differences[row.arm], split) for row in rows
    ]


def _with_intervals(
    row: RepresentationRow, arm: ConfirmedArm, base: ConfirmedArm | None, delta: Difference | None, split: str
) -> RepresentationRow:
    """The mean over languages of an arm with how far retrieval may be off, and its difference to base."""
    reported = (row.layer, row.pooling)
    update = {
        "retrieval_ci95": _interval(arm, reported, split),
        "retrieval_before_ci95": _interval(base, reported, split) if base and row.before else None,
        "retrieval_difference": delta,
    }
    return row.model_copy(update=update)


def _found(arm: ConfirmedArm, reported: tuple[int, str], split: str) -> tuple[list[float], int]:
    """Retrieval by seed, mean over languages, and the pairs of a language: languages share their sentences."""
    by_seed = [_at(result.layers, reported, split) for result in arm.results]
    shares = [float(np.mean([row.retrieval_at_1 for row in rows])) for rows in by_seed if rows]
    return shares, min((row.n for rows in by_seed for row in rows), default=0)


def _interval(arm: ConfirmedArm, reported: tuple[int, str], split: str) -> Interval | None:
    """Over pairs and seeds, from single pairs where they were kept; None where there are too few."""
    pairs = found_pairs(arm, reported, split)
    if pairs is not None:
        whole = pairs.interval()
        return None if whole is None else (whole.low, whole.high)
    shares, number = _found(arm, reported, split)
    if not shares or number < MIN_CONTENTS:
        return None
    interval = seeds_interval(shares, number)
    return interval.low, interval.high


def _retrieval(arm: ConfirmedArm, base: ConfirmedArm, reported: tuple[int, str], split: str) -> Measured | None:
    """Retrieval of an arm minus that of base; None where one of them was not measured there."""
    ours, number = _found(arm, reported, split)
    theirs, other = _found(base, reported, split)
    if not ours or not theirs:
        return None
    pairs, before = found_pairs(arm, reported, split), found_pairs(base, reported, split)
    paired = pairs.minus(before, resamples=RESAMPLES) if pairs is not None and before is not None else None
    if paired is not None and pairs is not None:
        ends = (paired.interval.low, paired.interval.high)
        found = {"delta": paired.estimate.value, "ci95": ends, "p": paired.p, "n": pairs.shares.shape[1]}
        return Measured(Difference(**found), paired)
    number = min(number, other)
    delta = float(np.mean(ours) - np.mean(theirs))
    if number < MIN_CONTENTS:
        note = f"no interval: {number} pairs, and {MIN_CONTENTS} are needed"
        return Measured(Difference(delta=delta, n=number, test="none: too few pairs", note=note))
    pair = shares_difference(ours, theirs, number)
    interval = pair.interval
    test = "score interval of two shares of the same pairs, as wide as any pairing of them makes it"
    ends = (interval.low, interval.high)
    return Measured(Difference(delta=delta, ci95=ends, p=pair.p, n=number, test=test), pair)


def retrieval_verdicts(rows: Sequence[RepresentationRow]) -> list[str]:
    """One sentence for each arm on what became of the translations that are found."""
    return [
        f"retrieval ({row.arm}): translations are found for {_percent(row.retrieval_at_1, row.retrieval_ci95)} "
        f"of sentences, {_percent(row.before[0], row.retrieval_before_ci95)} before "
        f"({_moved(row.retrieval_difference)})"
        for row in rows
        if row.before is not None and row.retrieval_difference is not None
    ]


def _percent(share: float, ends: Interval | None) -> str:
    interval = f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else ""
    return f"{100 * share:.1f} %{interval}"


def _moved(delta: Difference) -> str:
    p = p_of(delta)
    if p is None:
        return f"{points(delta)}; not tested"
    words = "not distinguishable" if p >= 0.05 else "more" if delta.delta > 0 else "fewer"
    return f"{words}: {points(delta)}, {p_text(p)}"


def _row(
    arm: str, reported: tuple[int, str], language: str, ours: Sequence[LayerMetrics], theirs: Sequence[LayerMetrics]
) -> RepresentationRow:
    after, before = ([_mean(rows, name) for name in _TRIPLE] for rows in (ours, theirs))
    names = ("retrieval_from_pivot", "retrieval_to_pivot", "anisotropy", "language_probe", "language_probe_chance")
    return RepresentationRow(
        arm=arm,
        language=language,
        layer=reported[0],
        pooling=reported[1],
        **dict(zip(_TRIPLE, after, strict=True)),
        before=cast(tuple[float, float, float], tuple(before)) if theirs else None,
        **{name: _mean(ours, name) for name in names},
        anisotropy_before=_mean(theirs, "anisotropy"),
        language_probe_before=_mean(theirs, "language_probe"),
    )


def _best_layer(layers: Sequence[LayerMetrics]) -> tuple[int, str] | None:
    """Layer and pooling with the best retrieval on validation; the lower layer, then mean pooling, wins a tie."""
    groups: dict[tuple[int, str], list[float]] = {}
    for row in layers:
        if row.split == "validation":
            groups.setdefault((row.layer, row.pooling), []).append(row.retrieval_at_1)
    return min(groups, key=lambda key: (-float(np.mean(groups[key])), key[0], key[1] != "mean")) if groups else None


def _at(
    layers: Sequence[LayerMetrics], reported: tuple[int, str], split: str, language: str = ""
) -> list[LayerMetrics]:
    return [
        row
        for row in layers
        if (row.layer, row.pooling) == reported and row.split == split and language in ("", row.language)
    ]


def _mean(rows: Sequence[LayerMetrics], name: str) -> float | None:
    """Over rows; None where there are none, or one lacks it."""
    values = [getattr(row, name) for row in rows]
    return float(np.mean(values)) if values and None not in values else None


def changes(paths: StudyPaths, comparison: Comparison, base_of: BaseOf) -> list[Change]:
    """What each arm of a study did to the representations of its base; arms without either are left out.

    Args:
        paths: the study.
        comparison: its table.
        base_of: (arm, bases) -> the base of an arm, as the table has it.
    """
    bases = [arm for arm in comparison.arms if arm.is_base]
    reported = {row.arm: row for row in comparison.representation if not row.language}
    shown = []
    for arm in comparison.arms:
        base: ArmRow | None = base_of(arm, bases)
        row = reported.get(arm.arm)
        if base is None or row is None:
            continue
        layers, before = (_layers(paths, side.trials, comparison.split) for side in (arm, base))
        numbers = sorted({metrics.layer for metrics in layers})
        by_layer = {
            name: {
                layer: (
                    _mean(_at(before, (layer, row.pooling), comparison.split), name),
                    _mean(_at(layers, (layer, row.pooling), comparison.split), name),
                )
                for layer in numbers
            }
            for name in MEASURES
        }
        drawing = _drawing(
            *(read_states(paths.trial(side.trials[0]).representation_of(comparison.split)) for side in (arm, base))
        )
        shown.append(Change(arm.arm, base.arm, row.layer, row.pooling, by_layer, row.language_probe_chance, drawing))
    return shown


def _layers(paths: StudyPaths, trials: Sequence[str], split: str) -> list[LayerMetrics]:
    layers: list[LayerMetrics] = []
    for trial in trials:
        result = find_result(paths.trial(trial).result)
        layers += [row for row in result.layers if row.split == split] if result else []
    return layers


def _drawing(arm: SentenceStates | None, base: SentenceStates | None) -> Drawing | None:
    """The sentences of both in the axes of base, at the layer and pooling of the arm."""
    if arm is None or base is None or arm.headline not in base.axes:
        return None
    axes = base.axes[arm.headline]
    if axes.mean.shape[0] != arm.states.shape[1]:
        return None
    before, after = base.points[arm.headline], axes.project(arm.states)
    return Drawing(axes.shares, _by_language(before, base.languages), _by_language(after, arm.languages))


def _by_language(points: NDArray[np.floating[Any]], languages: Sequence[str]) -> Points:
    names = np.array(languages)
    return {language: points[names == language] for language in dict.fromkeys(languages)}
