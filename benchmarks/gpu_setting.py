"""What the figures of a GPU share: its model, its size, and the state of the card between two of them."""

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import workload


@dataclass(frozen=True)
class Setting:
    """What all figures share.

    Attributes:
        device: the first GPU, or in a toy size whatever there is.
        shape: of the model.
        length: tokens of a block.
        rounds, steps: timed rounds, and steps of each.
        form: how our steps run, as `runtime.step` names it.
    """

    device: torch.device
    shape: dict[str, int]
    length: int
    rounds: int
    steps: int
    form: str

    @property
    def is_tiny(self) -> bool:
        """Whether the size is a toy's."""
        return self.shape is workload.TINY

    def model(self, *, dropout: float = 0.0, **sizes: int) -> Any:
        """A model of the shape, with these sizes in place of its own."""
        return workload.build_model({**self.shape, **sizes}, dropout=dropout, device=str(self.device))


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
