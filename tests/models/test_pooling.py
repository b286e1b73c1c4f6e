"""Pooling takes real tokens alone."""

import pytest
import torch

from afp_ray.models.pooling import pool, pool_samples

STATES = torch.tensor([[[-1.0, -8.0], [-3.0, -2.0], [9.0, 9.0]]])


@pytest.mark.parametrize(
    "mask, pooling, expected",
    [
        ([1, 1, 0], "last", [-3.0, -2.0]),
        ([1, 1, 0], "mean", [-2.0, -5.0]),
        ([1, 1, 0], "max", [-1.0, -2.0]),  # zero-filled padding would give 0
        ([0, 1, 1], "last", [9.0, 9.0]),
        ([0, 1, 1], "mean", [3.0, 3.5]),
        ([0, 1, 0], "last", [-3.0, -2.0]),
        ([0, 1, 0], "max", [-3.0, -2.0]),
    ],
)
def test_pooling_by_hand(mask: list[int], pooling: str, expected: list[float]) -> None:
    assert pool(STATES, torch.tensor([mask]), pooling).tolist() == [expected]  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_no_gradient_reaches_padding(pooling: str) -> None:
    states = STATES.clone().requires_grad_()
    pool(states, torch.tensor([[1, 1, 0]]), pooling).sum().backward()  # type: ignore[arg-type]
    assert states.grad is not None
    assert states.grad[0, 2].tolist() == [0, 0]
    assert states.grad[0, :2].abs().sum() > 0


def test_a_row_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="no real token"):
        pool(STATES, torch.zeros(1, 3, dtype=torch.long), "mean")


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ"):
        pool(STATES, torch.ones(1, 4, dtype=torch.long), "mean")


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_end_to_end_equals_pooling_of_rows(pooling: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows = torch.randn(4, 6, 3).to(dtype)
    mask = (torch.arange(6) < torch.tensor([[4], [1], [6], [2]])).long()
    of_rows, of_samples = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    expected = pool(of_rows.float(), mask, pooling)  # type: ignore[arg-type]
    found = pool_samples(of_samples[mask.bool()][None], mask.sum(dim=1), pooling)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    weights = torch.randn(4, 3)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(of_samples.grad, of_rows.grad)
