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
    return state_of_layer(model, layer, lambda: last_hidden_state(model, input_ids, attention_mask))


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
    with torch.no_grad():
        return state_of_every_layer(model, lambda: last_hidden_state(model, input_ids, attention_mask), reduce)


def state_of_layer(model: CausalModel, layer: int, forward: Callable[[], Tensor]) -> Tensor:
    """The state that `forward` has at one layer; it is run no further.

    Args:
        model: whose blocks `forward` runs.
        layer: 0 (the embedding output) to L (after the final norm).
        forward: runs the whole decoder of `model` and returns the states after the final norm.
    Returns: the state, in the shape that the blocks have it.
    Raises: ValueError when there is no such layer; ModelError when the block is skipped.
    """
    blocks = decoder_blocks(model)
    if not 0 <= layer <= len(blocks):
        raise ValueError(f"layer {layer} is not in 0..{len(blocks)}")
    if layer == len(blocks):
        return forward()

    def stop(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(_state(args, kwargs))

    handle = blocks[layer].register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
    try:
        forward()
    except _Reached as reached:
        return reached.state
    finally:
        handle.remove()
    raise _skipped(f"block {layer} did not run")


def state_of_every_layer(model: CausalModel, forward: Callable[[], Tensor], reduce: Callable[[Tensor], T]) -> list[T]:
    """What `reduce` makes of the state of every layer, in one forward; gradients flow.

    Args:
        model: whose blocks `forward` runs.
        forward: runs the whole decoder of `model` and returns the states after the final norm.
        reduce: called with each state as soon as its layer is done.
    Returns: L + 1 results, the embedding output first.
    Raises: ModelError when a block is skipped.
    """
    blocks = decoder_blocks(model)
    results: list[T] = []

    def visit(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        results.append(reduce(_state(args, kwargs)))

    handles = [block.register_forward_pre_hook(visit, with_kwargs=True) for block in blocks]
    try:
        results.append(reduce(forward()))
    finally:
        for handle in handles:
            handle.remove()
    if len(results) != len(blocks) + 1:
        raise _skipped(f"{len(results) - 1} of {len(blocks)} blocks ran")
    return results


def last_hidden_state(model: CausalModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """States after the final norm, without the projection onto the vocabulary.

    Args:
        model: a causal LM.
        input_ids, attention_mask: (B, T).
    Returns: (B, T, D).
    """
    return run_decoder(model, input_ids, positions=position_ids(attention_mask), attention_mask=attention_mask)


def run_decoder(
    model: CausalModel, input_ids: Tensor, *, positions: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """Whole forward below the head.

    Args:
        model: a causal LM.
        input_ids, positions: (B, T); positions reach the families that take any.
        attention_mask: (B, T), or None where every token is real.
    Returns: (B, T, D) after the final norm.
    """
    decoder = decoder_of(model)
    arguments: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    if "position_ids" in inspect.signature(decoder.forward).parameters:
        arguments["position_ids"] = positions
    forget_lengths(model)
    return decoder(**arguments, return_dict=True).last_hidden_state  # type: ignore[no-any-return]


def forget_lengths(model: CausalModel) -> None:
    """Put rotary frequencies that grow with the input back to those of a model that has seen no text yet.

    The library keeps those of the longest input until a short one comes, so that a text would change the next one.
    """
    if "dynamic" not in str(getattr(model.config.get_text_config(), "rope_parameters", "")):
        return
    for module in model.modules():
        for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
            prefix, limit = name.removesuffix("max_seq_len_cached"), getattr(module, "original_max_seq_len", None)
            if limit is not None and getattr(module, name) > limit:
                setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq"))
                setattr(module, name, limit)


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions that count real tokens alone, so that the side of the padding never changes a real token's state.

    Args:
        attention_mask: (B, T).
    Returns: (B, T) int64; 0 on padding before the first real token.
    """
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def decoder_of(model: CausalModel) -> nn.Module:
    """The part of a causal LM below its head."""
    decoder = cast(nn.Module, model.get_decoder())
    if decoder is model or not isinstance(decoder, PreTrainedModel):
        # The library goes by names: Llama 4 has its decoder under none of them, ModernBERT its head under one.
        decoder = next((child for child in model.children() if isinstance(child, PreTrainedModel)), decoder)
    return decoder


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


def _skipped(problem: str) -> ModelError:
    return ModelError(problem, allowed="a model without LayerDrop", fix="set `layerdrop: 0` in config.json")


def _state(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return cast(Tensor, args[0] if args else kwargs["hidden_states"])
