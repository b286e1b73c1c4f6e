"""Kill the driver, or ask it to stop: everything ends, nothing that finished is trained again, the best stays."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_trials
import pytest
from executor_suite import make_study, num_trainings, run
from fault_driver import KILLED, SUPPORT, Nursery, Started
from oracle import Oracle, run_here

from afp_ray.errors import StudyLockedError
from afp_ray.execution import LocalExecutor
from afp_ray.execution.failpoints import NAMES
from afp_ray.ledger import replay
from afp_ray.records import TrialStatus

NUM_EVENTS = 23
"""Events of the fake study when nothing goes wrong: 6 trials, one test job, OPENED and CLOSED."""
THIRTY: dict[str, Any] = {"budget": {"trials": 28}}
"""With `base` and the confirmation of the best configuration these are 30 trials."""
WITH_RUNGS: dict[str, Any] = {"pruner": {"name": "asha", "min": 20}, "budget": {"trials": 9}}
WAITING: dict[str, Any] = {
    "compare": {"training.learning_rate": [fake_trials.FAILS["waits"], 1e-5]},
    "tune": {},
    "seeds": [1],
}


def wait_until_running(process: Started) -> None:
    while not (line := process.stdout.readline()).startswith("RUNNING"):
        assert line, "it has ended"


@pytest.mark.parametrize("num_events", random.Random(0).sample(range(1, NUM_EVENTS), 3))
def test_a_driver_killed_at_any_moment_is_continued(
    drivers: Nursery, oracle: Oracle, tmp_path: Path, num_events: int
) -> None:
    drivers.kill_after(num_events, tmp_path, {})
    run_here(make_study(), tmp_path)
    oracle(make_study(), tmp_path, max_repeated=1, mark=str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_study_of_thirty_trials_whose_driver_is_killed_twenty_times(
    drivers: Nursery, oracle: Oracle, tmp_path: Path, seed: int
) -> None:
    """Each driver finds what the ones before had done, gets some trials further, and is killed in its turn."""
    draws, study = random.Random(seed), make_study(**THIRTY)
    finished: list[set[str]] = []
    num_kills = 0
    while num_kills < 20:
        num_kills += drivers.kill_after(draws.randint(1, 6), tmp_path, THIRTY)
        state = replay(tmp_path / "fake" / "ledger.jsonl")
        finished.append({trial.trial_id for trial in state.trials if trial.status is TrialStatus.DONE})
        assert state.closed is None
    assert all(before <= after for before, after in itertools.pairwise(finished))
    assert 0 < len(finished[-1]) < 30
    run_here(study, tmp_path)
    state = oracle(study, tmp_path, max_repeated=20, mark=str(tmp_path))
    assert len(state.trials) == 30
    assert state.driver_attempt >= 20
    trainings = num_trainings(tmp_path)
    assert len(trainings) == 30


@pytest.mark.parametrize("name", NAMES)
def test_a_driver_killed_at_a_commit_boundary_is_continued(
    drivers: Nursery, oracle: Oracle, tmp_path: Path, name: str
) -> None:
    fields = WITH_RUNGS if name in ("after_paused", "after_pruned") else {}
    if name == "after_failed":
        fields = {"compare": {"training.learning_rate": [fake_trials.FAILS["diverged"], 1e-5, 2e-5]}, "tune": {}}
    nth = 1 if name in ("after_confirmed_before_cleanup", "after_failed") else 3
    code, output = drivers.drive(tmp_path, fields, {"failpoint": [name, nth]})
    assert code == KILLED, output
    run_here(make_study(**fields), tmp_path)
    oracle(make_study(**fields), tmp_path, max_repeated=0, mark=str(tmp_path))


def test_a_result_that_the_ledger_missed_is_adopted(oracle: Oracle, tmp_path: Path) -> None:
    """The point is named in the environment of a process of its own, as a user would."""
    path = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "AFP_FAILPOINT": "after_result_before_commit:2"}
    command = [sys.executable, str(SUPPORT / "fault_driver.py"), str(tmp_path), "{}"]
    assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode == KILLED
    before = replay(tmp_path / "fake" / "ledger.jsonl")
    (missed,) = [trial for trial in before.trials if trial.status is TrialStatus.RUNNING]
    run_here(make_study(), tmp_path)
    trial = oracle(make_study(), tmp_path, max_repeated=0).trial(missed.trial_id)
    assert trial is not None
    assert (trial.status, trial.note) == (TrialStatus.DONE, "adopted")
    assert num_trainings(tmp_path)[missed.trial_id] == 1


def test_a_second_driver_is_told_who_holds_the_study(drivers: Nursery, tmp_path: Path) -> None:
    fields = {"compare": {"training.learning_rate": [fake_trials.FAILS["waits"]]}, "tune": {}}
    with drivers.started(str(tmp_path), json.dumps(fields)) as process:
        wait_until_running(process)
        with pytest.raises(StudyLockedError, match=f"pid {process.pid} "):
            run(make_study(**fields), tmp_path, LocalExecutor())


def test_the_first_signal_waits_for_the_running_trial(drivers: Nursery, oracle: Oracle, tmp_path: Path) -> None:
    with drivers.started(str(tmp_path), json.dumps(WAITING)) as process:
        wait_until_running(process)
        process.send_signal(signal.SIGINT)
        process.communicate("go on\n")
    state = replay(tmp_path / "fake" / "ledger.jsonl")
    assert state.closed == "interrupted: SIGINT"
    assert [trial.status for trial in state.trials] == [TrialStatus.DONE]
    assert drivers.drive(tmp_path, WAITING)[0] == 0
    resumed = replay(tmp_path / "fake" / "ledger.jsonl")
    oracle(make_study(**WAITING), tmp_path, max_repeated=0, mark=str(tmp_path), undisturbed=resumed)


def test_the_second_signal_stops_at_once_and_the_trial_is_run_again(
    drivers: Nursery, oracle: Oracle, tmp_path: Path
) -> None:
    with drivers.started(str(tmp_path), json.dumps(WAITING)) as process:
        wait_until_running(process)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.wait()
    state = replay(tmp_path / "fake" / "ledger.jsonl")
    assert state.closed is not None
    assert state.closed.startswith("interrupted: SIG")
    assert [trial.status for trial in state.trials] == [TrialStatus.CANCELLED]
    assert drivers.drive(tmp_path, WAITING)[0] == 0
    resumed = replay(tmp_path / "fake" / "ledger.jsonl")
    assert [(trial.status, trial.attempt) for trial in resumed.trials] == [(TrialStatus.DONE, 2), (TrialStatus.DONE, 1)]
    oracle(make_study(**WAITING), tmp_path, max_repeated=1, mark=str(tmp_path), undisturbed=resumed)
