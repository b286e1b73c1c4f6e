"""Hidden states of samples that lie end to end in one row, without padding and without attention across samples.

Shapes: n samples, N tokens of all of them together, D width.

A mask of the stock attention could keep samples apart too (arXiv:2107.02027 does so), but it is (N, N), and the
products that it hides are computed all the same: the square of the row, not the sum of the squares of its samples.

Families whose attention goes through the interface of transformers are given one more implementation of it for the
length of a forward; those with attention of their own (XGLM, BLOOM, GPT-Neo) have the forward of those modules swapped.
Both are undone when the forward ends: what is saved, and what anybody else runs, is the stock model.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.models.bloom.modeling_bloom import BloomAttention, build_alibi_tensor
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention
from transformers.models.xglm.modeling_xglm import XGLMAttention, XGLMSinusoidalPositionalEmbedding

from afp_ray.models.hidden_states import (
    CausalModel,
    decoder_blocks,
    decoder_of,
    last_hidden_state,
    run_decoder,
    state_of_every_layer,
    state_of_layer,
)
from afp_ray.models.lengths import find_lengths, is_of_library
from afp_ray.models.packed_attention import (
    AnyRow,
    Samples,
    SamplesInBucket,
    ScoreForm,
    attend,
    current_samples,
    samples_in_row,
)
from afp_ray.models.stated_lengths import Lengths

FAMILIES = frozenset(
    {
        "bloom",
        "gemma2",
        "gemma3_text",
        "gpt2",
        "gpt_neo",
        "granite",
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "xglm",
    }
)
"""Values of `model_type` whose packed forward is tested to equal that of each sample alone."""

_NAME = "afp_ray_packed"
T = TypeVar("T")


def supports_packing(model: CausalModel) -> str | None:
    """Why samples cannot share a row of this model; None where they can.

    Args:
        model: a causal LM.
    Returns: a reason in words; such a model is run on padded rows instead.
    """
    config: Any = model.config.get_text_config()
    if config.model_type not in FAMILIES:
        return f"packed attention is not known for the family {config.model_type}"
    if not is_of_library(model):
        return f"packed attention is not known for code of the checkpoint, {type(model).__name__}"
    if any(_recomputes_unpacked(block) for block in decoder_blocks(model)):
        return "gradient checkpointing runs blocks again after the forward has ended"
    if getattr(config, "slow_but_exact", False) and config.pretraining_tp > 1:
        return "slow_but_exact splits the projection of the attention"
    return None


def lengths_of(model: CausalModel) -> Lengths:
    """Which lengths `model` treats alike: texts of other lengths do not share a forward with them.

    A family that packs is known; another is tried out once, on a few tokens.
    """
    family = model.config.get_text_config().model_type
    return find_lengths(model, is_known=is_of_library(model) and family in FAMILIES)


def packing_of_now(model: CausalModel) -> contextlib.AbstractContextManager[None]:
    """The packed attention of the forward under way, to be entered once more when its blocks run again.

    Args:
        model: the one whose forward it is.
    Returns: does nothing when no packed forward is under way.
    """
    try:
        samples = current_samples()
    except LookupError:
        return contextlib.nullcontext()
    return packed_attention_of(model, samples)


def _recomputes_unpacked(module: nn.Module) -> bool:
    """Whether a block runs again in the backward pass without what `packing_of_now` gives."""
    again = getattr(module, "_gradient_checkpointing_func", None)
    return getattr(module, "gradient_checkpointing", False) and "context_fn" not in getattr(again, "keywords", {})


def packed_last_hidden_state(
    model: CausalModel, input_ids: Tensor, positions: Tensor, lengths: Tensor | SamplesInBucket
) -> Tensor:
    """States after the final norm, without the projection onto the vocabulary.

    Args:
        model: a causal LM; its train or eval mode is respected, gradients flow.
        input_ids, positions: (1, N) tokens, and the place of each in its sample.
        lengths: (n,) tokens of each sample, in order; or the samples of a bucket, all of one kind (`lengths_of`).
    Returns: (1, N, D), for each sample equal to a forward over it alone.
    """

    def run(forward: Callable[[], Tensor], arrange: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return [arrange(forward())]

    return _by_kind(model, (input_ids, positions, lengths), run)[0]


def packed_hidden_states_at(
    model: CausalModel, input_ids: Tensor, positions: Tensor, lengths: Tensor | SamplesInBucket, *, layer: int
) -> Tensor:
    """States of one layer: embeddings and `layer` blocks run, nothing above.

    Args:
        model, input_ids, positions, lengths: as in `packed_last_hidden_state`.
        layer: 0 (the embedding output) to L (after the final norm).
    Returns: (1, N, D).
    Raises: ValueError when there is no such layer.
    """

    def run(forward: Callable[[], Tensor], arrange: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return [arrange(state_of_layer(model, layer, forward))]

    return _by_kind(model, (input_ids, positions, lengths), run)[0]


def packed_states_of_every_layer(
    model: CausalModel,
    input_ids: Tensor,
    positions: Tensor,
    lengths: Tensor | SamplesInBucket,
    *,
    reduce: Callable[[Tensor], T],
) -> list[T]:
    """What `reduce` makes of the states of every layer, in one forward; gradients flow.

    Args:
        model, input_ids, positions, lengths: as in `packed_last_hidden_state`.
        reduce: called with (1, N, D) as soon as a layer is done.
    Returns: L + 1 results, the embedding output first.
    """
    row = input_ids, positions, lengths

    def every_layer(forward: Callable[[], Tensor], arrange: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return state_of_every_layer(model, forward, arrange)

    if len(_kinds(model, lengths)) == 1:
        forward, arrange = _forward(model, *row)
        return state_of_every_layer(model, forward, lambda state: reduce(arrange(state)))
    return [reduce(states) for states in _by_kind(model, row, every_layer)]


def _kinds(model: CausalModel, lengths: Tensor | SamplesInBucket) -> list[list[int]]:
    """Indices of the samples, in groups that may share a forward; a bucket is one group."""
    if isinstance(lengths, SamplesInBucket):
        return [[]]
    lengths_alike = lengths_of(model)
    by_kind: dict[tuple[int, int], list[int]] = {}
    for index, length in enumerate(lengths.tolist()):
        by_kind.setdefault(lengths_alike.kind(length), []).append(index)
    return list(by_kind.values())


def _by_kind(
    model: CausalModel,
    row: tuple[Tensor, Tensor, Tensor | SamplesInBucket],
    run: Callable[[Callable[[], Tensor], Callable[[Tensor], Tensor]], list[Tensor]],
) -> list[Tensor]:
    """(1, N, D) states that `run` gives of a packed row, in one forward for each group of samples that may share it.

    Some rotary frequencies depend on the longest text of a forward (`stated_lengths`), so that a long sample would
    change the states of a short one. A model without such has one group, and its row is run as it is.

    Args:
        model: a causal LM.
        row: tokens, positions and lengths of the samples.
        run: called with what `_forward` gives.
    """
    input_ids, positions, lengths = row
    kinds = _kinds(model, lengths)
    if len(kinds) == 1 or isinstance(lengths, SamplesInBucket):
        return run(*_forward(model, *row))
    sizes = lengths.cpu()
    order: list[Tensor] = []
    parts: list[list[Tensor]] = []
    for samples in kinds:
        chosen = torch.zeros(len(sizes), dtype=torch.bool)
        chosen[samples] = True
        columns = chosen.repeat_interleave(sizes).nonzero()[:, 0].to(input_ids.device)
        parts.append(run(*_forward(model, input_ids[:, columns], positions[:, columns], lengths[samples])))
        order.append(columns)
    back = torch.cat(order).argsort()
    return [torch.cat(states, dim=1).index_select(1, back) for states in zip(*parts, strict=True)]


def _forward(
    model: CausalModel, input_ids: Tensor, positions: Tensor, lengths: Tensor | SamplesInBucket
) -> tuple[Callable[[], Tensor], Callable[[Tensor], Tensor]]:
    """The forward of a packed row, and a function that turns its states into (1, N, D).

    A model that cannot pack runs on padded rows instead, n times the tokens of the longest sample.
    """
    if isinstance(lengths, Tensor) and supports_packing(model) is not None:
        is_token = torch.arange(int(lengths.max())) < lengths[:, None].cpu()  # (n, T)
        mask = is_token.long().to(input_ids.device)
        ids = torch.zeros_like(mask).masked_scatter(mask.bool(), input_ids)
        return lambda: last_hidden_state(model, ids, mask), lambda state: state[mask.bool()][None]

    samples = Samples(tuple(lengths.tolist()), input_ids.device) if isinstance(lengths, Tensor) else lengths

    def forward() -> Tensor:
        with packed_attention_of(model, samples):
            return run_decoder(model, input_ids, positions=positions)

    return forward, lambda state: state


@contextlib.contextmanager
def packed_attention_of(model: CausalModel, samples: AnyRow) -> Iterator[None]:
    """Until the end of the block, tokens attend within their own sample, or as another kind of row says."""
    decoder: Any = decoder_of(model)
    implementation = decoder.config._attn_implementation
    with contextlib.ExitStack() as undo:
        undo.enter_context(samples_in_row(samples))
        undo.callback(setattr, decoder.config, "_attn_implementation", implementation)
        decoder.config._attn_implementation = _NAME  # read by every layer at each call, so no module need be replaced
        swaps = _SWAPS.get(decoder.config.model_type, {})
        for module in decoder.modules() if swaps else ():
            swapped = next((made for kind, made in swaps.items() if isinstance(module, kind)), None)
            if swapped is not None:
                # Set on the instance it hides the method of the class; taken away, the stock one is back.
                undo.callback(module.__dict__.pop, "forward", None)
                module.forward = partial(swapped, module)
        yield


def _through_interface(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention for families that take theirs from transformers, which makes no mask for a name without one.

    Args:
        module: the layer.
        query, key, value: (1, heads, N, D).
        attention_mask: None.
        options: of them `scaling`, `dropout`, `sliding_window` and `softcap` count, as transformers names them.
    """
    assert attention_mask is None
    scale = options.get("scaling")
    form = ScoreForm(
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        window=options.get("sliding_window"),
        softcap=options.get("softcap"),
    )
    return attend(query, key, value, form, dropout=options.get("dropout", 0.0)), None


