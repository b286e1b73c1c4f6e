"""Trials of the ledger as Optuna keeps them: state, values, rungs, limits and parameters.

A trial without a finite value of every objective, or whose limits cannot be judged, is FAIL: it can neither linger nor
poison a model. One that is paused is RUNNING with its rungs, one that was stopped early is PRUNED with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from afp_ray.config import StudyConfig, TuneSpec
from afp_ray.records import TrialRecord, TrialStatus
from afp_ray.search.conditions import is_searched
from afp_ray.search.objectives import values_of, violations
from afp_ray.search.space import to_optuna


@dataclass(frozen=True, slots=True)
class Seen:
    """What Optuna is told of a trial.

    Attributes:
        state: its state.
        values: every objective; None where the state has none.
        rungs: the objective at each rung, 0-based; none where there are several objectives, since Optuna compares
            unfinished trials by one.
        constraints: amounts by which limits are passed, by limit in words; 0 or less keeps one.
    """

    state: TrialState
    values: tuple[float, ...] | None
    rungs: Mapping[int, float]
    constraints: Mapping[str, float]


def seen(study: StudyConfig, trial: TrialRecord, base: TrialRecord | None) -> Seen:
    """The trial as Optuna sees it.

    Args:
        study: gives objectives and limits.
        trial: a search trial.
        base: the finished trial of its arm's base, where a limit is against it.
    """
    rungs = {} if study.objective.also else dict(enumerate(trial.rungs))
    if not trial.status.is_terminal:
        return Seen(TrialState.RUNNING, None, rungs, {})
    if trial.status is TrialStatus.PRUNED:
        amounts = violations(study, trial, base) or {}
        return Seen(TrialState.PRUNED, None if not rungs else (trial.rungs[-1],), rungs, amounts)
    values, limits = values_of(study, trial), violations(study, trial, base)
    if values is None or limits is None:
        return Seen(TrialState.FAIL, None, {}, {})
    return Seen(TrialState.COMPLETE, values, rungs, limits)


def frozen_trial(
    shown: Seen,
    trial: TrialRecord,
    tune: Mapping[str, TuneSpec],
    space: Mapping[str, BaseDistribution],
    user_attrs: Mapping[str, object] | None = None,
) -> FrozenTrial | None:
    """The trial for an Optuna study; None where its parameters are no point of the space.

    Args:
        shown: what Optuna is told of it.
        trial: gives the parameters.
        tune: the space of its arm.
        space: the same as distributions.
        user_attrs: shown beside it.
    """
    if {name for name, spec in tune.items() if is_searched(spec, trial.params)} != set(trial.params):
        return None
    try:
        return optuna.create_trial(
            params=to_optuna(tune, trial.params),
            distributions={name: space[name] for name in tune if name in trial.params},
            state=shown.state,
            values=shown.values,
            intermediate_values=dict(shown.rungs),
            constraints=dict(shown.constraints),
            user_attrs=dict(user_attrs or {}),
        )
    except ValueError:  # sampled from another space, before a drift that was allowed
        return None
