"""Negatives from earlier batches: a queue of embeddings, and the slow copy of the lower layers that makes them.

Shapes: K rows that the queue holds at most, B pairs of a step over all workers, D width.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from afp_ray.models.hidden_states import CausalModel, decoder_blocks, decoder_of


class NegativeQueue:
    """The last rows that were pushed, as a ring; it takes 4 K D bytes for each layer and side.

    Args:
        size: K, >= 1.
    """

    def __init__(self, size: int) -> None:
        self._size, self._num_pushed = size, 0
        self._rings: list[Tensor] = []  # the keys, then the columns; made at the first push, which tells their widths

    def __len__(self) -> int:
        return min(self._size, self._num_pushed)

    @property
    def keys(self) -> Tensor:
        """(rows, 2) int64 keys of the source and of the target of each row."""
        return self._rings[0][: len(self)]

    @property
    def rows(self) -> list[Tensor]:
        """(rows, D) float32 for each column that is pushed."""
        return [ring[: len(self)] for ring in self._rings[1:]]

    def push(self, columns: Sequence[Tensor], keys: Tensor) -> None:
        """Add B rows; the oldest ones give way where the queue is full.

        Args:
            columns: (B, D) each, in the same order every time.
            keys: (B, 2) int64.
        """
        pushed = [keys, *columns]
        if not self._rings:
            self._rings = [part.new_zeros(self._size, part.shape[1]) for part in pushed]
        num_new, end = min(len(keys), self._size), self._num_pushed + len(keys)
        slots = torch.arange(end - num_new, end, device=keys.device) % self._size
        for ring, part in zip(self._rings, pushed, strict=True):
            ring[slots] = part[-num_new:]
        self._num_pushed += len(keys)

    def state_dict(self) -> dict[str, Any]:
        """The rows that are held, and how many there have been."""
        return {"num_pushed": self._num_pushed, "rings": [ring[: len(self)] for ring in self._rings]}

    def load_state_dict(self, state: Mapping[str, Any], *, device: torch.device) -> None:
        """Take over what `state_dict` gave, onto `device`."""
        self._num_pushed = state["num_pushed"]
        self._rings = []
        for held in state["rings"]:
            ring = torch.zeros(self._size, held.shape[1], dtype=held.dtype, device=device)
            ring[: len(held)] = held
            self._rings.append(ring)


class SlowCopy:
    """A model whose embeddings and lower blocks are a moving average of those of another; all else is the other's own.

    Weights that are not trained are shared as well. The copy has no dropout and no gradient; it is float32 where the
    model is narrower, since an average that moves by a thousandth would stand still in bf16.

    Args:
        model: starts equal to it.
        layer: so many blocks are copied; what is above must not be run.
        momentum: share of the copy that stays at each update, in [0, 1).
    Attributes:
        model: the copy, to be run up to `layer`.
    Source: MoCo, arXiv:1911.05722; XlCo, arXiv:2007.07834.
    """

    def __init__(self, model: CausalModel, *, layer: int, momentum: float) -> None:
        self._momentum = momentum
        upper = {id(value) for block in decoder_blocks(model)[layer:] for value in block.parameters()}
        lower = {id(value) for value in decoder_of(model).parameters()} - upper
        copied = {
            name: value
            for name, value in model.named_parameters()
            if id(value) in lower and (value.requires_grad or _is_narrow(value))
        }
        own = {id(value) for value in copied.values()}
        shared: dict[int, Any] = {id(value): value for value in model.parameters() if id(value) not in own}
        shared |= {id(value): value for value in model.buffers()}  # constants
        self.model: CausalModel = copy.deepcopy(model, shared).eval()
        parameters = dict(self.model.named_parameters())
        self._weights = {name: parameters[name] for name in copied}
        for weight in self._weights.values():
            weight.requires_grad_(False)
            weight.data = _widened(weight.data)
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, _widened(buffer))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the weights of `model`."""
        current = dict(model.named_parameters())
        for name, weight in self._weights.items():
            weight.lerp_(current[name].to(weight.dtype), 1 - self._momentum)

    def state_dict(self) -> dict[str, Tensor]:
        """Copied weights by name."""
        return {name: weight.data for name, weight in self._weights.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        for name, weight in self._weights.items():
            weight.data.copy_(state[name])


def _is_narrow(values: Tensor) -> bool:
    return values.is_floating_point() and values.dtype.itemsize < 4


def _widened(values: Tensor) -> Tensor:
    return values.float() if _is_narrow(values) else values
