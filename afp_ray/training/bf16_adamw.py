"""AdamW on weights that live in bf16, with an update that is not lost to their eight bits of precision.

A bf16 weight keeps a step only where it is larger than about 1/512 of the weight; at a learning rate of 1e-5 nearly no
step is. Either the updated weight is rounded up or down at random, in proportion to its distance from the two, so that
it is right on average (stochastic), or the lower half of its float32 bits is kept beside it, so that the two together
are the float32 weight (compensated): what Kahan's sum keeps, without the rounding of its own that a bf16 rest has.

All parameters of the model are bf16, those of norms too: the families multiply norm weights and states of one dtype.
Norms and softmaxes compute in float32 inside, similarities and cross-entropies are float32, and so is the arithmetic of
the update. Both moments are bf16, rounded at random: to the nearest, the second would never move, since a step changes
it by a thousandth, and the first would stop short.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from afp_ray.training.bf16_update import Update, update_plainly

_CHUNK = {"cuda": 2**24}
_DEFAULT_CHUNK = 2**22
"""Elements that are float32 at a time, by device: what a GPU takes is large, since every small kernel waits for its
launch, and holds many small parameters."""
_FLOAT32_BUFFERS = ("inv_freq", "original_inv_freq")
"""Rotary frequencies, from which the families make float32 angles."""


@contextmanager
def resident(model: nn.Module) -> Iterator[None]:
    """Keep the weights of a model in bf16 until the end of the block; afterwards they are float32 of equal value.

    Args:
        model: float32; parameters stay the same objects, tied ones tied. Rotary frequencies stay float32.
    """
    _cast(model, torch.bfloat16)
    try:
        yield
    finally:
        _cast(model, torch.float32)


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    for parameter in model.parameters():
        parameter.grad = None
        parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and not name.endswith(_FLOAT32_BUFFERS):
                setattr(module, name, buffer.to(dtype))


class ResidentAdamW(torch.optim.Optimizer):
    """AdamW with decoupled decay on bf16 weights; whole, or shards of workers.

    Args:
        groups: `params`, and `draws` with a number for each of them, which makes its random bits its own.
        lr, betas, eps, weight_decay: as in torch.optim.AdamW.
        rounding: how the updated weight becomes bf16.
        seed: of stochastic rounding; equal seeds, steps and numbers give equal bits, so that runs repeat and resume.
        update: the form of the arithmetic.
        updated: which it is, in words.
    Source: arXiv:2010.06192.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rounding: Literal["stochastic", "compensated"] = "stochastic",
        seed: int = 0,
        update: Update = update_plainly,
        updated: str = "by plain operations",
    ) -> None:
        self.rounding, self.seed, self.updated, self._update = rounding, seed, updated, update
        super().__init__(list(groups), {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            pieces = [
                piece
                for parameter, draw in zip(group["params"], group["draws"], strict=True)
                if parameter.grad is not None
                for piece in self._pieces(parameter, draw)
            ]
            for batch in _batches(pieces):
                _update_pieces(batch, group, self._update)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; torch alone would make the lost bits bf16, as the weights are."""
        saved = {key: dict(values) for key, values in state_dict["state"].items()}
        super().load_state_dict(state_dict)
        for index, parameter in enumerate(value for group in self.param_groups for value in group["params"]):
            for name, value in saved.get(index, {}).items():
                self.state[parameter][name] = value.to(parameter.device) if isinstance(value, Tensor) else value

    def _pieces(self, parameter: nn.Parameter, draw: int) -> Iterator["_Piece"]:
        """The parameter in parts of at most a chunk, whose random bits depend on nothing beside it."""
        weight, gradient = _own(parameter).view(-1), _own(parameter.grad).reshape(-1)
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(weight)
            if self.rounding == "compensated":
                state["lost"] = torch.zeros_like(weight, dtype=torch.int16)
        state["step"] += 1
        random = torch.Generator(weight.device).manual_seed(_number(self.seed, state["step"], draw))
        size = _chunk_of(weight)
        for start in range(0, len(weight), size):
            part = slice(start, start + size)
            views = {name: value[part] for name, value in state.items() if name != "step"}
            yield _Piece(weight[part], gradient[part], views, state["step"], random)


@dataclass(frozen=True, slots=True)
class _Piece:
    """(n,) views of a part of a parameter.

    Attributes:
        weight, gradient: bf16.
        state: moments, and with compensated rounding the lost bits.
        step: of the parameter, from 1.
        random: of the parameter; its parts draw from it in their order.
    """

    weight: Tensor
    gradient: Tensor
    state: dict[str, Tensor]
    step: int
    random: torch.Generator

    def bits(self) -> Tensor:
        """(n,) uniform int32."""
        bits = torch.empty(self.weight.shape, dtype=torch.int32, device=self.weight.device)
        return bits.random_(-(2**31), 2**31, generator=self.random)


def _chunk_of(weight: Tensor) -> int:
    return _CHUNK.get(weight.device.type, _DEFAULT_CHUNK)


def _batches(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces that are updated together, in their order: of one step and at most a chunk; each alone on a CPU."""
    batch: list[_Piece] = []
    num_elements = 0
    for piece in pieces:
        joins = piece.weight.device.type in _CHUNK and batch and batch[0].step == piece.step
        if batch and not (joins and num_elements + len(piece.weight) <= _chunk_of(piece.weight)):
            yield batch
            batch, num_elements = [], 0
        batch.append(piece)
        num_elements += len(piece.weight)
    if batch:
        yield batch


def _update_pieces(pieces: Sequence[_Piece], group: dict[str, Any], update: Update) -> None:
    """One AdamW step of pieces, stored in place."""
    first = pieces[0]
    if len(pieces) == 1:
        update(first.weight, first.gradient, first.state, first.bits(), group, first.step)
        return
    weight, gradient, bits = (
        torch.cat(parts)
        for parts in zip(*((piece.weight, piece.gradient, piece.bits()) for piece in pieces), strict=True)
    )
    state = {name: torch.cat([piece.state[name] for piece in pieces]) for name in first.state}
    update(weight, gradient, state, bits, group, first.step)
    lengths = [len(piece.weight) for piece in pieces]
    torch._foreach_copy_([piece.weight for piece in pieces], list(torch.split(weight, lengths)))
    for name, values in state.items():
        torch._foreach_copy_([piece.state[name] for piece in pieces], list(torch.split(values, lengths)))


def _own(tensor: Tensor | None) -> Tensor:
    """Shard of this worker; of an ordinary tensor the tensor itself. Its memory is shared."""
    assert tensor is not None
    own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return own.detach()


def _number(*parts: int) -> int:
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "little")
