"""Forward passes small enough for the memory there is: halved when it runs out, and the same step tried again.

A step is a function of the sizes: it seeds its random draws, clears the gradients, makes its batch and runs the passes.
So a second attempt at half the size ends as if that size had been asked for from the start.

In a process group all workers go down together. Each says whether its memory ran out, before the first exchange of an
attempt and once more at its end, so that none waits for rows that will not come:

    worker 0   passes ............ agree: sum of 0 + 1 -> another is short     free, halve, try again
    worker 1   out of memory ----> enters the same sum with 1                  free, halve, try again

So every worker enters equally many sums in an attempt that fails. With sharded weights every block is an exchange, and
`can_retry` says no. Memory that runs out between two exchanges of a step that is not sharded cannot be mended either:
the worker enters the sum while the others wait in another exchange, and `can_retry` does not know of it.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from afp_ray.training.gather import sum_over_workers, world_size

T = TypeVar("T")
_MESSAGES = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "cublas_status_alloc_failed",
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What one worker computes at a time.

    Attributes:
        micro_batch_size: instructions of one forward pass, >= 1.
        pair_chunk_size: pairs of one forward pass, >= 1.
        num_halvings: how often memory ran out.
    """

    micro_batch_size: int
    pair_chunk_size: int
    num_halvings: int = 0

    @property
    def is_smallest(self) -> bool:
        """Whether nothing is left to halve."""
        return self.micro_batch_size == 1 and self.pair_chunk_size == 1

    def halved(self) -> "Sizes":
        """Half of each, rounded up."""
        return Sizes(-(-self.micro_batch_size // 2), -(-self.pair_chunk_size // 2), self.num_halvings + 1)


class ElsewhereOutOfMemoryError(MemoryError):
    """The memory of another worker ran out; this one stops to try the step again with it."""


def fit_sizes(
    attempt: Callable[[Sizes], T],
    sizes: Sizes,
    *,
    model: nn.Module,
    device: torch.device,
    can_retry: Callable[[], bool] = lambda: True,
) -> tuple[T, Sizes]:
    """Run one step, at half the sizes again and again until it fits; all workers call this alike.

    Args:
        attempt: everything of a step up to its gradients, a function of the sizes alone.
        sizes: equal on all workers, first from the configuration, then what the step before returned. They never grow
            again, since a long batch would run out of memory each time it comes.
        model: its gradients are freed before another attempt.
        device: where memory is freed.
        can_retry: asked when memory ran out; false once weights are updated, or where workers exchange weights.
    Returns: what `attempt` returned, and the sizes at which it did.
    Raises: whatever `attempt` raises; of memory when the sizes are 1 already or `can_retry` says no.
    """
    while True:
        try:
            result = attempt(sizes)
            agree(device)
            return result, sizes
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not can_retry():
                raise
            if not isinstance(error, ElsewhereOutOfMemoryError):
                # The others wait in `agree` for this worker's part of the sum; who was told by it has given its own.
                _is_any_short(True, device)
            if sizes.is_smallest:
                raise
        # Out of the handler, whose traceback holds the tensors that are to be freed.
        free_memory(model, device)
        sizes = sizes.halved()


def agree(device: torch.device) -> None:
    """Make sure that every worker has come here with its memory whole; called before the first exchange of a step.

    Raises: ElsewhereOutOfMemoryError on the workers whose memory is whole where that of another is not.
    """
    if _is_any_short(False, device):
        raise ElsewhereOutOfMemoryError("out of memory on another worker")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of a GPU or of the machine, ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(message in text for message in _MESSAGES)


def free_memory(model: nn.Module, device: torch.device) -> None:
    """Free the gradients of a model and what the allocator keeps for later."""
    model.zero_grad(set_to_none=True)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _is_any_short(is_short: bool, device: torch.device) -> bool:
    if world_size() == 1:
        return is_short
    return bool(sum_over_workers(torch.tensor(int(is_short), device=device)))
