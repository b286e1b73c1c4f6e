"""What several workers do on GPUs, as far as one card shows it: two that share it over gloo, one under NCCL and FSDP2.

NCCL refuses two workers on one card, so their exchange over NCCL is not among these tests.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_workers import run_workers
from shard_cases import ON_ANY_DEVICE, captured_on, compute_on
from training_cases import relative_error

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
Runs = list[dict[str, Any]]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one worker without a group ends with."""
    return compute_on(0, "cuda:0", 1, False)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """What each of two workers on one card ends with."""
    return run_workers(compute_on, tmp_path_factory.mktemp("two"), "cuda:0", 2, False, start="spawn")


@pytest.fixture(scope="module")
def one_of_nccl(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a group of one worker ends with, its weights whole and under FSDP2."""
    folder = tmp_path_factory.mktemp("one")
    (run,) = run_workers(compute_on, folder, "cuda:0", 1, True, number=1, backend="nccl", start="spawn")
    return run


@pytest.mark.parametrize("case", ON_ANY_DEVICE)
def test_two_workers_on_a_card_train_as_one_does(two: Runs, alone: dict[str, Any], case: str) -> None:
    for run in two:
        assert _differences(run[case]["whole"], alone[case]["whole"]) == []
    first, second = (run[case]["whole"]["weights"] for run in two)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("case", ON_ANY_DEVICE)
def test_weights_under_fsdp2_are_those_that_are_whole(
    one_of_nccl: dict[str, Any], alone: dict[str, Any], case: str
) -> None:
    assert _differences(one_of_nccl[case]["whole"], alone[case]["whole"]) == []
    assert _differences(one_of_nccl[case]["shares"], alone[case]["whole"]) == []


def test_captured_halves_exchange_their_gradients_between_them(tmp_path: Path) -> None:
    eager = captured_on(0, "cuda:0", 1, "eager")
    runs = run_workers(captured_on, tmp_path / "captured", "cuda:0", 2, "graph", start="spawn")
    for run in runs:
        assert (run["form"], run["notes"]) == ("graph", ())
        assert run["losses"] == pytest.approx(eager["losses"], rel=0.02)
    first, second = (run["weights"] for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert relative_error(first, eager["weights"]) <= 1e-2


def _differences(run: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What is not equal within the rounding of float32 sums in another order."""
    errors = {
        "losses": max(abs(a - b) / abs(b) for a, b in zip(run["losses"], expected["losses"], strict=True)),
        "norms": max(abs(a - b) / abs(b) for a, b in zip(run["norms"], expected["norms"], strict=True)),
        "gradients": relative_error(run["gradients"], expected["gradients"]),
        "weights": relative_error(run["weights"], expected["weights"]) / 10,  # Adam divides by small numbers
    }
    return [f"{name}: {error:.1e}" for name, error in errors.items() if not error <= 1e-5]
