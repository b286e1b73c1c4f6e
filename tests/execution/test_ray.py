"""The executors' suite on `RayExecutor`, and what only a cluster can do."""

import json
from pathlib import Path

import fake_trials
import pytest
from executor_suite import (
    ExecutorSuite,
    Finished,
    MakeExecutor,
    by_learning_rate,
    make_study,
    num_trainings,
    run,
    with_failures,
)

from afp_ray.errors import ConfigError
from afp_ray.execution.ray_executor import RayExecutor
from afp_ray.records import FailureClass, TrialStatus
from afp_ray.store import StudyPaths

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_cluster")]


class TestRayExecutor(ExecutorSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def make_executor(cls) -> MakeExecutor:
        return lambda study: RayExecutor(study.runtime)

    def test_actors_stay_warm(self, finished: Finished) -> None:
        folder = StudyPaths(finished.storage, "fake").trials
        calls = [json.loads(path.read_text()) for path in folder.glob("*/training_calls.jsonl")]
        assert len(calls) == 6
        assert len({call["pid"] for call in calls}) <= 2, "two at once"


def test_a_worker_that_dies_is_tried_again_until_it_is_given_up(tmp_path: Path) -> None:
    study = with_failures("dies_once", "dies", runtime={"max_retries": 1})
    state = run(study, tmp_path, RayExecutor(study.runtime))
    assert state.closed == "complete"
    trials, trainings = by_learning_rate(state), num_trainings(tmp_path)
    assert (trials[1e-5].status, trials[1e-5].attempt) == (TrialStatus.DONE, 1)
    retried, failed = (trials[fake_trials.FAILS[kind]] for kind in ("dies_once", "dies"))
    assert (retried.status, retried.attempt, trainings[retried.trial_id]) == (TrialStatus.DONE, 2, 2)
    assert "died" in StudyPaths(tmp_path, "fake").trial(retried.trial_id).failure(1).read_text()
    assert (failed.status, failed.attempt, trainings[failed.trial_id]) == (TrialStatus.FAILED, 2, 2)
    assert failed.failure is not None
    assert failed.failure.failure_class is FailureClass.INFRA


@pytest.mark.slow
def test_two_workers_form_a_process_group_and_fail_together(tmp_path: Path) -> None:
    study = with_failures("diverged", runtime={"workers_per_trial": 2})
    state = run(study, tmp_path, RayExecutor(study.runtime), run_trial="fake_trials:run_in_group")
    trials = by_learning_rate(state)
    done, failed = trials[1e-5], trials[fake_trials.FAILS["diverged"]]
    assert done.status is TrialStatus.DONE, done.failure
    folder = StudyPaths(tmp_path, "fake").trial(done.trial_id).folder
    assert (folder / "sum_of_ranks.txt").read_text() == "3.0"
    assert num_trainings(tmp_path) == {done.trial_id: 1}
    assert not (folder / ".train").exists()
    assert failed.status is TrialStatus.FAILED
    assert failed.failure is not None
    assert (failed.failure.failure_class, failed.failure.step) == (FailureClass.DIVERGED, 7)


def test_more_than_the_machine_has_is_refused() -> None:
    from afp_ray.execution.cluster import num_trials_at_once

    runtime = make_study(runtime={"workers_per_trial": 2, "cpus_per_worker": 2}).runtime
    with pytest.raises(ConfigError, match="one trial needs 4 CPUs"):
        num_trials_at_once(runtime, is_own=True)
    assert num_trials_at_once(runtime, is_own=False) == 1  # a cluster elsewhere may grow
    assert num_trials_at_once(make_study(runtime={"concurrency": None}).runtime, is_own=True) == 2
