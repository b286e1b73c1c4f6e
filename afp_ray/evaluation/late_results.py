"""Log-likelihoods that are fetched from the device some batches after they were asked for, so that it never idles."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from afp_ray.evaluation.trie import Request


@dataclass(frozen=True, slots=True)
class Result:
    """Log-likelihoods on their way.

    Attributes:
        requests: R of them.
        sums: (R,) nats in float64, on the host; of a GPU not there before `arrived`.
        arrived: what says that they are there; None for at once.
    """

    requests: Sequence[Request]
    sums: Tensor
    arrived: torch.cuda.Event | None = None


def fetch(requests: Sequence[Request], gains: Tensor, owners: Tensor) -> Result:
    """Sums of the gains of each request in float64, and their way to the host; waits for nothing on a GPU.

    Args:
        requests: R of them.
        gains: (K,) nats.
        owners: (K,) the request of each.
    """
    sums = torch.zeros(len(requests), dtype=torch.float64, device=gains.device)
    sums.index_add_(0, owners, gains.double())
    if gains.device.type != "cuda":
        return Result(requests, sums)
    held = torch.empty(len(requests), dtype=torch.float64, pin_memory=True).copy_(sums, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(gains.device))
    return Result(requests, held, arrived)


class LateResults:
    """Results, of which the last few are left on their way.

    Args:
        number: how many; 0 reads each as soon as it is there.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._coming: deque[Result] = deque()
        self._values: dict[Request, float] = {}

    def add(self, result: Result) -> None:
        """Take one more, and read those that should have arrived."""
        self._coming.append(result)
        while len(self._coming) > self._number:
            self._read()

    def all(self) -> dict[Request, float]:
        """Nats of every request."""
        while self._coming:
            self._read()
        return self._values

    def _read(self) -> None:
        result = self._coming.popleft()
        if result.arrived is not None:
            result.arrived.synchronize()
        self._values.update(zip(result.requests, result.sums.tolist(), strict=True))
