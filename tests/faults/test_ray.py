"""What can break on a cluster while trials run on it: workers killed, hung or back from the dead, memory, the head.

Rows 5, 6, 7, 8, 9, 24, 26 and 27 of the fault matrix; nodes that are taken away have tests of their own in
`tests/execution/test_nodes.py`.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_trials
import pytest
from executor_suite import make_study, run, with_failures
from oracle import MARK, Oracle

from afp_ray.config import StudyConfig
from afp_ray.execution.ray_executor import RayExecutor
from afp_ray.records import Failure, FailureClass, LedgerEvent, StudyState, TrialResult, TrialStatus
from afp_ray.store import StudyPaths

SUPPORT = Path(__file__).parent.parent / "support"
pytestmark = [pytest.mark.ray]


def lone(**runtime: Any) -> StudyConfig:
    """A study of one trial."""
    return make_study(tune={}, compare={"method": ["afp"]}, seeds=[1], runtime=runtime)


def on_ray(study: StudyConfig, storage: Path, run_trial: str = "fake_trials:run") -> StudyState:
    return run(study, storage, RayExecutor(study.runtime), run_trial=run_trial)


def failures(storage: Path) -> list[Failure]:
    """Of every attempt, in order."""
    lines = (storage / "fake" / "ledger.jsonl").read_text().splitlines()
    events = [LedgerEvent.model_validate_json(line) for line in lines]
    return [event.failure for event in events if event.failure is not None]


def wait_for(storage: Path, pattern: str, *, number: int = 1) -> list[Path]:
    """The files of the trials that match, once there are so many that say something."""
    until = time.monotonic() + 120
    while len(found := _written(storage, pattern)) < number:
        assert time.monotonic() < until, f"no {pattern}"
        time.sleep(0.02)
    return found


def _written(storage: Path, pattern: str) -> list[Path]:
    """A file is there before its first line is."""
    return [path for path in sorted((storage / "fake" / "trials").glob(f"*/{pattern}")) if path.stat().st_size > 0]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_killed_in_mid_step_is_tried_again(tmp_path: Path, oracle: Oracle) -> None:  # row 5
    study = lone()

    def kill() -> None:
        (place,) = lines_of(wait_for(tmp_path, "places.jsonl")[0])
        os.kill(place["pid"], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    on_ray(study, tmp_path, "ray_trials:goes_on_once")
    oracle(study, tmp_path, max_repeated=1)
    (failure,) = failures(tmp_path)
    assert failure.failure_class is FailureClass.INFRA


@pytest.mark.usefixtures("ray_cluster")
def test_a_hung_worker_is_ended_and_the_trial_tried_again(tmp_path: Path, oracle: Oracle) -> None:  # row 6
    study = lone(hang_s=2)
    on_ray(study, tmp_path, "ray_trials:hangs_once")
    state = oracle(study, tmp_path, max_repeated=1)
    (failure,) = failures(tmp_path)
    assert failure.failure_class is FailureClass.INFRA
    assert failure.message.startswith("no progress for ")
    first, second = lines_of(StudyPaths(tmp_path, "fake").trial(state.trials[0].trial_id).training_calls)
    assert first["pid"] != second["pid"]
    wait_until_gone([first["pid"]])


@pytest.mark.usefixtures("ray_cluster")
def test_a_trial_that_always_hangs_is_given_up(tmp_path: Path) -> None:
    study = lone(hang_s=1, max_retries=1)
    state = on_ray(study, tmp_path, "ray_trials:hangs")
    (trial,) = state.trials
    assert (trial.status, trial.attempt) == (TrialStatus.FAILED, 2)
    assert state.closed == "complete"


@pytest.mark.usefixtures("ray_cluster")
def test_a_zombie_writes_nothing_into_the_trial(tmp_path: Path, oracle: Oracle) -> None:  # row 7
    study = lone()
    on_ray(study, tmp_path, "ray_trials:returns_late")
    (zombie,) = wait_for(tmp_path, "zombie.txt")
    assert zombie.read_text().startswith("SupersededError: attempt 1 of ")
    state = oracle(study, tmp_path, max_repeated=1)
    result = StudyPaths(tmp_path, "fake").trial(state.trials[0].trial_id).result
    assert TrialResult.model_validate_json(result.read_bytes()).status == "DONE"


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("kind", ["ray_memory_once", "cuda_memory_once"])
def test_out_of_memory_is_tried_once_with_half_the_batch(tmp_path: Path, oracle: Oracle, kind: str) -> None:  # 8, 9
    study = lone()
    on_ray(study, tmp_path, f"ray_trials:{kind}")
    oracle(study, tmp_path, max_repeated=1)
    (failure,) = failures(tmp_path)
    assert failure.failure_class is FailureClass.OOM
    (file,) = wait_for(tmp_path, "micro_batch_size.txt")
    assert file.read_text() == "8", "half of the whole batch of 16"


@pytest.mark.usefixtures("ray_cluster")
def test_out_of_memory_twice_fails_the_trial_and_not_the_study(tmp_path: Path) -> None:  # rows 8, 9
    study = with_failures("oom")
    state = on_ray(study, tmp_path)
    assert state.closed == "complete"
    ended = {trial.config["training"]["learning_rate"]: trial for trial in state.trials}
    assert ended.pop(fake_trials.FAILS["oom"]).attempt == 2
    assert [trial.status for trial in ended.values()] == [TrialStatus.DONE]
    assert [failure.failure_class for failure in failures(tmp_path)] == [FailureClass.OOM] * 2


@pytest.mark.slow
def test_the_loss_of_the_head_node_is_no_loss_of_the_study(  # row 24
    tmp_path: Path, oracle: Oracle, ray_cluster: str
) -> None:
    mark = str(tmp_path)
    with driver(tmp_path, "goes_on_once", mark=mark, runtime={"executor": "ray"}) as process:
        wait_for(tmp_path, "places.jsonl")
        (head,) = children(process.pid, "gcs_server")
        os.kill(head, signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == os.EX_TEMPFAIL
    assert "UnavailableError: the head node of the Ray cluster has not answered" in output
    study = lone(executor="ray")
    on_ray(study, tmp_path, "ray_trials:goes_on_once")
    oracle(study, tmp_path, max_repeated=1, mark=mark)


@pytest.mark.slow
def test_a_full_object_store_and_disk_stop_no_study(tmp_path: Path, oracle: Oracle) -> None:  # row 27
    full = {"store_bytes": 80 * 2**20, "filled_bytes": 76 * 2**20}
    mark, environment = str(tmp_path), {"RAY_local_fs_capacity_threshold": "0.01"}
    with driver(tmp_path, "where", mark=mark, environment=environment, **full) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    oracle(lone(), tmp_path, max_repeated=0, mark=mark)


@contextmanager
def driver(
    storage: Path, run_trial: str, *, mark: str, environment: Mapping[str, str] = {}, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """A driver with a cluster of its own."""
    path = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, str(SUPPORT / "ray_driver.py"), str(storage), run_trial, json.dumps(options)],
        env={**kept, "PYTHONPATH": path, MARK: mark, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def children(pid: int, name: str) -> list[int]:
    """Descendants of a process whose command has `name` in it."""
    found = []
    for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if name in Path(f"/proc/{number}/comm").read_text():
            found.append(int(number))
        found += children(int(number), name)
    return found


def wait_until_gone(pids: list[int], within_s: float = 20.0) -> None:
    """Wait until no process of `pids` lives; a zombie of a parent that has not looked counts as gone."""
    until = time.monotonic() + within_s
    while left := [pid for pid in pids if _is_alive(pid)]:
        assert time.monotonic() < until, f"still there: {left}"
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False
