"""What a study asks of its trials: objectives, limits, the trials that no other dominates, and the one that is chosen.

A trial is feasible when it keeps every limit of `constraints`. Of an arm's feasible search trials those that no other
dominates are its front; the one with the best first objective among them is chosen, the earliest planned of equals.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from afp_ray.config import ConstraintConfig, StudyConfig
from afp_ray.errors import ConfigError
from afp_ray.evaluation.objective import objective_value
from afp_ray.methods import METHODS
from afp_ray.records import FrontPoint, SearchFront, TrialRecord, TrialResult, TrialStatus
from afp_ray.search.arms import Arm
from afp_ray.statistics.pareto import non_dominated

_LOWER_IS_BETTER = ("alignment", "uniformity")
_ROUNDING = 1e-12
"""A limit that is passed by no more than this is kept: 0.5 - 0.48 is more than 0.02 in binary."""


def asked_metrics(study: StudyConfig) -> tuple[str, ...]:
    """Metrics that a result has to be measured for beside the first objective: further objectives, limited metrics."""
    names = [goal.metric for goal in study.objective.also] + [limit.metric for limit in study.constraints]
    return tuple(dict.fromkeys(name for name in names if name != study.objective.metric))


def measure_of(study: StudyConfig) -> Callable[[TrialResult], tuple[float, dict[str, float]]]:
    """What a result is worth to the study: its first objective, and every further metric that is asked for."""
    asked = asked_metrics(study)

    def measure(result: TrialResult) -> tuple[float, dict[str, float]]:
        pivot = result.config["data"]["pivot"]
        objective = objective_value(result.scores, study.objective.metric, pivot=pivot)
        return objective, {name: objective_value(result.scores, name, pivot=pivot) for name in asked}

    return measure


def needs_base(study: StudyConfig) -> bool:
    """Whether a limit is against the arm `base`."""
    return any(limit.max_drop is not None for limit in study.constraints)


def require_base(study: StudyConfig, arms: Sequence[Arm]) -> None:
    """Refuse a limit against base where no base gives one number.

    Raises: ConfigError when the study has no arm of the method `base`, or searches it.
    """
    if not needs_base(study):
        return
    bases = [arm for arm in arms if arm.method == "base"]
    place = "constraints.max_drop"
    if not bases:
        raise ConfigError(
            "a drop is measured against base, and the study has no such arm",
            where=place,
            fix="add an arm of method base (compare.method or arms), or give the limit as `min`",
        )
    for arm in bases:
        if arm.is_searched:
            raise ConfigError(
                f"a drop is measured against base, and arm {arm.name} is itself searched over {', '.join(arm.tune)}",
                where=place,
                fix="fix these fields, compare them, or give the limit as `min`",
            )


def base_of_arm(arm: Arm, arms: Sequence[Arm]) -> Arm | None:
    """The base arm that shares most of the arm's other settings; None where the study has none."""
    ignored = {"method", *METHODS["base"]}

    def distance(base: Arm) -> int:
        names = {*arm.fields, *base.fields} - ignored
        return sum(arm.fields.get(name) != base.fields.get(name) for name in names)

    return min((base for base in arms if base.method == "base"), key=distance, default=None)


def metric_of(study: StudyConfig, trial: TrialRecord, metric: str) -> float | None:
    """A metric of a trial on validation; None where it has none that is finite."""
    value = trial.objective if metric == study.objective.metric else trial.values.get(metric)
    return value if value is not None and math.isfinite(value) else None


def values_of(study: StudyConfig, trial: TrialRecord) -> tuple[float, ...] | None:
    """Every objective of a finished trial, the first one first; None unless all of them are finite."""
    if trial.status is not TrialStatus.DONE:
        return None
    values = [metric_of(study, trial, goal.metric) for goal in study.objective.goals]
    return None if None in values else tuple(value for value in values if value is not None)


def violations(study: StudyConfig, trial: TrialRecord, base: TrialRecord | None) -> dict[str, float] | None:
    """By how much a trial passes each limit, in the metric's unit; 0 or less keeps it.

    Args:
        study: gives the limits.
        trial: a finished trial.
        base: the finished trial of the arm's base; needed where a limit is against it.
    Returns: amounts by limit in words; None where a metric was not measured, so that nothing can be said.
    """
    amounts: dict[str, float] = {}
    for limit in study.constraints:
        value = metric_of(study, trial, limit.metric)
        before = None if base is None else metric_of(study, base, limit.metric)
        if value is None or (limit.max_drop is not None and before is None):
            return None
        for words, over in _passed(study, limit, value, before):
            amounts[words] = 0.0 if abs(over) <= _ROUNDING else over
    return amounts


def _passed(
    study: StudyConfig, limit: ConstraintConfig, value: float, before: float | None
) -> Iterable[tuple[str, float]]:
    if limit.min is not None:
        yield f"{limit.metric} >= {limit.min:g}", limit.min - value
    if limit.max is not None:
        yield f"{limit.metric} <= {limit.max:g}", value - limit.max
    if limit.max_drop is not None and before is not None:
        directions = {goal.metric: goal.direction for goal in study.objective.goals}
        usual = "minimize" if limit.metric in _LOWER_IS_BETTER else "maximize"
        drop = before - value if directions.get(limit.metric, usual) == "maximize" else value - before
        yield f"drop of {limit.metric} <= {limit.max_drop:g}", drop - limit.max_drop


