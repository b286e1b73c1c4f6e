"""The ablation table: arms by task, language and shots, their differences to base, and what they mean in words."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from afp_ray.comparison.confirmed import ConfirmedArm, check_same_examples, read_study
from afp_ray.comparison.metric import Metric, difference, difference_under, parse_metric, values_by_seed
from afp_ray.config import flatten
from afp_ray.errors import DataError
from afp_ray.methods import METHODS
from afp_ray.records import ArmRow, Comparison, Difference, LayerMetrics, RepresentationRow, TableCell
from afp_ray.statistics import holm
from afp_ray.store import StudyPaths

Split = Literal["validation", "test"]
ALPHA = 0.05


def compare(*paths: StudyPaths, split: Split = "test") -> Comparison:
    """Compare the confirmed configurations of every arm of one or more studies.

    Args:
        paths: the studies; arms are named with their study where there are several.
        split: whose scores the table shows; the configurations were chosen on validation.
    Returns: the table. Without a base arm, differences are null and a warning says so.
    Raises: UserError when a study does not exist or has nothing confirmed; DataError for mixed evaluation sets.
    """
    studies = [read_study(place, split=split, prefix=len(paths) > 1) for place in paths]
    arms = [arm for study in studies for arm in study.arms]
    if not arms:
        raise nothing_confirmed([place.name for place in paths])
    check_same_examples(arms)
    warnings = [warning for study in studies for warning in study.warnings]
    bases = [arm for arm in arms if arm.method == "base"]
    if not bases:
        warnings.append("no base arm: differences to base are left out; add base to compare.method")
    objective = studies[0].config.objective
    differences = adjust([_to_base(arm, bases, split) for arm in arms])
    rows = [_row(arm, bases, delta, split) for arm, delta in zip(arms, differences, strict=True)]
    return Comparison(
        studies=tuple(place.name for place in paths),
        split=split,
        objective=f"{objective.direction} {objective.metric} on {objective.split}",
        base=bases[0].name if bases else None,
        arms=tuple(rows),
        representation=tuple(_representation(arms, bases, split)),
        verdicts=tuple(f"{row.arm}: {row.verdict}" for row in rows if not row.is_base),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def nothing_confirmed(names: Sequence[str]) -> DataError:
    """What is raised when no arm has a confirmed configuration."""
    return DataError(
        f"no arm of {', '.join(names)} has a confirmed configuration yet",
        fix=f"let it finish: afp resume {names[0]}   (how far it is: afp status {names[0]})",
    )


def base_of(arm: ConfirmedArm, bases: Sequence[ConfirmedArm]) -> ConfirmedArm | None:
    """The base that shares most of the arm's other settings; None for a base itself."""
    if arm.method == "base" or not bases:
        return None
    ignored = {"method", *METHODS["base"]}

    def distance(base: ConfirmedArm) -> int:
        ours, theirs = flatten(dict(arm.config)), flatten(dict(base.config))
        return sum(ours.get(name) != theirs.get(name) for name in {*ours, *theirs} - ignored)

    return min(bases, key=distance)


def _to_base(arm: ConfirmedArm, bases: Sequence[ConfirmedArm], split: Split) -> Difference | None:
    base = base_of(arm, bases)
    return difference(Metric("mean"), arm, base, split) if base else None


def adjust(differences: Sequence[Difference | None]) -> list[Difference | None]:
    """The same differences with their p-values adjusted (Holm) over those that were tested."""
    tested = [index for index, item in enumerate(differences) if item is not None and item.p is not None]
    adjusted = holm([differences[index].p for index in tested])  # type: ignore[union-attr, misc]
    found: list[Difference | None] = list(differences)
    for index, p in zip(tested, adjusted, strict=True):
        found[index] = differences[index].model_copy(update={"p_holm": p})  # type: ignore[union-attr]
    return found


def _row(arm: ConfirmedArm, bases: Sequence[ConfirmedArm], delta: Difference | None, split: Split) -> ArmRow:
    base = base_of(arm, bases)
    mean = _mean_cell("mean", arm, delta, split)
    pivot_delta = difference(Metric("pivot_mean"), arm, base, split) if base else None
    return ArmRow(
        arm=arm.name,
        method=arm.method,
        is_base=arm.method == "base",
        n_seeds=len(arm.records),
        trials=tuple(record.trial_id for record in arm.records),
        validation=arm.objective,
        cells=tuple(_cells(arm, base, split)),
        mean=mean,
        pivot_mean=_mean_cell("pivot_mean", arm, pivot_delta, split),
        gpu_hours=arm.gpu_hours,
        verdict=in_words(delta, has_base=bool(bases), is_base=arm.method == "base"),
        config=dict(arm.config),
    )


