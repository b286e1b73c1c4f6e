"""The executors' suite on `RayExecutor`, and what only a cluster can do."""

import json
from pathlib import Path

import pytest
from executor_suite import ExecutorSuite, MakeExecutor, make_study, num_trainings, run, with_failures

from afp_ray.errors import ConfigError
from afp_ray.execution.ray_executor import RayExecutor
from afp_ray.records import FailureClass, TrialStatus
from afp_ray.store import StudyPaths

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


class TestRayExecutor(ExecutorSuite):
    @pytest.fixture
    def make_executor(self) -> MakeExecutor:
        return lambda study: RayExecutor(study.runtime)


def test_a_killed_worker_is_tried_again(tmp_path: Path) -> None:
    study = with_failures("dies_once")
    state = run(study, tmp_path, RayExecutor(study.runtime))
    assert state.closed == "complete"
    assert {trial.status for trial in state.trials} == {TrialStatus.DONE}
    (retried,) = [trial for trial in state.trials if trial.attempt == 2]
    assert num_trainings(tmp_path)[retried.trial_id] == 2
    text = StudyPaths(tmp_path, "fake").trial(retried.trial_id).failure(1).read_text()
    assert "died" in text


def test_a_worker_that_always_dies_is_given_up(tmp_path: Path) -> None:
    study = with_failures("dies", runtime={"max_retries": 1})
    state = run(study, tmp_path, RayExecutor(study.runtime))
    failed = next(trial for trial in state.trials if trial.status is TrialStatus.FAILED)
    assert failed.failure is not None
    assert failed.failure.failure_class is FailureClass.INFRA
    assert failed.attempt == 2
    assert num_trainings(tmp_path)[failed.trial_id] == 2


def test_actors_stay_warm(tmp_path: Path) -> None:
    study = make_study(tune={}, seeds=list(range(6)), compare={"method": ["afp"]}, runtime={"concurrency": 1})
    run(study, tmp_path, RayExecutor(study.runtime))
    calls = [json.loads(path.read_text()) for path in (tmp_path / "fake" / "trials").glob("*/training_calls.jsonl")]
    assert len(calls) == 6
    assert len({call["pid"] for call in calls}) == 1


@pytest.mark.slow
def test_two_workers_form_a_process_group(tmp_path: Path) -> None:
    study = make_study(tune={}, compare={"method": ["afp"]}, seeds=[1], runtime={"workers_per_trial": 2})
    state = run(study, tmp_path, RayExecutor(study.runtime), run_trial="fake_trials:run_in_group")
    (trial,) = state.trials
    assert trial.status is TrialStatus.DONE, trial.failure
    folder = StudyPaths(tmp_path, "fake").trial(trial.trial_id).folder
    assert (folder / "sum_of_ranks.txt").read_text() == "3.0"
    assert num_trainings(tmp_path) == {trial.trial_id: 1}
    assert not (folder / ".train").exists()


@pytest.mark.slow
def test_a_failure_of_one_worker_is_the_failure_of_the_group(tmp_path: Path) -> None:
    study = with_failures("diverged", runtime={"workers_per_trial": 2})
    state = run(study, tmp_path, RayExecutor(study.runtime), run_trial="fake_trials:run_in_group")
    failed = next(trial for trial in state.trials if trial.status is TrialStatus.FAILED)
    assert failed.failure is not None
    assert failed.failure.failure_class is FailureClass.DIVERGED
    assert failed.failure.step == 7


def test_more_than_the_machine_has_is_refused() -> None:
    from afp_ray.execution.cluster import num_trials_at_once

    runtime = make_study(runtime={"workers_per_trial": 2, "cpus_per_worker": 2}).runtime
    with pytest.raises(ConfigError, match="one trial needs 4 CPUs"):
        num_trials_at_once(runtime, is_own=True)
    assert num_trials_at_once(runtime, is_own=False) == 1  # a cluster elsewhere may grow
    assert num_trials_at_once(make_study(runtime={"concurrency": None}).runtime, is_own=True) == 2
