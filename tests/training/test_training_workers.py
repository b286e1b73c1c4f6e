"""The number of workers changes neither the loss nor the gradient nor the weights."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_cases import relative_error
from worker_cases import compute

from afp_ray.training.gather import gather_rows, sum_over_workers, world_size

TESTS = Path(__file__).parent.parent


CODE = """
import sys, torch, torch.distributed as dist
rank, rendezvous, output = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
from worker_cases import compute
torch.save(compute(rank, 2), output)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one worker alone, and each of two, ended with."""
    folder = tmp_path_factory.mktemp("workers")
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = []
    for rank in range(2):
        command = [sys.executable, "-c", CODE, str(rank), str(folder / "rendezvous"), str(folder / f"{rank}.pt")]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    found = {"alone": compute(0, 1)}
    for rank, process in enumerate(processes):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        found[("first", "second")[rank]] = torch.load(folder / f"{rank}.pt", weights_only=True)
    return found


@pytest.mark.parametrize("case", ["both", "symmetric", "instructions"])
def test_the_summed_gradient_is_that_of_one_worker(runs: dict[str, Any], case: str) -> None:
    alone = runs["alone"][f"{case}.gradients"]
    for name in ("first", "second"):
        assert relative_error(runs[name][f"{case}.gradients"], alone) <= 1e-6


def test_the_cosine_of_the_two_terms_is_that_of_one_worker(runs: dict[str, Any]) -> None:
    assert runs["first"]["both.cosine"] == pytest.approx(runs["alone"]["both.cosine"], abs=1e-5)
    assert runs["first"]["both.cosine"] == runs["second"]["both.cosine"]
    assert runs["first"]["instructions.cosine"] is None


def test_training_gives_equal_losses_and_weights(runs: dict[str, Any]) -> None:
    for name in ("first", "second"):
        assert runs[name]["losses"] == pytest.approx(runs["alone"]["losses"], rel=1e-5)
        for key, value in runs["alone"]["weights"].items():
            torch.testing.assert_close(runs[name]["weights"][key], value, rtol=1e-4, atol=1e-5)
        assert runs[name]["tokens"] == runs["alone"]["tokens"]


def test_workers_end_with_the_same_weights(runs: dict[str, Any]) -> None:
    for key, value in runs["first"]["weights"].items():
        assert torch.equal(runs["second"]["weights"][key], value)


def test_rows_of_uneven_workers_are_gathered_with_their_gradients(runs: dict[str, Any]) -> None:
    for name, expected in (("first", [[11.0] * 2]), ("second", [[12.0] * 2, [13.0] * 2])):
        gathered, gradient = runs[name]["uneven"]
        assert gathered.tolist() == [[1.0] * 2, [2.0] * 2, [2.0] * 2]
        assert gradient.tolist() == expected


def test_without_a_process_group_everything_is_the_identity() -> None:
    rows = torch.ones(2, 3)
    assert world_size() == 1
    gathered, first = gather_rows(rows)
    assert gathered is rows
    assert first == 0
    assert sum_over_workers(rows) is rows
