"""Quality against cost: the Pareto front of the arms, and the cheapest one that is not significantly worse.

The cost of an arm is the training of one trial, in device-hours: a model that was there before costs nothing, however
long it takes to score.
"""

from collections.abc import Sequence

import numpy as np

from afp_ray.comparison.confirmed import ConfirmedArm
from afp_ray.comparison.metric import Metric, difference, values_by_seed
from afp_ray.comparison.wording import ALPHA, p_text, points
from afp_ray.records import Cheapest, Difference, ParetoPoint
from afp_ray.statistics import pareto_front

SHORT_S = 60.0
"""The machine's noise decides between trainings that are all shorter."""


def too_short(arms: Sequence[ConfirmedArm]) -> str:
    """Why costs are not compared, where no training took a minute; empty where one did or nothing was trained."""
    longest = max((arm.training_s for arm in arms if arm.is_trained), default=SHORT_S)
    if longest >= SHORT_S:
        return ""
    return (
        f"no arm is called the cheapest or on the front: the longest training took {longest:.3g} s, and below "
        f"{SHORT_S:.0f} s the noise of the machine decides"
    )


def pareto_points(metric: Metric, arms: Sequence[ConfirmedArm], split: str) -> tuple[ParetoPoint, ...]:
    """Score and cost of every arm that was scored on the metric, cheapest first; no front where costs say nothing."""
    scored = [(arm, float(np.mean(values))) for arm in arms if (values := values_by_seed(metric, arm, split))]
    costs, has_front = [arm.hours for arm, _ in scored], not too_short(arms)
    front = pareto_front([metric.sign * score for _, score in scored], [hours.training for hours in costs])
    shown = [
        ParetoPoint(
            arm=arm.name,
            score=score,
            gpu_hours=hours.training,
            hours=hours,
            is_on_front=index in front if has_front else None,
        )
        for index, ((arm, score), hours) in enumerate(zip(scored, costs, strict=True))
    ]
    return tuple(sorted(shown, key=lambda point: (point.gpu_hours, -metric.sign * point.score, point.arm)))


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
    costs = {arm.name: arm.hours.training for arm in (winner, *arms)}
    cheapest, on_validation = winner, None
    for arm in sorted(arms, key=lambda arm: (costs[arm.name], arm.name)):
        if costs[arm.name] >= costs[winner.name]:
            break
        behind = (
            difference(metric, by_name[winner.name], by_name[arm.name], "validation") if arm.name in by_name else None
        )
        if behind is not None and behind.p is not None and (behind.p >= ALPHA or behind.delta <= 0):
            cheapest, on_validation = arm, behind
            break
    if on_validation is None:
        is_any_cheaper = min(costs.values()) < costs[winner.name]
        words = "every cheaper arm is significantly worse on validation" if is_any_cheaper else "no arm is cheaper"
        return Cheapest(arm=winner.name, gpu_hours=costs[winner.name], verdict=words)
    behind = difference(metric, winner, cheapest, split)
    return Cheapest(
        arm=cheapest.name,
        gpu_hours=costs[cheapest.name],
        behind=behind,
        verdict=_in_words(winner, cheapest, on_validation, behind),
    )


def _in_words(
    winner: ConfirmedArm, cheapest: ConfirmedArm, on_validation: Difference, behind: Difference | None
) -> str:
    assert on_validation.p is not None
    share = cheapest.hours.training / winner.hours.training  # the winner costs more, so not 0
    reported = f"; {winner.name} minus it is {points(behind)} on this split" if behind else ""
    return (
        f"not distinguishable from {winner.name} on validation ({p_text(on_validation.p)}) "
        f"at {100 * share:.0f} % of the device-hours of its training{reported}"
    )
