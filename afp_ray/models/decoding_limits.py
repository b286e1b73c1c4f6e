"""Which texts of a model may be written side by side, tried on a few tokens."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from afp_ray.models.decoding import Decoder, fork, left_padded
from afp_ray.models.lengths import is_of_library
from afp_ray.models.packing import lengths_of
from afp_ray.models.plain_generation import is_of_transformers, most_rows
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
        token_bytes: of the keys and values of one token; 0 where it cannot be told.
        longest_shared: the longest text, prompt included, whose beginning may be run once for several rows; 0 for none.
        longest_beside: the longest text that may stand beside others of any length; longer ones are for the library.
        most_rows: rows of equal length that the library may be given at a time.
    """

    may_pad: bool
    token_bytes: int
    longest_shared: int
    longest_beside: int
    most_rows: int


def find_limits(decoder: Decoder, *, changes_row_by_row: bool) -> DecodingLimits:
    """Try a model out on a few tokens.

    Args:
        decoder: of the model.
        changes_row_by_row: whether what its generation_config.json makes of logits needs no more than the row's tokens.
    """
    model = decoder.model
    has_library = is_of_transformers(model)
    lengths = lengths_of(model) if has_library else Lengths()
    may_pad, token_bytes = _try_padding(decoder)
    is_proven = may_pad and changes_row_by_row and is_of_library(model)
    beside = lengths.longest_plain if is_proven or not has_library else 0
    return DecodingLimits(
        may_pad=may_pad,
        token_bytes=token_bytes,
        longest_shared=_try_sharing(decoder) if may_pad else 0,
        longest_beside=beside,
        most_rows=most_rows(model) if has_library and beside < UNENDING else UNENDING,
    )


def _try_padding(decoder: Decoder) -> tuple[bool, int]:
    """Whether a row padded on the left gives what it gives alone, now and one step on; bytes kept of one token."""
    device = decoder.device
    long = decoder.first_tokens(9)
    short = long[4:]
    ids, mask = left_padded([long, short], device)
    padded, past = decoder.forward(ids, mask, None)
    layers = getattr(past, "layers", None) or ()
    if is_of_transformers(decoder.model) and not _are_plain(layers):
        return False, 0
    cached = [part for layer in layers for part in (getattr(layer, "keys", None), getattr(layer, "values", None))]
    token_bytes = sum(part.nbytes for part in cached if isinstance(part, Tensor)) // ids.numel()
    after = torch.full((2, 1), 1, device=device)
    later, _ = decoder.forward(after, torch.cat([mask, mask.new_ones(2, 1)], dim=1), past)
    alone, _ = decoder.forward(*left_padded([short], device), None)
    whole, _ = decoder.forward(*left_padded([[*short, 1]], device), None)
    gaps = [float((left - right).abs().max()) for left, right in ((padded[1:], alone), (later[1:], whole))]
    return max(gaps) <= decoder.reach(whole), token_bytes


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


def _are_plain(layers: Collection[Any]) -> bool:
    return bool(layers) and all(type(layer).__name__ in _PLAIN_LAYERS for layer in layers)
