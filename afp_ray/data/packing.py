"""Lays samples end to end in one row without padding, so that a forward pass computes tokens alone.

Shapes: n samples, N tokens of all of them together.

    samples     a a a | b b | c c c c        9 tokens; padded rows would take 12
    positions   0 1 2   0 1   0 1 2 3
    lengths     3       2     4

No token is dropped and none is added. What keeps the samples apart is `lengths` alone, so the model must not let a
token look at another sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from afp_ray.data.tokens import TokenArray

UNSUPERVISED = -100
"""Label of positions that the loss leaves out."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Samples end to end.

    Attributes:
        input_ids: (1, N) int64.
        positions: (1, N) int64, index of each token in its sample, from 0.
        lengths: (n,) int64 tokens of each sample, in order; they sum to N.
        labels: (1, N) int64, equal to `input_ids` where supervised, else -100; not shifted. The first token of a sample
            is never supervised, so that shifting the whole row by one predicts nothing across samples. None for pairs.
    """

    input_ids: Tensor
    positions: Tensor
    lengths: Tensor
    labels: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.input_ids.shape[1]


def pack(rows: Sequence[TokenArray], boundaries: Sequence[int] | None = None) -> PackedBatch:
    """Lay `rows` end to end.

    Args:
        rows: (T_i,) ids of each sample, none empty.
        boundaries: first supervised position of each sample, >= 1; None supervises nothing and gives no labels.
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)  # (n,)
    input_ids = np.concatenate(rows).astype(np.int64)  # (N,)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)  # (N,) start of each token's sample
    positions = np.arange(len(input_ids), dtype=np.int64) - starts
    labels = None
    if boundaries is not None:
        assert min(boundaries) >= 1, "nothing predicts the first token of a sample"
        supervised = positions >= np.repeat(np.asarray(boundaries, dtype=np.int64), lengths)
        labels = torch.from_numpy(np.where(supervised, input_ids, UNSUPERVISED))[None]
    return PackedBatch(
        torch.from_numpy(input_ids)[None], torch.from_numpy(positions)[None], torch.from_numpy(lengths), labels
    )


def unpack(values: Tensor, lengths: Tensor) -> list[Tensor]:
    """Part what is laid end to end into its samples.

    Args:
        values: (1, N, ...) ids, labels or states of a packed row.
        lengths: (n,) tokens of each sample.
    Returns: n views of shape (T_i, ...).
    """
    return list(torch.split(values[0], lengths.tolist()))


def fill_greedily(lengths: Sequence[int], *, max_tokens: int, is_padded: bool) -> list[slice]:
    """Part samples, in their order, into micro-batches of at most `max_tokens` tokens.

    One pass: a micro-batch is closed as soon as the next sample does not fit. Sorting by length could need fewer of
    them, but rows keep one order in every layout.

    Args:
        lengths: tokens of each sample.
        max_tokens: budget of one micro-batch, padding included; a longer sample gets a micro-batch of its own.
        is_padded: whether every sample takes as much room as the longest beside it.
    Returns: consecutive slices that together hold every sample once.
    """
    parts: list[slice] = []
    first = longest = total = 0
    for place, length in enumerate(lengths):
        widest = max(longest, length)
        size = widest * (place - first + 1) if is_padded else total + length
        if place > first and size > max_tokens:
            parts.append(slice(first, place))
            first, widest, total = place, length, 0
        longest, total = widest, total + length
    return [*parts, slice(first, len(lengths))] if lengths else []
