"""Kill the driver anywhere, then continue: everything ends, nothing that finished is trained again, the best stays."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_trials
import pytest
from conformance.executor_suite import make_study, num_trainings, run

from afp_ray.errors import StudyLockedError
from afp_ray.execution import LocalExecutor
from afp_ray.execution.failpoints import NAMES
from afp_ray.ledger import replay
from afp_ray.records import StudyState, TrialStatus
from afp_ray.store import StudyPaths

TESTS = Path(__file__).parent.parent
NUM_EVENTS = 23
"""Events of the fake study when nothing goes wrong: 6 trials, one test job, OPENED and CLOSED."""


@contextmanager
def driver(storage: Path, *, failpoint: str = "", **fields: Any) -> Iterator[subprocess.Popen[str]]:
    """A driver of the fake study in its own process; it prints a line per event."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    process = subprocess.Popen(
        [sys.executable, str(TESTS / "fault_driver.py"), str(storage), json.dumps(fields)],
        env={**os.environ, "PYTHONPATH": path, "AFP_FAILPOINT": failpoint},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def best_of(state: StudyState) -> str:
    return max((t for t in state.trials if t.role == "search"), key=lambda trial: trial.objective or 0).trial_id


def assert_whole(storage: Path, before: StudyState, num_redone: int) -> None:
    """Continue after a kill and check what must hold after every fault."""
    study = make_study()
    state = run(study, storage, LocalExecutor())
    assert state.closed == "complete"
    assert all(trial.status is TrialStatus.DONE for trial in state.trials)
    assert len(state.trials) == 6
    trainings = num_trainings(storage)
    finished = {trial.trial_id for trial in before.trials if trial.status is TrialStatus.DONE}
    assert all(trainings[trial_id] == 1 for trial_id in finished)
    assert sum(trainings.values()) <= 6 + num_redone
    undisturbed = run(make_study("undisturbed"), storage / "elsewhere", LocalExecutor())
    assert best_of(state) == best_of(undisturbed)
    assert {t.trial_id: t.objective for t in state.trials} == {t.trial_id: t.objective for t in undisturbed.trials}
    paths = StudyPaths(storage, "fake")
    kept = {trial.trial_id for trial in state.trials if paths.trial(trial.trial_id).checkpoint.exists()}
    assert kept == {trial.trial_id for trial in state.trials if "test" in trial.splits}


@pytest.mark.parametrize("num_events", random.Random(0).sample(range(1, NUM_EVENTS), 5))
def test_a_driver_killed_at_any_moment_is_continued(tmp_path: Path, num_events: int) -> None:
    with driver(tmp_path) as process:
        assert process.stdout
        for _ in range(num_events):
            process.stdout.readline()
        process.kill()
        process.wait()
    assert_whole(tmp_path, replay(tmp_path / "fake" / "ledger.jsonl"), num_redone=1)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "after_failed"])
def test_a_driver_killed_at_a_commit_boundary_is_continued(tmp_path: Path, name: str) -> None:
    nth = 1 if name == "after_confirmed_before_cleanup" else 3
    with driver(tmp_path, failpoint=f"{name}:{nth}") as process:
        process.communicate()
        assert process.returncode == 9
    before = replay(tmp_path / "fake" / "ledger.jsonl")
    assert_whole(tmp_path, before, num_redone=0)


def test_a_result_that_the_ledger_missed_is_adopted(tmp_path: Path) -> None:
    with driver(tmp_path, failpoint="after_result_before_commit:2") as process:
        process.communicate()
    before = replay(tmp_path / "fake" / "ledger.jsonl")
    (missed,) = [trial for trial in before.trials if trial.status is TrialStatus.RUNNING]
    state = run(make_study(), tmp_path, LocalExecutor())
    trial = state.trial(missed.trial_id)
    assert trial is not None
    assert (trial.status, trial.note) == (TrialStatus.DONE, "adopted")
    assert num_trainings(tmp_path)[missed.trial_id] == 1


def test_a_second_driver_is_told_who_holds_the_study(tmp_path: Path) -> None:
    fields = {"compare": {"training.learning_rate": [fake_trials.FAILS["waits"]]}, "tune": {}}
    with driver(tmp_path, **fields) as process:
        assert process.stdout
        while not process.stdout.readline().startswith("RUNNING"):
            pass
        with pytest.raises(StudyLockedError, match=f"pid {process.pid} "):
            run(make_study(**fields), tmp_path, LocalExecutor())


WAITING: dict[str, Any] = {
    "compare": {"training.learning_rate": [fake_trials.FAILS["waits"], 1e-5]},
    "tune": {},
    "seeds": [1],
}


def test_the_first_signal_waits_for_the_running_trial(tmp_path: Path) -> None:
    with driver(tmp_path, **WAITING) as process:
        assert process.stdout
        while not process.stdout.readline().startswith("RUNNING"):
            pass
        process.send_signal(signal.SIGINT)
        process.communicate("go on\n")
    state = replay(tmp_path / "fake" / "ledger.jsonl")
    assert state.closed == "interrupted: SIGINT"
    assert [trial.status for trial in state.trials] == [TrialStatus.DONE]


def test_the_second_signal_stops_at_once_and_the_trial_is_run_again(tmp_path: Path) -> None:
    with driver(tmp_path, **WAITING) as process:
        assert process.stdout
        while not process.stdout.readline().startswith("RUNNING"):
            pass
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.wait()
    state = replay(tmp_path / "fake" / "ledger.jsonl")
    assert state.closed is not None
    assert state.closed.startswith("interrupted: SIG")
    assert [trial.status for trial in state.trials] == [TrialStatus.CANCELLED]
    with driver(tmp_path, **WAITING) as process:
        process.communicate("go on\n")
    resumed = replay(tmp_path / "fake" / "ledger.jsonl")
    assert [(trial.status, trial.attempt) for trial in resumed.trials] == [(TrialStatus.DONE, 2), (TrialStatus.DONE, 1)]