def is_feasible(study: StudyConfig, trial: TrialRecord, base: TrialRecord | None) -> bool:
    """Whether a trial is known to keep every limit."""
    amounts = violations(study, trial, base)
    return amounts is not None and all(over <= 0 for over in amounts.values())


def feasible(
    study: StudyConfig, trials: Iterable[TrialRecord], base: TrialRecord | None
) -> list[tuple[TrialRecord, tuple[float, ...]]]:
    """Finished search trials that keep every limit, with their objectives, in the order given."""
    candidates = []
    for trial in trials:
        values = values_of(study, trial) if trial.role == "search" else None
        if values is not None and is_feasible(study, trial, base):
            candidates.append((trial, values))
    return candidates


def front_of(
    study: StudyConfig, candidates: Sequence[tuple[TrialRecord, tuple[float, ...]]]
) -> list[tuple[TrialRecord, tuple[float, ...]]]:
    """Those that no other dominates, the best first objective first, the earlier of equals first."""
    signs = [1.0 if goal.direction == "maximize" else -1.0 for goal in study.objective.goals]
    points = [tuple(sign * value for sign, value in zip(signs, values, strict=True)) for _, values in candidates]
    best = sorted(non_dominated(points), key=lambda index: (-points[index][0], index))
    return [candidates[index] for index in best]


def chosen(study: StudyConfig, trials: Iterable[TrialRecord], base: TrialRecord | None) -> TrialRecord | None:
    """The search trial whose configuration is confirmed; None where none is feasible."""
    front = front_of(study, feasible(study, trials, base))
    return front[0][0] if front else None


def search_fronts(study: StudyConfig, arms: Sequence[Arm], trials: Iterable[TrialRecord]) -> tuple[SearchFront, ...]:
    """What the search of every searched arm found, in the order of the arms.

    Args:
        study: gives objectives and limits.
        arms: the arms of the study.
        trials: the study's trials in the order in which they were planned.
    """
    by_arm: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        by_arm.setdefault(trial.arm, []).append(trial)
    fronts = []
    for arm in arms:
        if arm.is_searched:
            base = finished_base(arm, arms, by_arm)
            fronts.append(_front(study, arm, by_arm.get(arm.name, []), base))
    return tuple(fronts)


def finished_base(arm: Arm, arms: Sequence[Arm], trials: Mapping[str, Sequence[TrialRecord]]) -> TrialRecord | None:
    """The finished trial of an arm's base; None before there is one."""
    base = base_of_arm(arm, arms)
    ended = trials.get(base.name, ()) if base is not None else ()
    return next((trial for trial in ended if trial.status is TrialStatus.DONE), None)


def _front(study: StudyConfig, arm: Arm, trials: Sequence[TrialRecord], base: TrialRecord | None) -> SearchFront:
    scored = [trial for trial in trials if trial.role == "search" and values_of(study, trial) is not None]
    candidates = feasible(study, scored, base)
    metrics = [goal.metric for goal in study.objective.goals]
    points = tuple(
        FrontPoint(
            trial_id=trial.trial_id,
            params=trial.params,
            values=dict(zip(metrics, values, strict=True)),
            limited=_limited(study, trial),
            is_chosen=index == 0,
        )
        for index, (trial, values) in enumerate(front_of(study, candidates))
    )
    return SearchFront(
        arm=arm.name,
        objectives=tuple(f"{goal.direction} {goal.metric}" for goal in study.objective.goals),
        points=points,
        num_scored=len(scored),
        num_feasible=len(candidates),
        verdict=_verdict(study, arm, scored, candidates, base),
    )


def _limited(study: StudyConfig, trial: TrialRecord) -> dict[str, float]:
    values = {limit.metric: metric_of(study, trial, limit.metric) for limit in study.constraints}
    return {metric: value for metric, value in values.items() if value is not None}


def _verdict(
    study: StudyConfig,
    arm: Arm,
    scored: Sequence[TrialRecord],
    candidates: Sequence[object],
    base: TrialRecord | None,
) -> str:
    """The front in a sentence; where nothing is feasible, which limit the nearest trial passes."""
    if not scored and needs_base(study) and base is None:
        return f"{arm.name} is not searched before base is scored, since a limit is against it"
    if not scored:
        return "no search trial has been scored"
    if candidates or not study.constraints:
        return f"{len(candidates)} of {len(scored)} scored trials keep the limits" if study.constraints else ""
    judged = [(amounts, trial) for trial in scored if (amounts := violations(study, trial, base)) is not None]
    if not judged:
        return f"none of {len(scored)} scored trials can be chosen: what the limits are on was not measured"
    nearest, trial = min(judged, key=lambda item: sum(max(0.0, over) for over in item[0].values()))
    passed = ", ".join(f"{words} by {over:.3g}" for words, over in nearest.items() if over > 0)
    return (
        f"none of {len(scored)} scored trials keeps the limits, so nothing of {arm.name} is confirmed; "
        f"the nearest, {trial.trial_id}, passes {passed}"
    )
