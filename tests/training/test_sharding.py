"""Weights that two workers share out are trained as if each had all of them, and are whole again afterwards."""

import warnings
from typing import Any

import pytest
import torch
from gloo_workers import run_workers
from shard_cases import CASES, compute
from tiny_models import build_model
from training_cases import relative_error

EXACT = [name for name in CASES if name not in ("bf16", "resident", "gathered in bf16")]


def in_group(rank: int) -> dict[str, Any]:
    """What a worker of two computes, to which a warning is an error."""
    warnings.simplefilter("error")
    return compute(rank)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two workers ended with."""
    return run_workers(in_group, tmp_path_factory.mktemp("shares"))


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
