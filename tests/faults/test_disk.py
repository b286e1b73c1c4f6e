"""A disk that is full or refuses: the sweep stops and says where, nothing is truncated, and it goes on later."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from executor_suite import make_study, num_trainings
from fault_driver import REFUSED, Nursery
from oracle import Oracle, run_here

from afp_ray.ledger import replay
from afp_ray.records import FailureClass, StudyState, TrialStatus

ERRORS = {"ENOSPC": "No space left on device", "EACCES": "Permission denied", "EROFS": "Read-only file system"}


def state_of(storage: Path) -> StudyState:
    return replay(storage / "fake" / "ledger.jsonl")


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("first", [3, 11, 16, 20, 28, 33, 60, 95, 130])
def test_a_disk_that_refuses_from_some_moment_on(
    name: str, first: int, drivers: Nursery, oracle: Oracle, tmp_path: Path
) -> None:
    """Whoever writes meets it first: the lease, the ledger, a trial. Nothing is lost but what could not be written."""
    code, output = drivers.drive(tmp_path, {}, {"refuse": name, "from": first})
    assert code == REFUSED, output
    error = output.splitlines()[-1]
    assert error.startswith("StorageError: cannot ")
    assert str(tmp_path) in error and ERRORS[name] in error
    done = [trial for trial in state_of(tmp_path).trials if trial.status is TrialStatus.DONE]
    assert set(num_trainings(tmp_path)) >= {trial.trial_id for trial in done}
    run_here(make_study(), tmp_path)
    oracle(make_study(), tmp_path, max_repeated=1, projects=first == 60)


def test_a_file_that_may_not_grow(drivers: Nursery, oracle: Oracle, tmp_path: Path) -> None:
    """The limit is met by the ledger, in the midst of a line."""
    code, output = drivers.drive(tmp_path, {}, {"file_bytes": 9_000})
    assert code == REFUSED, output
    ledger = tmp_path / "fake" / "ledger.jsonl"
    assert f"cannot append to {ledger}: only " in output
    assert ledger.read_bytes().endswith(b"\n"), "what fitted of the line was taken back"
    run_here(make_study(), tmp_path)
    oracle(make_study(), tmp_path, max_repeated=1)


def test_a_trial_whose_files_do_not_fit_stops_the_sweep_and_runs_when_there_is_room(
    drivers: Nursery, oracle: Oracle, tmp_path: Path
) -> None:
    """The ledger has room, the trial's checkpoint has none: no trial after it is wasted on the same disk."""
    code, output = drivers.drive(tmp_path, {}, {"file_bytes": 1_000_000}, "fault_driver:run_large")
    assert code == REFUSED, output
    state = state_of(tmp_path)
    assert state.closed is not None and state.closed.startswith("error: StorageError: cannot write ")
    (failed,) = state.trials
    assert failed.failure is not None
    assert failed.failure.failure_class is FailureClass.STORAGE
    for words in ("model.safetensors (2,000,000 bytes)", "File too large"):
        assert words in failed.failure.message and words in output
    run_here(make_study(), tmp_path)
    finished = oracle(make_study(), tmp_path, max_repeated=1).trial(failed.trial_id)
    assert finished is not None and (finished.status, finished.attempt) == (TrialStatus.DONE, 2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 5 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root may mount a file system")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_fills_up(small_disk: Path, drivers: Nursery, oracle: Oracle) -> None:
    storage = small_disk / "runs"
    fields = {"runtime": {"keep_checkpoints": "all"}}
    code, output = drivers.drive(storage, fields, {}, "fault_driver:run_large")
    assert code == REFUSED, output
    assert "No space left on device" in output and str(storage) in output
    before = state_of(storage)
    assert sum(trial.status is TrialStatus.DONE for trial in before.trials) == 2
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    run_here(make_study(**fields), storage)
    oracle(make_study(**fields), storage, max_repeated=1)
