"""A driver whose own cluster breaks: its head node is killed, or its object store and the disk are full."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from executor_suite import make_study
from fault_driver import MARK, SUPPORT
from oracle import Oracle, run_here

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STUDY = make_study(tune={}, compare={"method": ["afp"]}, seeds=[1])


def wait_until_placed(storage: Path) -> None:
    """Wait until a trial has written down where it runs."""
    until = time.monotonic() + 120
    while not any(path.stat().st_size for path in storage.glob("fake/trials/*/places.jsonl")):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_the_loss_of_the_head_node_is_no_loss_of_the_study(tmp_path: Path, oracle: Oracle) -> None:
    mark = str(tmp_path)
    with driver(tmp_path, "goes_on_once", mark=mark, runtime={}) as process:
        wait_until_placed(tmp_path)
        (head,) = children(process.pid, "gcs_server")
        os.kill(head, signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == os.EX_TEMPFAIL
    assert "UnavailableError: the head node of the Ray cluster has not answered" in output
    run_here(STUDY, tmp_path)
    oracle(STUDY, tmp_path, max_repeated=1, mark=mark)


def test_a_full_object_store_and_disk_stop_no_study(tmp_path: Path, oracle: Oracle) -> None:
    full = {"store_bytes": 80 * 2**20, "filled_bytes": 76 * 2**20}
    mark, environment = str(tmp_path), {"RAY_local_fs_capacity_threshold": "0.01"}
    with driver(tmp_path, "where", mark=mark, environment=environment, **full) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    oracle(STUDY, tmp_path, max_repeated=0, mark=mark)


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
