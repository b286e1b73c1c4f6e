"""The number of workers changes neither the loss nor the gradient nor the weights: 2 and 4 processes against one."""

from typing import Any

import pytest
import torch
from gloo_workers import run_workers
from training_cases import relative_error
from worker_cases import BATCH_SIZE, CASES, CONTRASTIVE_CASES, NUM_QUEUE_STEPS, compute, contrastive
from worker_cases import pairs_with_duplicates as pairs_of

from afp_ray.config.loss import LossConfig
from afp_ray.training.gather import gather_rows, sum_over_workers, world_size

Runs = list[dict[str, Any]]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one worker without a process group ends with."""
    return compute(0, 1)


@pytest.fixture(scope="module", params=[2, 4])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """What each of several workers ends with."""
    return run_workers(compute, tmp_path_factory.mktemp("workers"), request.param, number=request.param)


@pytest.mark.parametrize("case", [*CASES, *CONTRASTIVE_CASES])
def test_the_summed_gradient_is_that_of_one_worker(runs: Runs, alone: dict[str, Any], case: str) -> None:
    for run in runs:
        assert relative_error(run[f"{case}.gradients"], alone[f"{case}.gradients"]) <= 1e-6


@pytest.mark.parametrize("case", CONTRASTIVE_CASES)
def test_the_summed_loss_is_that_of_one_worker(runs: Runs, alone: dict[str, Any], case: str) -> None:
    for run in runs:
        assert run[f"{case}.loss"] == pytest.approx(alone[f"{case}.loss"], rel=1e-6)


def test_negatives_of_the_batch_are_those_of_each_worker(runs: Runs) -> None:
    loss = LossConfig(negatives="global")
    parts = [contrastive(loss, pairs_of(rank, len(runs)), None) for rank in range(len(runs))]
    gradients = {name: sum(part[1][name] for part in parts) / len(runs) for name in parts[0][1]}
    for run in runs:
        value, found = run["batch"]
        assert value == pytest.approx(sum(part[0] for part in parts) / len(runs), rel=1e-6)
        assert relative_error(found, gradients) <= 1e-6


def test_a_queue_gives_equal_losses_and_gradients_over_several_steps(runs: Runs, alone: dict[str, Any]) -> None:
    assert len(alone["queue"]["losses"]) == NUM_QUEUE_STEPS
    assert alone["queue"]["state"]["queue/rings/0"].shape[0] == 20 < NUM_QUEUE_STEPS * BATCH_SIZE
    for run in runs:
        assert run["queue"]["losses"] == pytest.approx(alone["queue"]["losses"], rel=1e-6)
        assert relative_error(run["queue"]["gradients"], alone["queue"]["gradients"]) <= 1e-6
        for name, value in alone["queue"]["state"].items():
            torch.testing.assert_close(run["queue"]["state"][name], value, rtol=1e-6, atol=1e-6)


def test_queues_and_slow_copies_of_workers_are_equal_bit_for_bit(runs: Runs) -> None:
    for run in runs[1:]:
        assert run["queue"]["state"].keys() == runs[0]["queue"]["state"].keys()
        for name, value in runs[0]["queue"]["state"].items():
            assert torch.equal(run["queue"]["state"][name], value)


def test_a_worker_short_of_memory_stops_all_and_the_step_is_that_of_smaller_chunks(
    runs: Runs, alone: dict[str, Any]
) -> None:
    value, expected = contrastive(LossConfig(symmetric=True), pairs_of(0, 1), None)
    for run in (*runs, alone):
        found, gradients, chunk_size = run["short"]
        assert chunk_size == 1
        assert found == pytest.approx(value, rel=1e-6)
        assert relative_error(gradients, expected) <= 1e-6


def test_the_cosine_of_the_two_terms_is_that_of_one_worker(runs: Runs, alone: dict[str, Any]) -> None:
    for run in runs:
        assert run["both.cosine"] == pytest.approx(alone["both.cosine"], abs=1e-5)
        assert run["both.cosine"] == runs[0]["both.cosine"]
        assert run["instructions.cosine"] is None


def test_training_gives_equal_losses_and_weights(runs: Runs, alone: dict[str, Any]) -> None:
    for run in runs:
        assert run["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        for key, value in alone["weights"].items():
            torch.testing.assert_close(run["weights"][key], value, rtol=1e-4, atol=1e-5)
        assert run["tokens"] == alone["tokens"]


def test_workers_end_with_the_same_weights(runs: Runs) -> None:
    for run in runs[1:]:
        for key, value in runs[0]["weights"].items():
            assert torch.equal(run["weights"][key], value)


def test_rows_of_uneven_workers_are_gathered_with_their_gradients(runs: Runs) -> None:
    rows = [float(rank + 1) for rank in range(len(runs)) for _ in range(rank + 1)]
    of_all = len(runs) * (len(runs) + 1) / 2  # sum of the workers' factors
    for rank, run in enumerate(runs):
        gathered, gradient = run["uneven"]
        assert gathered.tolist() == [[row] * 2 for row in rows]
        first = rank * (rank + 1) // 2
        assert gradient.tolist() == [[of_all * (first + row + 1)] * 2 for row in range(rank + 1)]


def test_without_a_process_group_everything_is_the_identity() -> None:
    rows = torch.ones(2, 3)
    assert world_size() == 1
    gathered, first = gather_rows(rows)
    assert gathered is rows
    assert first == 0
    assert sum_over_workers(rows) is rows
