"""Samplers: the same draws after a rebuild, no configuration twice, several objectives and failed values."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from search_cases import TUNE, TWO_GOALS, Played, make_study, points, trade_off

from afp_ray.config import TrialConfig
from afp_ray.records import TrialRecord, TrialStatus
from afp_ray.search import make_arms
from afp_ray.search.optuna_trials import frozen_trial, seen
from afp_ray.search.sampling import Asker, population_of
from afp_ray.search.space import distributions

ONE_GOAL = {"metric": "mean"}
LIMIT = [{"metric": "pivot_mean", "max_drop": 0.2}]
CONDITIONAL: dict[str, Any] = {
    **TUNE,
    "loss.instruction_weight": {"low": 0.5, "high": 3.0, "when": {"loss.pooling": "mean"}},
}


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
@pytest.mark.parametrize("objective", [ONE_GOAL, TWO_GOALS], ids=["one", "two"])
@pytest.mark.parametrize("constraints", [[], LIMIT], ids=["free", "limited"])
@pytest.mark.parametrize("tune", [TUNE, CONDITIONAL], ids=["flat", "conditional"])
def test_a_search_rebuilt_before_every_trial_draws_what_one_would_have_that_never_stopped(
    sampler: str, objective: Mapping[str, Any], constraints: list[Any], tune: Mapping[str, Any]
) -> None:
    study = make_study(
        sampler={"name": sampler, "startup_trials": 3, "population": 4},
        objective=objective,
        constraints=constraints,
        tune=tune,
        budget={"trials": 14},
    )
    whole = Played(study).run()
    again = Played(study).run(rebuild=True)
    assert len(whole.of("search")) == 14
    assert [(job.trial_id, job.role) for job in again.jobs] == [(job.trial_id, job.role) for job in whole.jobs]


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_a_seed_gives_its_own_draws_and_the_same_ones_again(sampler: str) -> None:
    def draws(seed: int) -> list[Mapping[str, Any]]:
        study = make_study(objective=TWO_GOALS, sampler={"name": sampler, "seed": seed, "population": 4})
        return points(Played(study).run().of("search"))

    assert draws(0) == draws(0)
    assert draws(0) != draws(1)


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
@pytest.mark.parametrize("objective", [ONE_GOAL, TWO_GOALS], ids=["one", "two"])
def test_eight_trials_at_once_are_eight_different_ones(sampler: str, objective: Mapping[str, Any]) -> None:
    study = make_study(sampler={"name": sampler, "population": 4}, objective=objective, budget={"trials": 24})
    searched = Played(study).run(at_once=8).of("search")
    assert len({job.trial_id for job in searched}) == len(searched) == 24
    assert len({str(job.params) for job in searched}) == 24


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "grid"])
def test_eight_workers_try_every_point_of_a_small_space_once(sampler: str) -> None:
    tune = {"loss.layer": {"low": 0, "high": 4, "int": True}, "loss.pooling": {"choices": ["last", "mean"]}}
    study = make_study(sampler={"name": sampler, "population": 4}, tune=tune, budget={"trials": 50})
    searched = Played(study).run(at_once=8).of("search")
    assert len(searched) == len({str(job.params) for job in searched}) == 10


def test_two_objectives_are_searched_better_than_by_chance() -> None:
    """The mean over draws of the share of the best that they reach in both objectives."""

    def reached(sampler: str, seed: int) -> float:
        study = make_study(
            sampler={"name": sampler, "seed": seed, "population": 6}, objective=TWO_GOALS, budget={"trials": 32}
        )
        late = Played(study).run().of("search")[16:]
        return sum(sum((trade_off(TrialConfig.model_validate(job.config))[1]).values()) for job in late) / len(late)

    for sampler in ("tpe", "nsga2"):
        gains = [reached(sampler, seed) - reached("random", seed) for seed in range(2)]
        assert sum(gains) / len(gains) > 0.05, (sampler, gains)


def test_a_generation_follows_from_the_order_of_trials() -> None:
    """Where all parents have one layer, the following generation has it too, but for what mutates."""
    tune = {**TUNE, "loss.layer": {"choices": list(range(30))}}
    study = make_study(sampler={"name": "nsga2", "population": 4}, tune=tune)
    arm = make_arms(study)[1]
    params = {"loss.temperature": 0.1, "loss.layer": 7, "loss.pooling": "mean"}
    records = [record(params=params, trial_id=str(index), objective=0.5) for index in range(4)]

    def inherited(trials: list[TrialRecord]) -> int:
        drawn = [Asker(study, arm).ask(trials, repeat) or {} for repeat in range(30)]
        return sum(point["loss.layer"] == 7 for point in drawn)

    assert inherited(records) >= 12  # two in three are not mutated
    assert inherited(records[:3]) <= 5  # still the first generation, drawn at random
    failed = [one.model_copy(update={"trial_id": f"x{index}", "objective": None}) for index, one in enumerate(records)]
    assert inherited([*failed, *records[:3]]) <= 5  # what failed is of no generation


@pytest.mark.parametrize(
    ("population", "trials", "expected"), [(None, 8, 4), (None, 80, 10), (None, 9999, 50), (7, 8, 7)]
)
def test_a_generation_is_an_eighth_of_the_budget_unless_given(
    population: int | None, trials: int, expected: int
) -> None:
    study = make_study(sampler={"name": "nsga2", "population": population}, budget={"trials": trials})
    assert population_of(study) == expected


def record(**fields: Any) -> TrialRecord:
    whole: dict[str, Any] = {
        "trial_id": "a",
        "arm": "afp",
        "seed": 1,
        "role": "search",
        "status": TrialStatus.DONE,
        "attempt": 1,
        "config": {},
        "params": {"loss.temperature": 0.1, "loss.layer": 1, "loss.pooling": "mean"},
        "planned_at": 0.0,
    }
    return TrialRecord.model_construct(**{**TrialRecord(**whole).__dict__, **whole, **fields})


def test_a_value_that_is_not_finite_fails_its_trial_for_the_sampler() -> None:
    one, two = make_study(objective=ONE_GOAL), make_study(objective=TWO_GOALS)
    for objective in (math.nan, math.inf, -math.inf, None):
        assert seen(one, record(objective=objective), None).state is TrialState.FAIL
        assert seen(two, record(objective=objective, values={"pivot_mean": 0.5}), None).state is TrialState.FAIL
    for value in (math.nan, math.inf, -math.inf):
        assert seen(two, record(objective=0.5, values={"pivot_mean": value}), None).state is TrialState.FAIL
    assert seen(two, record(objective=0.5), None).state is TrialState.FAIL
    whole = seen(two, record(objective=0.5, values={"pivot_mean": 0.25}), None)
    assert (whole.state, whole.values) == (TrialState.COMPLETE, (0.5, 0.25))


def test_rungs_are_intermediate_values_and_early_ends_are_pruned() -> None:
    study = make_study(objective=ONE_GOAL)
    paused = seen(study, record(status=TrialStatus.PAUSED, rungs=(0.25, 0.5)), None)
    assert (paused.state, paused.values, dict(paused.rungs)) == (TrialState.RUNNING, None, {0: 0.25, 1: 0.5})
    pruned = seen(study, record(status=TrialStatus.PRUNED, rungs=(0.25, 0.5)), None)
    assert (pruned.state, pruned.values, dict(pruned.rungs)) == (TrialState.PRUNED, (0.5,), {0: 0.25, 1: 0.5})
    done = seen(study, record(objective=0.75, rungs=(0.25, 0.5)), None)
    assert (done.state, done.values, dict(done.rungs)) == (TrialState.COMPLETE, (0.75,), {0: 0.25, 1: 0.5})


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
@pytest.mark.parametrize("objective", [ONE_GOAL, TWO_GOALS], ids=["one", "two"])
def test_paused_pruned_failed_and_running_trials_are_modelled_without_harm(
    sampler: str, objective: Mapping[str, Any]
) -> None:
    study = make_study(objective=objective, sampler={"name": sampler, "population": 2, "startup_trials": 1})
    arm = make_arms(study)[1]
    statuses = [
        TrialStatus.PAUSED,
        TrialStatus.PRUNED,
        TrialStatus.FAILED,
        TrialStatus.RUNNING,
        *[TrialStatus.DONE] * 6,
    ]
    trials = [
        record(
            trial_id=str(index),
            status=status,
            rungs=(0.1, 0.2) if status in (TrialStatus.PAUSED, TrialStatus.PRUNED) else (),
            objective=0.1 * index if status is TrialStatus.DONE else None,
            values={"pivot_mean": 1 - 0.1 * index} if status is TrialStatus.DONE else {},
            params={"loss.temperature": 0.1, "loss.layer": index % 7, "loss.pooling": "mean"},
        )
        for index, status in enumerate(statuses)
    ]
    live = Asker(study, arm)
    live.ask(trials[:1], 0)
    ended = [trials[0].model_copy(update={"status": TrialStatus.PRUNED, "rungs": (0.1, 0.2, 0.3)}), *trials[1:]]
    assert live.ask(ended, 0) == Asker(study, arm).ask(ended, 0)


def test_a_trial_outside_the_space_is_no_trial_for_optuna() -> None:
    study = make_study()
    tune = make_arms(study)[1].tune
    for params in (
        {"loss.temperature": 0.1, "loss.layer": 1},
        {"loss.temperature": 0.1, "loss.layer": 9, "loss.pooling": "mean"},
        {"loss.temperature": 0.1, "loss.layer": 1, "loss.pooling": "first"},
        {"loss.temperature": 0.1, "loss.layer": 1, "loss.pooling": "mean", "data.num_pairs": 5},
    ):
        trial = record(params=params, objective=0.5)
        assert frozen_trial(seen(study, trial, None), trial, tune, distributions(tune)) is None


def test_what_a_sampler_does_by_default_is_known() -> None:
    """A release of Optuna with options that nothing here pins must not change draws unnoticed."""
    pinned = {"seed", "n_startup_trials", "n_ei_candidates", "multivariate", "group", "constant_liar"}
    withdrawn = {"consider_prior", "prior_weight", "consider_magic_clip", "consider_endpoints", "gamma", "weights"}
    unused = {"warn_independent_sampling", "constraints_func"}
    assert set(inspect.signature(optuna.samplers.TPESampler).parameters) == pinned | withdrawn | unused
    pinned = {"seed", "population_size", "mutation", "mutation_prob", "crossover", "crossover_prob", "swapping_prob"}
    replaced = {name for name in inspect.signature(optuna.samplers.NSGAIISampler).parameters if "strategy" in name}
    assert set(inspect.signature(optuna.samplers.NSGAIISampler).parameters) == pinned | replaced | {"constraints_func"}
