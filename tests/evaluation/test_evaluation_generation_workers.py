"""Two processes that share the prompts of an evaluation end with what one writes, and neither waits for the other."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from generation_worker_cases import PROMPTS, write

TESTS = Path(__file__).parent.parent

# What is imported takes longest by far, so the workers are forks of one process that has it.
CODE = """
import json, multiprocessing, sys
import torch.distributed as dist
from generation_worker_cases import write
folder = sys.argv[1]

def work(rank):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {"whole": write(), "broken": write(is_broken=rank == 1)}
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(found, file)
    dist.destroy_process_group()

workers = [multiprocessing.get_context("fork").Process(target=work, args=(rank,)) for rank in range(2)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
sys.exit(any(worker.exitcode for worker in workers))
"""


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """What each of two workers writes, first with sound weights, then with broken ones on the second."""
    folder = tmp_path_factory.mktemp("workers")
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", CODE, str(folder)]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_workers_write_what_one_writes_and_each_runs_about_half(workers: list[dict[str, dict[str, Any]]]) -> None:
    alone = write()
    first, second = (worker["whole"] for worker in workers)
    assert first["texts"] == second["texts"] == alone["texts"]
    assert len(set(alone["texts"])) > 5
    assert first["counts"] == second["counts"] == alone["counts"]
    assert alone["counts"][0] == 1
    assert first["asked"] + second["asked"] == alone["asked"] == len(PROMPTS)
    assert abs(first["asked"] - second["asked"]) <= 2


def test_a_worker_that_fails_stops_the_others_too(workers: list[dict[str, dict[str, Any]]]) -> None:
    first, second = (worker["broken"] for worker in workers)
    assert "not finite" in second["error"]
    assert "1 of the workers could not write their part" in first["error"]
