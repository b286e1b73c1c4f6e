"""Successive halving through the driver: trials go on where they were, and a study killed on the way ends the same."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import fake_trials
import pytest
from executor_suite import make_study, no_fingerprint, run

from afp_ray.config import StudyConfig
from afp_ray.execution import LocalExecutor
from afp_ray.ledger import replay
from afp_ray.records import StudyState, TrialRecord, TrialStatus
from afp_ray.search import StudySearch
from afp_ray.store import StudyPaths

STEPS = 18


def halved(**fields: Any) -> StudyConfig:
    whole = {"pruner": {"name": "asha", "min": 2}, "fixed": {"training.max_steps": STEPS}, "budget": {"trials": 9}}
    return make_study(**{**whole, **fields})


def searched(state: StudyState) -> list[TrialRecord]:
    return [trial for trial in state.trials if trial.role == "search"]


def summary(state: StudyState) -> list[tuple[str, str, tuple[float, ...], float | None]]:
    return [(trial.trial_id, trial.status, trial.rungs, trial.objective) for trial in state.trials]


def spans(storage: Path, trial: TrialRecord) -> list[tuple[int, int]]:
    return [tuple(span) for span in fake_trials.steps_of(StudyPaths(storage, "fake").trial(trial.trial_id).folder)]  # type: ignore[misc]


def test_trials_go_on_where_they_were_and_the_rest_is_pruned(tmp_path: Path) -> None:
    study = halved()
    state = run(study, tmp_path, LocalExecutor())
    assert state.closed == "complete"
    assert {trial.status for trial in searched(state)} == {TrialStatus.PRUNED, TrialStatus.DONE}
    ends = [0, 2, 6, STEPS]
    for trial in searched(state):
        reached = len(trial.rungs) + (trial.status is TrialStatus.DONE)
        assert spans(tmp_path, trial) == list(pairwise(ends[: reached + 1]))  # no step twice
        is_whole = trial.status is TrialStatus.DONE
        assert trial.gpu_hours == pytest.approx(0.5 if is_whole else 0.5 * ends[reached] / STEPS)
    whole = [trial for trial in searched(state) if trial.status is TrialStatus.DONE]
    assert 1 <= len(whole) <= 3
    best = max(whole, key=lambda trial: trial.objective or 0)
    confirmed = [trial for trial in state.trials if trial.arm == "afp" and "test" in trial.splits]
    assert {trial.trial_id for trial in confirmed} >= {best.trial_id}
    assert {str(trial.params) for trial in confirmed} == {str(best.params)}
    assert run(study, tmp_path, LocalExecutor()).trials == state.trials


@pytest.mark.parametrize("unit", ["rows", "tokens"])
def test_rows_and_tokens_are_rungs_too(tmp_path: Path, unit: str) -> None:
    fixed = {"training": {"max_steps": STEPS, "batch_size": 2, "max_length": 32}}
    study = halved(fixed=fixed, pruner={"name": "asha", "unit": unit, "min": 200 if unit == "tokens" else 8})
    state = run(study, tmp_path, LocalExecutor())
    assert state.closed == "complete"
    assert all(spans(tmp_path, trial)[0] == (0, 2) for trial in searched(state))
    assert {trial.status for trial in searched(state)} == {TrialStatus.PRUNED, TrialStatus.DONE}


def test_a_budget_that_ends_leaves_paused_trials_that_a_larger_one_continues(tmp_path: Path) -> None:
    first = run(halved(budget={"trials": 9, "gpu_hours": 0.9}), tmp_path, LocalExecutor())  # base alone takes 0.5
    assert (first.closed or "").startswith("budget")
    assert TrialStatus.PAUSED in {trial.status for trial in searched(first)}
    study = halved()
    last = run(study, tmp_path, LocalExecutor(), allow_drift=True)
    assert last.closed == "complete"
    assert all(trial.status.is_terminal for trial in last.trials)
    for trial in searched(last):
        ends = [end for _, end in spans(tmp_path, trial)]
        assert len(ends) == len(set(ends))  # what was paused went on
    assert summary(last) == summary(run(study, tmp_path / "whole", LocalExecutor()))


class _Killed(BaseException):
    """Ends a driver where it stands."""


@pytest.mark.parametrize("every", [1, 2, 5])
def test_a_driver_that_dies_after_any_event_changes_nothing(tmp_path: Path, every: int) -> None:
    study = halved(budget={"trials": 6})
    whole = summary(run(study, tmp_path / "whole", LocalExecutor()))
    paths = StudyPaths(tmp_path, "fake")
    for _ in range(200):
        seen = 0

        def die(event: Any, state: StudyState) -> None:
            nonlocal seen
            seen += event.trial_id is not None and event.state in ("PLANNED", "PAUSED", "DONE", "PRUNED")
            if seen == every + 1:
                raise _Killed

        try:
            state = run(study, tmp_path, LocalExecutor(), on_event=[die])
        except _Killed:
            continue
        break
    assert summary(state) == whole
    assert replay(paths.ledger).closed == "complete"
    assert not StudySearch(study, no_fingerprint).pruned()
