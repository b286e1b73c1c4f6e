"""Exchange between the workers of one trial, exact in value and gradient; the identity where there is one worker.

Every worker backpropagates its own share of the global loss, the shares sum to the whole, so parameter gradients are
summed (never averaged) and nothing depends on the number of workers.

Shapes: b rows of this worker, B rows of all workers in rank order, D width.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_BUCKET_BYTES = 64 * 2**20


def world_size() -> int:
    """Number of workers; 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank of this worker; 0 outside a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Rows of all workers, through which gradients flow back to the worker that owns a row.

    Args:
        rows: (b, D); b may differ between workers.
    Returns: (B, D) in rank order, and the index of this worker's first row in it.
    Source: the published code keeps the gradient of local rows alone, which shrinks it by the number of workers.
    """
    if world_size() == 1:
        return rows, 0
    sizes = _sizes(len(rows), rows.device)
    gathered: Tensor = _GatherRows.apply(rows, sizes)  # type: ignore[no-untyped-call]
    return gathered, sum(sizes[: rank()])


def sum_over_workers(values: Tensor) -> Tensor:
    """Sum of `values` over the workers, without gradient; in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients of every parameter over the workers, in buckets.

    A parameter that has a gradient on some worker gets one on all, so that workers take equal steps.
    """
    if world_size() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        return
    present = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.int32)
    present = present.to(trained[0].device)
    dist.all_reduce(present, op=dist.ReduceOp.MAX)
    gradients = []
    for parameter, is_present in zip(trained, present.tolist(), strict=True):
        if is_present:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        for gradient, part in zip(bucket, torch.split(flat, [gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


class _GatherRows(torch.autograd.Function):
    """all_gather forward; backward sums over the workers and keeps this worker's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes = sizes
        longest = max(sizes)
        padded = rows.new_zeros((longest, *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        gradient = grad_outputs[0].contiguous().clone()
        dist.all_reduce(gradient)
        start = sum(ctx.sizes[: rank()])
        return gradient[start : start + ctx.sizes[rank()]], None


def _sizes(own: int, device: torch.device) -> list[int]:
    parts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size())]
    dist.all_gather(parts, torch.tensor([own], dtype=torch.int64, device=device))
    return [int(part) for part in parts]


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Runs of tensors of one dtype, each about `_BUCKET_BYTES` large."""
    buckets: list[list[Tensor]] = []
    size = 0
    for tensor in tensors:
        if not buckets or size + tensor.nbytes > _BUCKET_BYTES or buckets[-1][0].dtype != tensor.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += tensor.nbytes
    return buckets
