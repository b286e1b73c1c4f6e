"""Quality against cost: the Pareto front of the arms, and the cheapest one that is not significantly worse."""

from collections.abc import Sequence

import numpy as np

from afp_ray.comparison.confirmed import ConfirmedArm
from afp_ray.comparison.metric import Metric, difference, values_by_seed
from afp_ray.comparison.words import ALPHA, p_text, points
from afp_ray.findings import Cheapest, Difference, ParetoPoint
from afp_ray.statistics import pareto_front


def pareto_points(metric: Metric, arms: Sequence[ConfirmedArm], split: str) -> tuple[ParetoPoint, ...]:
    """Score and GPU-hours of every arm that was scored on the metric, cheapest first."""
    scored = [(arm, float(np.mean(values))) for arm in arms if (values := values_by_seed(metric, arm, split))]
    costs = [arm.gpu_hours for arm, _ in scored]
    front = set(pareto_front([metric.sign * score for _, score in scored], costs))
    found = [
        ParetoPoint(arm=arm.name, score=score, gpu_hours=arm.gpu_hours, is_on_front=index in front)
        for index, (arm, score) in enumerate(scored)
    ]
    return tuple(sorted(found, key=lambda point: (point.gpu_hours, -metric.sign * point.score, point.arm)))


def cheapest_not_worse(
    metric: Metric,
    winner: ConfirmedArm,
    arms: Sequence[ConfirmedArm],
    chosen_on: Sequence[ConfirmedArm],
    *,
    split: str,
) -> Cheapest | None:
    """The cheapest arm that validation does not tell from the best one.

    An arm is left out when it is significantly worse by its plain p-value, so that an arm is rather left out than taken
    where many are compared.

    Args:
        metric: what chose the winner.
        winner, arms: the best arm and those it was chosen among, with their answers on `split`.
        chosen_on: the same arms with their answers on validation.
        split: of the difference that is reported.
    Returns: None for a metric without examples.
    """
    if not metric.has_examples:
        return None
    by_name = {arm.name: arm for arm in chosen_on}
    if winner.name not in by_name:
        return None
    found, on_validation = winner, None
    for arm in sorted(arms, key=lambda arm: (arm.gpu_hours, arm.name)):
        if arm.gpu_hours >= winner.gpu_hours:
            break
        behind = (
            difference(metric, by_name[winner.name], by_name[arm.name], "validation") if arm.name in by_name else None
        )
        if behind is not None and behind.p is not None and (behind.p >= ALPHA or behind.delta <= 0):
            found, on_validation = arm, behind
            break
    if on_validation is None:
        is_any_cheaper = any(arm.gpu_hours < winner.gpu_hours for arm in arms)
        words = "every cheaper arm is significantly worse on validation" if is_any_cheaper else "no arm is cheaper"
        return Cheapest(arm=winner.name, gpu_hours=winner.gpu_hours, verdict=words)
    behind = difference(metric, winner, found, split)
    return Cheapest(
        arm=found.name,
        gpu_hours=found.gpu_hours,
        behind=behind,
        verdict=_in_words(winner, found, on_validation, behind),
    )


def _in_words(winner: ConfirmedArm, found: ConfirmedArm, on_validation: Difference, behind: Difference | None) -> str:
    assert on_validation.p is not None
    share = found.gpu_hours / winner.gpu_hours if winner.gpu_hours else 1.0
    reported = f"; {winner.name} minus it is {points(behind)} on this split" if behind else ""
    return (
        f"not distinguishable from {winner.name} on validation ({p_text(on_validation.p)}) "
        f"at {100 * share:.0f} % of its GPU-hours{reported}"
    )