AttentionInterface.register(_NAME, _through_interface)


def _xglm_attention(module: Any, hidden_states: Tensor, **ignored: Any) -> tuple[Tensor, None]:
    projected = (module.q_proj(hidden_states), module.k_proj(hidden_states), module.v_proj(hidden_states))
    query, key, value = (_heads(states, module.num_heads) for states in projected)
    dropout = module.dropout if module.training else 0.0
    attended = attend(query, key, value, ScoreForm(module.scaling), dropout=dropout)
    return module.out_proj(attended.flatten(2)), None


def _xglm_positions(module: Any, position_ids: Tensor, *ignored: Any, **also_ignored: Any) -> Tensor:
    """Sinusoids of places within samples: the table needs to reach the longest of them, not the end of the row."""
    needed = current_samples().longest + module.offset
    if needed > len(module.weights):
        module.make_weights(needed, module.embedding_dim, module.padding_idx)
    rows: Tensor = module.weights[position_ids + module.offset]
    return rows.detach()


def _bloom_attention(
    module: Any, hidden_states: Tensor, residual: Tensor, *ignored: Any, **also_ignored: Any
) -> tuple[Tensor, None]:
    fused = module.query_key_value(hidden_states).unflatten(2, (module.num_heads, 3, module.head_dim))
    query, key, value = (fused[..., part, :].transpose(1, 2) for part in range(3))  # (1, H, N, D)
    # ALiBi is a slope times a place; between the places 0 and 1 the slope is all there is.
    two = torch.ones(1, 2, dtype=torch.long, device=hidden_states.device)
    slopes = build_alibi_tensor(two, module.num_heads, torch.float32)[:, 0, 1]
    dropout = module.attention_dropout.p if module.training else 0.0
    attended = attend(query, key, value, ScoreForm(module.inv_norm_factor, slopes=slopes), dropout=dropout)
    projected = F.dropout(module.dense(attended.flatten(2)), module.hidden_dropout, training=module.training)
    return residual + projected, None


def _gpt_neo_attention(module: Any, hidden_states: Tensor, *ignored: Any, **also_ignored: Any) -> tuple[Tensor, None]:
    projected = (module.q_proj(hidden_states), module.k_proj(hidden_states), module.v_proj(hidden_states))
    query, key, value = (_heads(states, module.num_heads) for states in projected)
    dropout = module.attn_dropout.p if module.training else 0.0
    window = module.config.window_size if module.attention_type == "local" else None
    attended = attend(query, key, value, ScoreForm(1.0, window=window), dropout=dropout)
    return module.resid_dropout(module.out_proj(attended.flatten(2))), None


def _heads(states: Tensor, num_heads: int) -> Tensor:
    """(1, N, H * D) as (1, H, N, D)."""
    return states.view(1, states.shape[1], num_heads, -1).transpose(1, 2)


_SWAPS: dict[str, dict[type[nn.Module], Callable[..., Any]]] = {
    "xglm": {XGLMAttention: _xglm_attention, XGLMSinusoidalPositionalEmbedding: _xglm_positions},
    "bloom": {BloomAttention: _bloom_attention},
    "gpt_neo": {GPTNeoSelfAttention: _gpt_neo_attention},
}
