"""Which arms keep a study's constraints in their confirmed configuration, on validation and over all seeds."""

from collections.abc import Sequence

import numpy as np

from afp_ray.comparison.confirmed import ConfirmedArm
from afp_ray.comparison.metric import parse_metric, values_by_seed
from afp_ray.comparison.table import base_of
from afp_ray.config import ConstraintConfig, ObjectiveConfig
from afp_ray.errors import DataError

_ROUNDING = 1e-12


def keeping_limits(
    arms: Sequence[ConfirmedArm], limits: Sequence[ConstraintConfig], objective: ObjectiveConfig
) -> tuple[list[ConfirmedArm], list[str]]:
    """The arms that can be the best one, and a sentence for each other.

    Args:
        arms: arms with a confirmed configuration, those of the method `base` among them.
        limits: the study's constraints; the mean over seeds has to keep each. Base itself drops nothing.
        objective: says which way its metrics are better.
    Raises: DataError when no arm keeps them all.
    """
    bases = [arm for arm in arms if arm.method == "base"]
    directions = {goal.metric: goal.direction for goal in objective.goals}
    keeping, reasons = [], []
    for arm in arms:
        passed = [words for limit in limits if (words := _passed(arm, bases, limit, directions.get(limit.metric)))]
        if passed:
            reasons.append(f"{arm.name} is left out: {'; '.join(passed)} on validation")
        else:
            keeping.append(arm)
    if not keeping:
        raise DataError("\n".join(["no arm keeps the constraints of the study", *reasons]), fix="loosen a constraint")
    return keeping, reasons


def _passed(
    arm: ConfirmedArm, bases: Sequence[ConfirmedArm], limit: ConstraintConfig, direction: str | None
) -> str | None:
    """How the arm passes a limit, in words; None when it keeps it. What was not measured is not known to be kept."""
    metric = parse_metric(limit.metric, direction=direction, own_tasks=arm.own_tasks)
    values = values_by_seed(metric, arm, "validation")
    if not values:
        return f"{metric} was not measured"
    value = float(np.mean(values))
    if limit.min is not None and value < limit.min - _ROUNDING:
        return f"{metric} {value:.4g} is below {limit.min:g}"
    if limit.max is not None and value > limit.max + _ROUNDING:
        return f"{metric} {value:.4g} is above {limit.max:g}"
    if limit.max_drop is None or arm.method == "base":
        return None
    base = base_of(arm, bases)
    before = values_by_seed(metric, base, "validation") if base is not None else []
    if not before:
        return f"{metric} of base was not measured"
    drop = metric.sign * (float(np.mean(before)) - value)
    return f"{metric} drops by {drop:.4g}, more than {limit.max_drop:g}" if drop > limit.max_drop + _ROUNDING else None