def _mean_cell(name: str, arm: ConfirmedArm, delta: Difference | None, split: Split) -> TableCell | None:
    values = values_by_seed(parse_metric(name), arm, split)
    if not values:
        return None
    return TableCell(task=name, language="", mean=float(np.mean(values)), vs_base=delta)


def _cells(arm: ConfirmedArm, base: ConfirmedArm | None, split: Split) -> list[TableCell]:
    """One cell per task, language and number of shots; p-values adjusted over the row."""
    examples = arm.examples
    keys = sorted({(str(t), str(c), int(s)) for t, c, s in zip(examples.task, examples.language, examples.shots)})  # noqa: B905
    cells, differences = [], []
    for task, language, shots in keys:
        where = (examples.task == task) & (examples.language == language) & (examples.shots == shots)
        cells.append((task, language, shots, float(arm.correct[:, where].mean())))
        differences.append(difference_under(where, arm, base) if base else None)
    return [
        TableCell(task=task, language=language, shots=shots, mean=mean, vs_base=delta)
        for (task, language, shots, mean), delta in zip(cells, adjust(differences), strict=True)
    ]


def in_words(delta: Difference | None, *, has_base: bool = True, is_base: bool = False) -> str:
    """A difference to base as a sentence, in points (hundredths)."""
    if is_base:
        return "the model as it is"
    if delta is None:
        return "no difference was measured" if has_base else "no base to compare with"
    size = f"{100 * delta.delta:+.1f} points"
    if delta.ci95 is not None:
        size += f" [{100 * delta.ci95[0]:+.1f}, {100 * delta.ci95[1]:+.1f}]"
    p = delta.p if delta.p_holm is None else delta.p_holm
    if p is None:
        return f"{size} to base, not tested"
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    if p >= ALPHA:
        return f"not distinguishable from base ({size}, {shown})"
    return f"{'better' if delta.delta > 0 else 'worse'} than base ({size}, {shown})"


def _representation(
    arms: Sequence[ConfirmedArm], bases: Sequence[ConfirmedArm], split: Split
) -> list[RepresentationRow]:
    """Per arm: the mean over languages, then each language, at the layer that validation chose; base beside it."""
    rows = []
    for arm in arms:
        layers = [row for result in arm.results for row in result.layers]
        place = _best_place(layers)
        if place is None:
            continue
        base = base_of(arm, bases)
        before = [row for result in base.results for row in result.layers] if base else []
        languages = sorted({row.language for row in layers})
        for language in ("", *languages):
            after = _three(layers, place, language, split)
            if after is not None:
                rows.append(
                    RepresentationRow(
                        arm=arm.name,
                        language=language,
                        layer=place[0],
                        pooling=place[1],
                        retrieval_at_1=after[0],
                        alignment=after[1],
                        uniformity=after[2],
                        before=_three(before, place, language, split),
                    )
                )
    return rows


def _best_place(layers: Sequence[LayerMetrics]) -> tuple[int, str] | None:
    """Layer and pooling with the best retrieval on validation; the lower layer wins a tie."""
    groups: dict[tuple[int, str], list[float]] = {}
    for row in layers:
        if row.split == "validation":
            groups.setdefault((row.layer, row.pooling), []).append(row.retrieval_at_1)
    return min(groups, key=lambda key: (-float(np.mean(groups[key])), key)) if groups else None


def _three(
    layers: Sequence[LayerMetrics], place: tuple[int, str], language: str, split: Split
) -> tuple[float, float, float] | None:
    rows = [
        row
        for row in layers
        if (row.layer, row.pooling) == place and row.split == split and language in ("", row.language)
    ]
    if not rows:
        return None
    retrieval, alignment, uniformity = np.mean(
        [(row.retrieval_at_1, row.alignment, row.uniformity) for row in rows], axis=0
    ).tolist()
    return retrieval, alignment, uniformity
