"""Copies of a model's matrices in bf16, from which its linear layers compute while the float32 weights are trained.

Autocast casts every matrix anew in each forward. Here it is cast once an optimizer step, into a copy that stays where
it is, and autocast, which finds bf16 already, casts nothing. Products, losses and gradients are the same bit for bit.

    parameters (float32)  --renew, once a step-->  copies (bf16)  --attribute of the layer-->  forward under autocast
    gradients (float32)   <------------added up, block by block-------------  gradients of the copies (bf16)

The parameters of the model stay its float32 weights: optimizer, clipping, exchange between workers, states and
checkpoints know nothing of the copies. What a layer finds under `self.weight` is its copy, since an attribute of the
instance hides the parameter of that name. Embeddings, the head, norms and adapters have none: states keep the dtype
that autocast gives them, and the loss adds up the gradient of the head in float32.

Each forward hangs the copies anew into the graph, one node for each block. So the gradients of a block are added to the
float32 ones in few kernels, once its backward pass is done, on the stream of that forward, as capture asks for. They
exist in bf16 for that long.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from afp_ray.models.hidden_states import CausalModel, decoder_blocks, decoder_of
from afp_ray.models.lengths import is_of_library
from afp_ray.models.packing import FAMILIES

_NAMES = ("weight", "bias")
"""What both kinds of linear layers multiply and add under autocast, in bf16."""


def refuses_copies(model: CausalModel) -> str | None:
    """Why the layers of this model cannot compute from copies; None where they can.

    Args:
        model: a causal LM.
    Returns: a reason in words.
    """
    family = model.config.get_text_config().model_type
    if family not in FAMILIES or not is_of_library(model):
        return f"bf16 copies are not known for {type(model).__name__}"
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        return "the weights are not float32"
    return None


class Bf16Copies:
    """The copies of one model's layers; they are in place until `close`.

    Make them once nothing more runs the model without autocast, and nothing copies it. Frozen weights have copies
    without a gradient.

    Args:
        model: float32, of a family that `refuses_copies` has nothing against.
    """

    def __init__(self, model: CausalModel) -> None:
        self._device = next(model.parameters()).device
        self._blocks = [_Block(block) for block in decoder_blocks(model)]
        self._handle = decoder_of(model).register_forward_pre_hook(self._attach)

    @property
    def nbytes(self) -> int:
        """Memory that the copies take: two bytes a weight."""
        return sum(copy.nbytes for block in self._blocks for copy in block.copies)

    def renew(self) -> None:
        """Cast the float32 weights again, to the addresses where the copies are; call it whenever they have changed."""
        for block in self._blocks:
            block.renew()

    def close(self) -> None:
        """Let the layers compute from the float32 weights again."""
        self._handle.remove()
        for block in self._blocks:
            block.give_back()

    def _attach(self, *ignored: Any) -> None:
        # Made anew: a leaf keeps the stream on which it was first used, and a captured forward runs on another.
        anchor = torch.empty((), device=self._device, requires_grad=True)
        for block in self._blocks:
            block.attach(anchor)


class _Block:
    """Weights of the linear layers of one decoder block, and their copies in the same order.

    Args:
        block: of the model.
    """

    def __init__(self, block: nn.Module) -> None:
        # Where some weights of a block are frozen, it is those that are taken: autocast casts the trained ones.
        is_trained = all(parameter.requires_grad for parameter in block.parameters())
        self._is_trained = is_trained
        self._layers: list[tuple[nn.Module, str, int]] = []  # whose attribute, its name, and the index of its copy
        indices: dict[int, int] = {}  # a weight of two layers has one copy
        self.weights: list[nn.Parameter] = []
        for layer in block.modules():
            for name in _NAMES if isinstance(layer, nn.Linear | Conv1D) else ():
                weight = layer._parameters[name]
                if weight is None or weight.requires_grad != is_trained:
                    continue
                if id(weight) not in indices:
                    indices[id(weight)] = len(self.weights)
                    self.weights.append(weight)
                self._layers.append((layer, name, indices[id(weight)]))
        self.copies = [weight.detach().to(torch.bfloat16) for weight in self.weights]

    def attach(self, anchor: Tensor) -> None:
        """Give each layer its copies; gradients go to the float32 weights, none to `anchor`, which asks for them."""
        attached: Sequence[Tensor] = self.copies
        if self._is_trained:
            attached = _Attached.apply(anchor, self)  # type: ignore[no-untyped-call]
        for layer, name, index in self._layers:
            layer.__dict__[name] = attached[index]  # found before the parameter, which stays what it is

    def give_back(self) -> None:
        """Let each layer find its parameters."""
        for layer, name, _ in self._layers:
            layer.__dict__.pop(name, None)

    @torch.no_grad()
    def renew(self) -> None:
        """Cast in place."""
        if self.copies:
            torch._foreach_copy_(self.copies, [weight.detach() for weight in self.weights])

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add bf16 gradients, one for each copy or None, to the float32 ones, as autograd would: a first one is set."""
        arrived = [(weight, own) for weight, own in zip(self.weights, gradients, strict=True) if own is not None]
        first = [(weight, own) for weight, own in arrived if weight.grad is None]
        further = [(weight.grad, own) for weight, own in arrived if weight.grad is not None]
        if further:
            torch._foreach_add_([total for total, _ in further], [own for _, own in further])
        if first:
            made = [torch.empty_like(weight) for weight, _ in first]
            torch._foreach_copy_(made, [own for _, own in first])
            for (weight, _), gradient in zip(first, made, strict=True):
                weight.grad = gradient


class _Attached(torch.autograd.Function):
    """The copies of a block as outputs of a graph in which nothing is computed; saves nothing for the backward pass."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, block: _Block) -> tuple[Tensor, ...]:
        ctx.block = block
        ctx.set_materialize_grads(False)  # of a layer that did not run there is None, not zeros
        return tuple(copy.detach() for copy in block.copies)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, None]:
        ctx.block.add(gradients)
        return None, None
