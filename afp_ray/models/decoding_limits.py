"""Which texts of a model may be written side by side, tried on a few tokens."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from afp_ray.models.decoding import Decoder, fork, left_padded
from afp_ray.models.lengths import is_of_library
from afp_ray.models.packing import lengths_of
from afp_ray.models.plain_generation import is_of_transformers, most_rows
from afp_ray.models.slots import Slots
from afp_ray.models.stated_lengths import UNENDING, Lengths

_PLAIN_LAYERS = ("DynamicLayer", "DynamicSlidingWindowLayer")
"""Kinds of keys and values that can be handed to several rows."""
_WINDOWS = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size", "local_attention")
"""Fields that families give the tokens of a window in."""


@dataclass(frozen=True, slots=True)
class DecodingLimits:
    """Which texts of a model may be written side by side.

    Attributes:
        may_pad: whether a row padded on the left gives what it gives alone.
        token_states: (1, H, 1, D) keys and values of one token, by layer; empty where a model keeps something else.
        longest_shared: the longest text, prompt included, whose beginning may be run once for several rows; 0 for none.
        longest_in_slots: the longest text that may have a slot of a static cache; 0 for none.
        longest_beside: the longest text that may stand beside others of any length; longer ones are for the library.
        most_rows: rows of equal length that the library may be given at a time.
    """

    may_pad: bool
    token_states: tuple[tuple[Tensor, Tensor], ...]
    longest_shared: int
    longest_in_slots: int
    longest_beside: int
    most_rows: int

    @property
    def token_bytes(self) -> int:
        """Of the keys and values of one token; 0 where it cannot be told."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.token_states)


def find_limits(decoder: Decoder, *, changes_row_by_row: bool) -> DecodingLimits:
    """Try a model out on a few tokens.

    Args:
        decoder: of the model.
        changes_row_by_row: whether what its generation_config.json makes of logits needs no more than the row's tokens.
    """
    model = decoder.model
    has_library = is_of_transformers(model)
    lengths = lengths_of(model) if has_library else Lengths()
    may_pad, token_states = _try_padding(decoder)
    shared = _try_sharing(decoder) if may_pad else 0
    is_proven = may_pad and changes_row_by_row and is_of_library(model)
    beside = lengths.longest_plain if is_proven or not has_library else 0
    return DecodingLimits(
        may_pad=may_pad,
        token_states=token_states,
        longest_shared=shared,
        longest_in_slots=shared if shared and _try_slots(decoder, token_states) else 0,
        longest_beside=beside,
        most_rows=most_rows(model) if has_library and beside < UNENDING else UNENDING,
    )


def _try_padding(decoder: Decoder) -> tuple[bool, tuple[tuple[Tensor, Tensor], ...]]:
    """Whether a row padded on the left gives what it gives alone, now and one step on; `token_states`."""
    device = decoder.device
    long = decoder.first_tokens(9)
    short = long[4:]
    ids, mask = left_padded([long, short], device)
    padded, past = decoder.forward(ids, mask, None)
    layers = getattr(past, "layers", None) or ()
    if is_of_transformers(decoder.model) and not _are_plain(layers):
        return False, ()
    token_states = tuple(
        (layer.keys[:1, :, :1].clone(), layer.values[:1, :, :1].clone())
        for layer in layers
        if isinstance(getattr(layer, "keys", None), Tensor)
    )
    after = torch.full((2, 1), 1, device=device)
    later, _ = decoder.forward(after, torch.cat([mask, mask.new_ones(2, 1)], dim=1), past)
    alone, _ = decoder.forward(*left_padded([short], device), None)
    whole, _ = decoder.forward(*left_padded([[*short, 1]], device), None)
    gaps = [float((left - right).abs().max()) for left, right in ((padded[1:], alone), (later[1:], whole))]
    return max(gaps) <= decoder.reach(whole), token_states


def _try_sharing(decoder: Decoder) -> int:
    """`DecodingLimits.longest_shared`.

    Rows are run whole and after a shared beginning, padding between the two. Layers that look at a window count that
    padding, so that texts beyond the window are run whole.
    """
    device = decoder.device
    long = decoder.first_tokens(11)
    rows = [long, long[:7]]
    _, past = decoder.forward(*left_padded([long[:5]], device), None)
    layers = getattr(past, "layers", None) or ()
    if not _are_plain(layers):
        return 0
    windows = [layer.sliding_window for layer in layers if layer.is_sliding]
    config = decoder.model.config.get_text_config()  # some cut windows out of all that they keep (GPT-Neo)
    windows += [window for name in _WINDOWS if isinstance(window := getattr(config, name, None), int)]
    if (longest := min(windows, default=1 << 30)) < len(long) + 1:
        return 0
    ids, mask = left_padded([row[5:] for row in rows], device)
    mask = torch.cat([mask.new_ones(2, 5), mask], dim=1)
    now, past = decoder.forward(ids, mask, fork(past, 2))
    after = torch.full((2, 1), 1, device=device)
    later, _ = decoder.forward(after, torch.cat([mask, mask.new_ones(2, 1)], dim=1), past)
    whole, past = decoder.forward(*left_padded(rows, device), None)
    _, mask = left_padded([[*row, 1] for row in rows], device)
    expected, _ = decoder.forward(after, mask, past)
    gaps = [float((left - right).abs().max()) for left, right in ((now, whole), (later, expected))]
    return longest if max(gaps) <= decoder.reach(whole) else 0


def _try_slots(decoder: Decoder, token_states: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Whether texts in slots have the logits that they have alone, also beside a slot that was given to another."""
    device = decoder.device
    long = decoder.first_tokens(9)
    short, other = long[4:], long[::-1][:7]
    slots = Slots(decoder, token_states, number=2, places=12)
    ids, mask = left_padded([long, short], device)
    slots.fill([1, 0], decoder.forward(ids, mask, None)[1], mask, torch.tensor([1, 2], device=device))
    now = slots.step(2, 10).clone()
    slots.advance(torch.tensor([3, 3], device=device))
    ids, mask = left_padded([other], device)
    slots.fill([1], decoder.forward(ids, mask, None)[1], mask, torch.tensor([4], device=device))
    found = torch.cat([now, slots.step(2, 12)])
    alone = left_padded([[*short, 2], [*long, 1], [*short, 2, 3], [*other, 4]], device)
    expected, _ = decoder.forward(*alone, None)
    return float((found - expected).abs().max()) <= decoder.reach(expected)


def _are_plain(layers: Collection[Any]) -> bool:
    return bool(layers) and all(type(layer).__name__ in _PLAIN_LAYERS for layer in layers)
