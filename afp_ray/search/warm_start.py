"""Finished search trials of other studies, as far as an arm's sampler can learn from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afp_ray.config import StudyConfig, TrialConfig, flatten
from afp_ray.errors import ConfigError
from afp_ray.ledger import replay
from afp_ray.records import TrialRecord, TrialStatus
from afp_ray.search.arms import Arm
from afp_ray.search.conditions import holds, searched
from afp_ray.search.objectives import metric_of, values_of
from afp_ray.search.optuna_trials import frozen_trial, seen
from afp_ray.search.space import distributions
from afp_ray.store import list_studies, read_study


@dataclass(frozen=True, slots=True)
class PriorStudy:
    """A study that was run before.

    Attributes:
        config: the study as it was run.
        trials: its trials.
    """

    config: StudyConfig
    trials: Sequence[TrialRecord]


def prior_studies(study: StudyConfig, storage: Path) -> tuple[PriorStudy, ...]:
    """The studies of `warm_start`, from their ledgers.

    Raises: ConfigError naming the studies that there are.
    """
    if not study.warm_start:
        return ()
    known = {paths.name: paths for paths in list_studies(storage)}
    for name in study.warm_start:
        if name not in known:
            raise ConfigError(
                f"there is no study {name[:80]!r} under {storage} to learn from",
                where="warm_start",
                allowed=", ".join(other for other in known if other != study.name) or "none yet",
                fix="give one of these names, run that study first, or take it out",
            )
    return tuple(PriorStudy(read_study(known[name]), replay(known[name].ledger).trials) for name in study.warm_start)


@dataclass(frozen=True, slots=True)
class Prior:
    """What one arm learns from other studies.

    Attributes:
        trials: their finished search trials as points of the arm's space, in the order of the studies.
        notes: how many were taken from each study, and why others were not.
    """

    trials: tuple[TrialRecord, ...]
    notes: tuple[str, ...]


def require_same_objective(study: StudyConfig, other: StudyConfig) -> None:
    """Refuse a study that was searched for something else.

    Raises: ConfigError naming both objectives.
    """
    for goal in study.objective.goals:
        theirs = {known.metric: known.direction for known in other.objective.goals}
        first = other.objective.metric == study.objective.metric
        if goal.metric == study.objective.metric and (not first or theirs[goal.metric] != goal.direction):
            raise ConfigError(
                f"study {other.name} was searched to {other.objective.direction} {other.objective.metric}",
                where="warm_start",
                allowed=f"studies searched to {goal.direction} {goal.metric}",
                fix=f"take {other.name} out of warm_start, or search for the same metric",
            )


def prior_of(study: StudyConfig, arm: Arm, others: Sequence[PriorStudy]) -> Prior:
    """The trials of other studies that an arm's sampler learns from.

    A study's arm of the same name counts, else those of the same method. A trial fits when all that was searched for it
    is searched here or has the same value here, when its own values of the fields searched here lie in their space, and
    when every objective and limited metric was measured.

    Args:
        study: the study that is searched.
        arm: one of its arms.
        others: the studies of `warm_start`.
    """
    kept: list[TrialRecord] = []
    notes: list[str] = []
    for other in others:
        named = [trial for trial in other.trials if trial.arm == arm.name]
        alike = named or [trial for trial in other.trials if trial.config.get("method") == arm.method]
        ended = [trial for trial in alike if trial.role == "search" and trial.status is TrialStatus.DONE]
        fitting = [point for trial in ended if (point := _as_point(study, arm, trial)) is not None]
        kept += fitting
        notes.append(f"{arm.name} learns from {len(fitting)} search trials of {other.config.name}")
        if len(fitting) < len(ended):
            notes[-1] += f"; {len(ended) - len(fitting)} more lie outside its space or lack a metric that is asked"
        if fitting and (changed := _changed_evaluation(arm, fitting[0])):
            notes.append(f"{other.config.name} was scored otherwise: {', '.join(changed)}; its scores may not compare")
    return Prior(tuple(kept), tuple(notes))


def _as_point(study: StudyConfig, arm: Arm, trial: TrialRecord) -> TrialRecord | None:
    """The trial as a point of the arm's space; None where it is none."""
    own = {**flatten(TrialConfig().model_dump(mode="json")), **arm.fields}
    for name, value in trial.params.items():
        if name not in arm.tune and not holds(value, [own.get(name)]):
            return None
    theirs = flatten(trial.config)
    params: dict[str, Any] = searched(arm.tune, {name: theirs[name] for name in arm.tune if name in theirs})
    limited = [metric_of(study, trial, limit.metric) for limit in study.constraints]
    if values_of(study, trial) is None or None in limited:
        return None
    point = trial.model_copy(update={"params": params, "rungs": ()})
    what = seen(study.model_copy(update={"constraints": ()}), point, None)
    return point if frozen_trial(what, point, arm.tune, distributions(arm.tune)) is not None else None


def _changed_evaluation(arm: Arm, trial: TrialRecord) -> list[str]:
    """Fields of the evaluation in which a trial differs from the arm."""
    default = flatten(TrialConfig().model_dump(mode="json"))
    theirs = _evaluation(flatten(trial.config))
    own = _evaluation({**default, **arm.fields})
    return [name for name in own if name in theirs and not _same(own[name], theirs[name])]


def _evaluation(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name.startswith("evaluation.")}


def _same(one: Any, other: Any) -> bool:
    lists = (list, tuple)
    return list(one) == list(other) if isinstance(one, lists) and isinstance(other, lists) else bool(one == other)
