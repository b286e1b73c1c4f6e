"""What can break on a cluster while trials run on it: workers killed, hung or back from the dead, and memory.

A cluster that breaks itself has its tests in `test_own_cluster.py`, nodes that are taken away in
`execution/test_nodes.py`.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from executor_suite import make_study, run
from oracle import Oracle

from afp_ray.config import StudyConfig
from afp_ray.execution.ray_executor import RayExecutor
from afp_ray.records import Failure, FailureClass, LedgerEvent, StudyState, TrialResult
from afp_ray.store import StudyPaths

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_cluster")]


def lone(*, seeds: Sequence[int] = (1,), **runtime: Any) -> StudyConfig:
    """A study of one trial per seed."""
    return make_study(tune={}, compare={"method": ["afp"]}, seeds=list(seeds), runtime=runtime)


def on_ray(study: StudyConfig, storage: Path, run_trial: str) -> StudyState:
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


def test_a_zombie_writes_nothing_into_the_trial(tmp_path: Path, oracle: Oracle) -> None:  # row 7
    study = lone()
    on_ray(study, tmp_path, "ray_trials:returns_late")
    (zombie,) = wait_for(tmp_path, "zombie.txt")
    assert zombie.read_text().startswith("SupersededError: attempt 1 of ")
    state = oracle(study, tmp_path, max_repeated=1)
    result = StudyPaths(tmp_path, "fake").trial(state.trials[0].trial_id).result
    assert TrialResult.model_validate_json(result.read_bytes()).status == "DONE"


def test_out_of_memory_is_tried_once_with_half_the_batch(tmp_path: Path, oracle: Oracle) -> None:  # 8, 9
    study = lone(seeds=[1, 2])
    on_ray(study, tmp_path, "ray_trials:out_of_memory_once")
    oracle(study, tmp_path, max_repeated=2)
    assert [failure.failure_class for failure in failures(tmp_path)] == [FailureClass.OOM] * 2
    files = wait_for(tmp_path, "micro_batch_size.txt", number=2)
    assert [file.read_text() for file in files] == ["8", "8"], "half of the whole batch of 16"


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
