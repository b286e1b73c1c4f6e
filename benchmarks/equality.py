"""Whether two computations of a training step gave the same: losses, gradients, and marks of gradients to compare."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

LOSS_LIMIT = 1e-5
GRADIENT_LIMIT = 1e-6
"""Relative, in float32 without dropout."""
_HEAD = "lm_head.weight"


def loss_error(ours: Sequence[Tensor | None], theirs: Sequence[Tensor]) -> float:
    """Largest relative difference of two lists of losses; infinite where one of ours is missing."""
    return max(
        float("inf") if own is None else abs(float(own) - float(other)) / abs(float(other))
        for own, other in zip(ours, theirs, strict=True)
    )


def gradients(model: Any) -> dict[str, Tensor]:
    """Gradients by parameter; that of a head which is a copy of the embedding is added to the embedding's."""
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    of_head = found.pop(_HEAD, None)
    if of_head is not None:
        name = next(name for name, value in model.named_parameters() if value is model.get_input_embeddings().weight)
        found[name] = found[name] + of_head if name in found else of_head
    return found


def gradient_error(ours: Any, theirs: Any) -> float:
    """Norm of the difference of all gradients of two models over the norm of those of the second."""
    expected = gradients(theirs)
    difference = total = 0.0
    found = gradients(ours)
    for name in found.keys() | expected.keys():
        own, other = found.get(name), expected.get(name)
        whole = own if other is None else other if own is None else own - other
        assert whole is not None
        difference += float(whole.double().square().sum())
        total += float(other.double().square().sum()) if other is not None else 0.0
    return math.sqrt(difference / total)


def are_equal(ours: Any, theirs: Any, *, losses: tuple[Sequence[Tensor | None], Sequence[Tensor]]) -> bool:
    """Losses within 1e-5 and gradients within 1e-6, relative.

    Args:
        ours, theirs: models with the gradients of one batch.
        losses: of both, in the same order.
    """
    return loss_error(*losses) <= LOSS_LIMIT and gradient_error(ours, theirs) <= GRADIENT_LIMIT


def marks(model: Any, losses: Sequence[Tensor | None]) -> list[float]:
    """Losses, then the norm of the gradient of every parameter by name: what a process hands to another to compare."""
    norms = [float(torch.linalg.vector_norm(value)) for _, value in sorted(gradients(model).items())]
    return [*(float(value) for value in losses if value is not None), *norms]


def are_marks_equal(ours: Sequence[float], theirs: Sequence[float], *, num_losses: int) -> bool:
    """The same limits on marks; norms are compared with the norm of the whole gradient."""
    if len(ours) != len(theirs):
        return False
    scale = sum(value**2 for value in theirs[num_losses:]) ** 0.5

    def errors() -> Iterator[bool]:
        for place, (own, other) in enumerate(zip(ours, theirs, strict=True)):
            limit = LOSS_LIMIT * abs(other) if place < num_losses else GRADIENT_LIMIT * scale
            yield abs(own - other) <= limit

    return all(errors())
