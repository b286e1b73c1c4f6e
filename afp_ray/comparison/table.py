"""The ablation table: arms by task, language and shots, their differences to base, and what they mean in words."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from afp_ray.comparison.components import component_effects, field_importances
from afp_ray.comparison.confirmed import ConfirmedArm, read_confirmed
from afp_ray.comparison.cost import pareto_points, too_short
from afp_ray.comparison.headline import Finding, is_forgetting, make_headline
from afp_ray.comparison.majority import majority, majority_warnings
from afp_ray.comparison.metric import (
    Metric,
    by_seed_under,
    mean_under,
    measure,
    measure_under,
    parse_metric,
    values_by_seed,
)
from afp_ray.comparison.published import set_beside
from afp_ray.comparison.representation import representation_rows, retrieval_verdicts
from afp_ray.comparison.shared import comparable
from afp_ray.comparison.wording import Measured, adjust, in_words, p_of, p_text, points
from afp_ray.config import Split, flatten
from afp_ray.errors import DataError
from afp_ray.methods import METHODS
from afp_ray.records import ArmRow, Comparison, Difference, TableCell
from afp_ray.store import StudyPaths


def compare(*paths: StudyPaths, split: Split = "test") -> Comparison:
    """Compare the confirmed configurations of every arm of one or more studies.

    Args:
        paths: the studies; arms are named with their study where there are several.
        split: whose scores the table shows; the configurations were chosen on validation.
    Returns: the table. Without a base arm, differences are null and a warning says so.
    Raises: UserError when a study does not exist or has nothing confirmed; DataError for mixed evaluation sets.
    """
    studies = [read_confirmed(study_paths, split=split, prefix=len(paths) > 1) for study_paths in paths]
    arms = [arm for study in studies for arm in study.arms]
    if not arms:
        raise nothing_confirmed([study_paths.name for study_paths in paths])
    arms, left_out = comparable(arms, metric=studies[0].config.objective.metric)
    warnings = [*(warning for study in studies for warning in study.warnings), *left_out]
    bases = [arm for arm in arms if arm.method == "base"]
    if not bases:
        warnings.append(
            "no base arm: differences to base are left out; add an arm of method base (compare.method or arms)"
        )
    objective = studies[0].config.objective
    differences = adjust([_to_base(Metric("mean"), arm, bases, split) for arm in arms])
    of_pivot = adjust([_to_base(Metric("pivot_mean"), arm, bases, split) for arm in arms])
    cells = _cells(arms, bases, split)
    rows = [
        _row(*parts, split=split, has_base=bool(bases))
        for parts in zip(arms, cells, differences, of_pivot, strict=True)
    ]
    floor = majority(arms)
    below = majority_warnings(floor, rows, arms[0].pivot)
    warnings += below + seed_warnings(arms) + forgetting_warnings(arms, of_pivot)
    beside = set_beside(
        [name for study in studies for name in study.config.published],
        arms,
        rows,
        [base_of(arm, bases) for arm in arms],
        direction=objective.direction,
    )
    effects = component_effects(arms, split=split)
    representation = tuple(representation_rows(arms, [base_of(arm, bases) for arm in arms], split))
    finding = Finding(
        rows=rows,
        representation=representation,
        majority=floor,
        pivot=arms[0].pivot,
        failed=[name for study in studies for name in study.failed],
        is_complete=all(study.state.is_complete for study in studies),
    )
    searched = [importance for study in studies for importance in field_importances(study)]
    rungs = [row for study in studies for row in study.rungs]
    return Comparison(
        studies=tuple(study_paths.name for study_paths in paths),
        split=split,
        objective=f"{objective.direction} {objective.metric} on {objective.split}",
        base=bases[0].name if bases else None,
        headline=make_headline(finding),
        arms=tuple(rows),
        representation=representation,
        majority=floor,
        effects=effects,
        importances=tuple(searched),
        rungs=tuple(rungs),
        pareto=pareto_points(Metric("mean"), arms, split),
        cost_note=too_short(arms),
        published=tuple(beside),
        verdicts=(
            *below,
            *(f"{row.arm}: {row.verdict}" for row in rows if not row.is_base),
            *retrieval_verdicts(representation),
            *(effect.verdict for effect in effects),
            *(importance.verdict for importance in searched),
            *(row.verdict for row in rungs if row.later is None),
        ),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def nothing_confirmed(names: Sequence[str]) -> DataError:
    """What is raised when no arm has a confirmed configuration."""
    return DataError(
        f"no arm of {', '.join(names)} has a confirmed configuration yet",
        fix=f"let it finish: afp resume {names[0]}   (how far it is: afp status {names[0]})",
    )


_Arm = TypeVar("_Arm", ConfirmedArm, ArmRow)


def base_of(arm: _Arm, bases: Sequence[_Arm]) -> _Arm | None:
    """The base that shares most of the arm's other settings; None for a base itself."""
    if arm.method == "base" or not bases:
        return None
    return min(bases, key=lambda base: settings_apart(arm.config, base.config))


