"""Weights that two workers share out are trained as if each had all of them, and are whole again afterwards."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from shard_cases import CASES
from tiny_models import build_model
from training_cases import relative_error

SUPPORT = Path(__file__).parent.parent / "support"
EXACT = [name for name in CASES if name not in ("bf16", "resident", "gathered in bf16")]
CODE = """
import sys, warnings, torch, torch.distributed as dist
warnings.simplefilter("error")
rank, rendezvous, output = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
from shard_cases import compute
torch.save(compute(rank), output)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two workers ended with."""
    folder = tmp_path_factory.mktemp("shares")
    paths = os.pathsep.join([str(SUPPORT.parents[1]), str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = []
    for rank in range(2):
        command = [sys.executable, "-c", CODE, str(rank), str(folder / "rendezvous"), str(folder / f"{rank}.pt")]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", EXACT)
def test_losses_gradients_and_weights_are_those_without_sharding(runs: list[dict[str, Any]], name: str) -> None:
    for run in runs:
        whole, shares = run[name]["whole"], run[name]["shares"]
        assert shares["losses"] == pytest.approx(whole["losses"], rel=1e-6)
        assert shares["norms"] == pytest.approx(whole["norms"], rel=1e-6)
        assert relative_error(shares["gradients"], whole["gradients"]) <= 1e-6
        # Adam divides by the root of the square: a gradient of rounding noise moves a bias of GPT-2's keys.
        bound = 1e-4 if name == "gpt2" else 1e-6
        assert relative_error(shares["weights"], whole["weights"]) <= bound
        torch.testing.assert_close(shares["logits"], whole["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["bf16", "resident"])
def test_narrow_precisions_agree_as_far_as_they_reach(runs: list[dict[str, Any]], name: str) -> None:
    whole, shares = runs[0][name]["whole"], runs[0][name]["shares"]
    assert shares["losses"] == pytest.approx(whole["losses"], rel=2**-8)
    assert relative_error(shares["gradients"], whole["gradients"]) <= 2**-7
    assert {value.dtype for value in shares["weights"].values()} == {torch.float32}


def test_weights_may_be_gathered_in_bf16(runs: list[dict[str, Any]]) -> None:
    whole, shares = runs[0]["gathered in bf16"]["whole"], runs[0]["gathered in bf16"]["shares"]
    error = relative_error(shares["gradients"], whole["gradients"])
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize("name", CASES)
def test_workers_end_with_the_same_weights(runs: list[dict[str, Any]], name: str) -> None:
    first, second = (run[name]["shares"] for run in runs)
    assert all(torch.equal(second["weights"][key], value) for key, value in first["weights"].items())
    assert torch.equal(first["logits"], second["logits"])


def test_each_worker_holds_its_share(runs: list[dict[str, Any]]) -> None:
    total = sum(value.numel() for value in build_model("llama").parameters())
    held = [run["both"]["shares"]["held"] for run in runs]
    assert runs[0]["both"]["whole"]["held"] == total
    assert held == [total // 2, total // 2]


@pytest.mark.parametrize("place", ["pairs", "instructions"])
def test_workers_halve_together_when_memory_runs_out_on_one(runs: list[dict[str, Any]], place: str) -> None:
    for run in runs:
        assert run["memory"][place]["sizes"] == [1, 1]
        assert run["memory"]["nowhere"]["sizes"] == [1, 0]
        expected = run["memory"]["nowhere"]["weights"]
        assert all(torch.equal(run["memory"][place]["weights"][name], value) for name, value in expected.items())
