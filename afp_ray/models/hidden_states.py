"""Hidden states of a causal LM, computed no further than they are needed.

Shapes: B rows, T tokens with padding on either side, D width, L decoder blocks. Layer 0 is the embedding output,
layer l the output of block l; layer L is, as in transformers, the output of the last block after the final norm.

The forward of every family hands the running state to its blocks one after another, as their first argument, after
whatever the family does first (scaling, position embeddings, dropout, masks). So the state of layer l is what block l
(0-based) is called with, and a hook that runs before that block can take it and unwind the rest of the forward with
an exception. This needs to know neither the names of norms nor how masks are built, and nothing above runs. The
wrappers that transformers puts around a forward restore their own state in `finally`.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from afp_ray.errors import ModelError

CausalModel: TypeAlias = PreTrainedModel
T = TypeVar("T")


class _Reached(Exception):  # noqa: N818 - it is no error
    """Carries the state out of the forward; never leaves this module."""

    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self.state = state


def hidden_states_at(model: CausalModel, input_ids: Tensor, attention_mask: Tensor, *, layer: int) -> Tensor:
    """States of one layer: embeddings and `layer` blocks run, nothing above.

    Args:
        model: a causal LM; its train or eval mode is respected, gradients flow.
        input_ids: (B, T).
        attention_mask: (B, T) 1 for real tokens; the states of padding are of no use.
        layer: 0 (the embedding output) to L (after the final norm).
    Returns: (B, T, D), equal to `output_hidden_states=True` at index `layer` of a whole forward.
    Raises: ValueError when there is no such layer.    Source: AFP, arXiv:2311.08089, section 3.
    """
    blocks = decoder_blocks(model)
    if not 0 <= layer <= len(blocks):
        raise ValueError(f"layer {layer} is not in 0..{len(blocks)}")
    if layer == len(blocks):
        return last_hidden_state(model, input_ids, attention_mask)

    def stop(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(_state(args, kwargs))

    handle = blocks[layer].register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
    try:
        last_hidden_state(model, input_ids, attention_mask)
    except _Reached as reached:
        return reached.state
    finally:
        handle.remove()
    raise ModelError(
        f"block {layer} did not run", allowed="a model without LayerDrop", fix="set `layerdrop: 0` in config.json"
    )


def all_hidden_states(
    model: CausalModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    reduce: Callable[[Tensor], T] = lambda state: state,  # type: ignore[assignment, return-value]
) -> list[T]:
    """What `reduce` makes of every layer's states, in one forward without gradients.

    Args:
        model: a causal LM.
        input_ids, attention_mask: (B, T).
        reduce: called with (B, T, D) as soon as a layer is done; its result alone is kept, so that a pooling keeps
            (L+1) vectors a sentence and never (L+1) states a token. The default keeps the states.
    Returns: L + 1 results, the embedding output first.
    """
    results: list[T] = []

    def visit(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        results.append(reduce(_state(args, kwargs)))

    handles = [block.register_forward_pre_hook(visit, with_kwargs=True) for block in decoder_blocks(model)]
    try:
        with torch.no_grad():
            results.append(reduce(last_hidden_state(model, input_ids, attention_mask)))
    finally:
        for handle in handles:
            handle.remove()
    return results


def last_hidden_state(model: CausalModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """States after the final norm, without the projection onto the vocabulary.

    Args:
        model: a causal LM.
        input_ids, attention_mask: (B, T).
    Returns: (B, T, D).
    """
    decoder = decoder_of(model)
    arguments: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    if "position_ids" in inspect.signature(decoder.forward).parameters:
        arguments["position_ids"] = position_ids(attention_mask)
    return decoder(**arguments, return_dict=True).last_hidden_state  # type: ignore[no-any-return]


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions that count real tokens alone, so that the side of the padding never changes a real token's state.

    Args:
        attention_mask: (B, T).
    Returns: (B, T) int64; 0 on padding before the first real token.
    """
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def decoder_of(model: CausalModel) -> nn.Module:
    """The part of a causal LM below its head."""
    return cast(nn.Module, model.get_decoder())


def decoder_blocks(model: CausalModel) -> nn.ModuleList:
    """The decoder blocks, in the order in which they run.

    Raises: ModelError for a family that keeps them otherwise.
    """
    decoder = decoder_of(model)
    num_layers = model.config.get_text_config().num_hidden_layers
    for module in decoder.children():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ModelError(
        f"{type(decoder).__name__} has no list of {num_layers} blocks",
        allowed="a decoder whose blocks are one ModuleList",
        fix="choose another model.name",
    )


def _state(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return cast(Tensor, args[0] if args else kwargs["hidden_states"])