def settings_apart(config: Mapping[str, Any], base: Mapping[str, Any]) -> int:
    """In how many fields two trials differ, those aside that base pins."""
    ours, theirs = flatten(dict(config)), flatten(dict(base))
    return sum(ours.get(name) != theirs.get(name) for name in {*ours, *theirs} - {"method", *METHODS["base"]})


def _to_base(metric: Metric, arm: ConfirmedArm, bases: Sequence[ConfirmedArm], split: Split) -> Measured | None:
    base = base_of(arm, bases)
    return measure(metric, arm, base, split) if base else None


def forgetting_warnings(arms: Sequence[ConfirmedArm], of_pivot: Sequence[Difference | None]) -> list[str]:
    """One sentence for each arm that is worse than base in the pivot language, significantly or by a point."""
    return [
        _forgetting(arm, delta)
        for arm, delta in zip(arms, of_pivot, strict=True)
        if delta is not None and is_forgetting(delta)
    ]


def _forgetting(arm: ConfirmedArm, delta: Difference) -> str:
    where = f"in the pivot language {arm.pivot} it is"
    if delta.is_significant:
        return f"{arm.name} forgot: {where} {in_words(delta)}"
    p = p_of(delta)
    doubt = "not tested" if p is None else f"{p_text(p)}, so noise is not ruled out"
    return f"{arm.name} may have forgotten: {where} below base ({points(delta)}, {doubt})"


def seed_warnings(arms: Sequence[ConfirmedArm]) -> list[str]:
    """One sentence for the trained arms that have a single seed; what is not trained has no noise of training."""
    alone = [arm.name for arm in arms if arm.is_trained and len(arm.records) == 1]
    if not alone:
        return []
    return [f"one seed only, so that intervals say nothing about training noise: {', '.join(alone)}"]


def _row(
    arm: ConfirmedArm,
    cells: tuple[TableCell, ...],
    delta: Difference | None,
    pivot_delta: Difference | None,
    *,
    split: Split,
    has_base: bool,
) -> ArmRow:
    hours = arm.hours
    return ArmRow(
        arm=arm.name,
        method=arm.method,
        is_base=arm.method == "base",
        n_seeds=len(arm.records),
        trials=tuple(record.trial_id for record in arm.records),
        validation=arm.objective,
        cells=cells,
        mean=_mean_cell("mean", arm, delta, split),
        pivot_mean=_mean_cell("pivot_mean", arm, pivot_delta, split),
        gpu_hours=hours.training,
        hours=hours,
        verdict=in_words(delta, has_base=has_base, is_base=arm.method == "base"),
        config=dict(arm.config),
    )


def _mean_cell(name: str, arm: ConfirmedArm, delta: Difference | None, split: Split) -> TableCell | None:
    values = values_by_seed(parse_metric(name), arm, split)
    if not values:
        return None
    metrics = sorted({str(metric) for metric in arm.examples.metric})
    metric = metrics[0] if len(metrics) == 1 else "mean"
    return TableCell(
        task=name, language="", mean=float(np.mean(values)), vs_base=delta, metric=metric, by_seed=tuple(values)
    )


def _cells(arms: Sequence[ConfirmedArm], bases: Sequence[ConfirmedArm], split: Split) -> list[tuple[TableCell, ...]]:
    """One cell per arm, task, language and number of shots; p-values adjusted over all cells of the table."""
    examples = arms[0].examples
    keys = sorted({(str(t), str(c), int(s)) for t, c, s in zip(examples.task, examples.language, examples.shots)})  # noqa: B905
    masks = [
        (examples.task == task) & (examples.language == language) & (examples.shots == shots)
        for task, language, shots in keys
    ]
    pairs = [(arm, base_of(arm, bases)) for arm in arms]
    differences = [measure_under(where, arm, base) if base else None for arm, base in pairs for where in masks]
    adjusted = iter(adjust(differences))
    return [
        tuple(
            TableCell(
                task=task,
                language=language,
                shots=shots,
                metric=str(examples.metric[where][0]),
                mean=mean_under(where, arm),
                vs_base=next(adjusted),
                by_seed=by_seed_under(where, arm),
                demo_deviation=_demo_deviation(arm, (task, language, shots), split),
            )
            for (task, language, shots), where in zip(keys, masks, strict=True)
        )
        for arm in arms
    ]


def _demo_deviation(arm: ConfirmedArm, cell: tuple[str, str, int], split: Split) -> float | None:
    """Deviation of the cell's main metric over demonstration seeds; None where some result has one set of them."""
    deviations = [
        score.demo_deviation
        for result in arm.results
        for score in result.scores
        if score.is_main and score.split == split and (score.task, score.language, score.shots) == cell
    ]
    measured = [value for value in deviations if value is not None]
    return float(np.mean(measured)) if measured and len(measured) == len(deviations) else None
