"""Objectives that are no number, trials that diverge, tasks that break: they fail alone, with their class and step."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_trials
import pytest
from executor_suite import make_study, run
from oracle import Oracle

from afp_ray.config import StudyConfig
from afp_ray.execution import LocalExecutor
from afp_ray.records import FailureClass, StudyState, TrialResult, TrialStatus

ILL: dict[str, Any] = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "missing": None, "text": "high"}


def objective_that_is(value: Any) -> Callable[[TrialResult], Any]:
    """What it should be for layer 1, and `value` for layer 2; for a missing one an error."""

    def objective(result: TrialResult) -> Any:
        if result.config["loss"]["layer"] == 1:
            return fake_trials.objective(result)
        if value is None:
            return result.config["no such score"]
        return value

    return objective


def run_with(objective: Callable[[TrialResult], Any]) -> Callable[[StudyConfig, Path], StudyState]:
    def runner(study: StudyConfig, storage: Path) -> StudyState:
        return run(study, storage, LocalExecutor(), measure=lambda result: (objective(result), {}))

    return runner


@pytest.mark.parametrize("kind", ILL)
@pytest.mark.parametrize(("sampler", "direction"), [("tpe", "maximize"), ("random", "minimize")])
def test_an_objective_that_is_no_number_wins_nothing_and_stops_nothing(
    kind: str, sampler: str, direction: str, oracle: Oracle, tmp_path: Path
) -> None:
    study = make_study(
        objective={"metric": "mean", "direction": direction},
        sampler={"name": sampler},
        budget={"trials": 12},
        seeds=[1],
    )
    runner = run_with(objective_that_is(ILL[kind]))
    runner(study, tmp_path)
    again = runner(study, tmp_path / "again")
    state = oracle(study, tmp_path, max_repeated=0, undisturbed=again, projects=(kind, sampler) == ("nan", "tpe"))
    ill = [trial for trial in state.trials if trial.params.get("loss.layer") == 2]
    assert 0 < len(ill) < 12, "the search went on, and also found what is well"
    expected = FailureClass.DIVERGED if kind in ("nan", "inf", "-inf") else FailureClass.BUG
    for trial in ill:
        assert trial.status is TrialStatus.FAILED
        assert trial.objective is None
        assert trial.failure is not None and trial.failure.failure_class is expected
    (chosen,) = [trial for trial in state.trials if trial.arm == "afp" and "test" in trial.splits]
    scores = [trial.objective for trial in state.trials if trial.role == "search" and trial.objective is not None]
    assert chosen.objective == (max(scores) if direction == "maximize" else min(scores))


def test_a_diverged_trial_tells_the_step_and_is_not_tried_again(oracle: Oracle, tmp_path: Path) -> None:
    study = make_study(compare={"training.learning_rate": [1e-5, fake_trials.FAILS["diverged"]]}, tune={}, seeds=[1])
    state = run(study, tmp_path, LocalExecutor())
    again = run(study, tmp_path, LocalExecutor())
    assert again.trials == state.trials
    (failed,) = [trial for trial in oracle(study, tmp_path, max_repeated=0).trials if trial.failure is not None]
    assert (failed.failure.failure_class, failed.failure.step, failed.attempt) == (FailureClass.DIVERGED, 7, 1)  # type: ignore[union-attr]
