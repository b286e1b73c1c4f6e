"""Two processes that share the requests of an evaluation end with what one gives, and neither waits for the other."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scoring_worker_cases import QUESTIONS, score

from afp_ray.evaluation.trie import Request, common_prefix
from afp_ray.evaluation.workers import _parts

TESTS = Path(__file__).parent.parent

# What is imported takes longest by far, so the workers are forks of one process that has it.
CODE = """
import json, multiprocessing, sys
import torch.distributed as dist
from scoring_worker_cases import score
folder = sys.argv[1]

def work(rank):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {"whole": score(), "broken": score(is_broken=rank == 1)}
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
    """What each of two workers finds, first with sound weights, then with broken ones on the second."""
    folder = tmp_path_factory.mktemp("workers")
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", CODE, str(folder)]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_workers_find_what_one_finds_and_each_runs_about_half(workers: list[dict[str, dict[str, Any]]]) -> None:
    alone = score()
    first, second = (worker["whole"] for worker in workers)
    assert first["values"] == second["values"], "bit for bit, wherever a part was scored"
    assert len(alone["values"]) == len(QUESTIONS)
    for values, others in zip(first["values"], alone["values"], strict=True):
        assert values == pytest.approx(others, abs=1e-4)
    for found in (first, second):
        assert found["num_truncated"] == alone["num_truncated"] == 2
        assert 0.3 * alone["num_tokens"] < found["num_tokens"] < 0.7 * alone["num_tokens"]


def test_a_worker_that_fails_stops_the_others_too(workers: list[dict[str, dict[str, Any]]]) -> None:
    first, second = (worker["broken"] for worker in workers)
    assert "not finite" in second["error"]
    assert "1 of the workers could not score their part" in first["error"]


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_parts_hold_every_request_once_and_like_numbers_of_tokens(number: int) -> None:
    requests = [
        Request((*range(40), question, choice, *range(question % 5)), 41) for question in range(60) for choice in (1, 2)
    ]
    requests.sort(key=lambda request: request.ids)
    parts = _parts(requests, number)
    assert [index for first, last in parts for index in range(first, last)] == list(range(len(requests)))

    def new_tokens(first: int, last: int) -> int:
        own = requests[first:last]
        shared = (common_prefix(a.ids, b.ids) for a, b in pairwise(own))
        return len(own[0].ids) + sum(len(b.ids) - same for b, same in zip(own[1:], shared, strict=True)) - 40

    sizes = [new_tokens(*part) for part in parts]
    assert max(sizes) - min(sizes) <= 50, "the trunk is counted with the part that has it first"


def test_more_workers_than_requests_leave_some_without_work() -> None:
    parts = _parts([Request((1, 2), 1), Request((3, 4), 1)], 4)
    assert sorted(last - first for first, last in parts) == [0, 0, 1, 1]
    assert _parts([], 2) == [(0, 0), (0, 0)]
