"""Causal attention among samples that lie end to end in one row, each alone with itself.

Shapes: n samples of T_i tokens, N tokens of all, H heads, K heads of keys and values (a divisor of H), D width of a
head.

Nothing of size (N, N) is ever made. On a CPU each sample is a slice of the row and a call of its own, which needs no
mask where attention is plainly causal. On CUDA in 16 bits one call takes all samples, and reads on the device where
they begin. Elsewhere, where many small calls cost more than the work in them, the samples stand side by side, padded on
the right for the length of the attention alone: a causal query never sees what stands behind it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nested import nested_tensor_from_jagged
from torch.nn.attention.varlen import varlen_attn

_ONE_BY_ONE = frozenset({"cpu"})
"""Devices on which a call a sample costs less than a padded one: by 1.2 to 1.7 times on a CPU, at every length."""


@dataclass(slots=True)
class Samples:
    """Where the samples of a packed row lie, with what every layer can share.

    Attributes:
        lengths: T_i of each sample, in order.
        device: of the row.
    """

    lengths: tuple[int, ...]
    device: torch.device
    _biases: dict[tuple[int, int | None, str], Tensor] = field(default_factory=dict)
    _groups: "_Groups | None" = None
    _starts: Tensor | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max(self.lengths)

    @property
    def is_even(self) -> bool:
        """Whether all samples have one length, so that the row is a batch already."""
        return min(self.lengths) == self.longest

    @property
    def groups(self) -> "_Groups":
        """Samples of like length, side by side."""
        if self._groups is None:
            self._groups = _group(self.lengths, self.device)
        return self._groups

    @property
    def starts(self) -> Tensor:
        """(n + 1,) int32 first token of each sample, and N, on the device."""
        if self._starts is None:
            bounds = np.concatenate([[0], np.cumsum(self.lengths)])
            self._starts = torch.from_numpy(bounds.astype(np.int32)).to(self.device, non_blocking=True)
        return self._starts

    def bias(self, dtype: torch.dtype, *, window: int | None, slopes: Tensor | None) -> Tensor | None:
        """What is added to the scores of the longest sample; None where plain causality is all there is.

        Args:
            dtype: of the scores.
            window: tokens that a token sees, itself included; None for all before it.
            slopes: (H,) of ALiBi; None for none.
        Returns: (1, T, T) or (H, T, T), -inf where nothing is seen; its top left corner serves a shorter sample.
        """
        window = window if window is not None and window < self.longest else None
        if window is None and slopes is None:
            return None
        key = (0 if slopes is None else len(slopes), window, str(dtype))
        if key not in self._biases:
            self._biases[key] = self._make_bias(window, slopes).to(dtype)
        return self._biases[key]

    def _make_bias(self, window: int | None, slopes: Tensor | None) -> Tensor:
        index = torch.arange(self.longest, device=self.device)
        distance = index[None, :] - index[:, None]  # (T, T) of a key from its query, 0 or less where it is seen
        hidden = distance > 0
        if window is not None:
            hidden = hidden | (distance <= -window)
        bias = torch.zeros(1, *distance.shape, device=self.device)
        if slopes is not None:
            bias = slopes.float()[:, None, None] * distance
        return bias.masked_fill(hidden, float("-inf"))


@dataclass(frozen=True, slots=True)
class _Groups:
    """Rows padded on the right, one a sample, group after group.

    Attributes:
        shapes: rows and places of a row, of each group.
        places: (N,) which of all places each token of the packed row takes.
    """

    shapes: tuple[tuple[int, int], ...]
    places: Tensor


def _group(lengths: tuple[int, ...], device: torch.device) -> _Groups:
    """Where each sample of a packed row stands once samples of like length are put side by side.

        packed row       aaaaa bbbbbbbbbbbb ccccccc        lengths 5, 12, 7
        group of 5 to 8  aaaaa.. / ccccccc                 2 rows, as long as its longest
        next, 9 to 16    bbbbbbbbbbbb                      1 row

    Lengths between two powers of 2 make a group, so that less than half of it is padding.
    """
    sizes = torch.tensor(lengths)
    widths = [(length - 1).bit_length() for length in lengths]
    group = torch.tensor([sorted(set(widths)).index(width) for width in widths])  # (n,)
    counts = group.bincount()
    longest = torch.zeros_like(counts).scatter_reduce(0, group, sizes, "amax")
    order = group.argsort(stable=True)
    firsts = torch.empty_like(sizes)  # (n,) first place of each sample
    firsts[order] = longest[group[order]].cumsum(0) - longest[group[order]]
    starts = sizes.cumsum(0) - sizes  # (n,) first token of each sample
    # NumPy, since torch wakes all threads of a large machine for a few tokens: 3 ms a call where a step takes 60.
    moved = torch.from_numpy(np.repeat((firsts - starts).numpy(), lengths))  # (N,)
    places = torch.arange(sum(lengths)) + moved
    return _Groups(tuple(zip(counts.tolist(), longest.tolist(), strict=True)), places.to(device))


@dataclass(frozen=True, slots=True)
class ScoreForm:
    """How a family scores a token for another one that looks at it.

    Attributes:
        scale: multiplies the products of queries and keys.
        window: tokens that a token sees, itself included; None for all before it.
        softcap: scores become softcap * tanh(scores / softcap); None leaves them.
        slopes: (H,) of ALiBi, which lowers a score with the distance; None for none.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    slopes: Tensor | None = None


@dataclass(frozen=True, slots=True)
class SamplesInBucket:
    """Samples whose bounds are read on the device, so that a forward captured once serves others of the same shape.

    Attributes:
        starts: (n + 1,) int32 first token of each sample, and N; none is empty.
        longest: tokens that no sample exceeds.
    """

    starts: Tensor
    longest: int

    def on_host(self) -> Samples:
        """The same samples with lengths that the host knows; waits for a device."""
        return Samples(tuple(self.starts.diff().tolist()), self.starts.device)


class NoVarlenError(Exception):
    """No kernel reads the bounds of samples on the device for this form of attention; the text says why."""


class OtherRow(Protocol):
    """A row whose tokens see one another in a way of its own, which its attention knows."""

    @property
    def longest(self) -> int:
        """One past the last place of a token in its text."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, form: ScoreForm) -> Tensor:
        """(1, N, H, D) from (1, H, N, D), without dropout; otherwise as the function of that name."""


AnyRow: TypeAlias = Samples | SamplesInBucket | OtherRow
_current: ContextVar[AnyRow] = ContextVar("samples of the packed row")


@contextmanager
def samples_in_row(samples: AnyRow) -> Iterator[None]:
    """What attention modules take their row to consist of, until the end of the block."""
    token = _current.set(samples)
    try:
        yield
    finally:
        _current.reset(token)


def current_samples() -> AnyRow:
    """The samples of the row whose forward is under way.

    Raises: LookupError outside of `samples_in_row`.
    """
    return _current.get()


@torch.compiler.disable  # type: ignore[untyped-decorator]  # lengths differ by row: each would be compiled anew
def attend(query: Tensor, key: Tensor, value: Tensor, form: ScoreForm, *, dropout: float = 0.0) -> Tensor:
    """Causal attention of every sample of the current row with itself.

    Args:
        query: (1, H, N, D).
        key, value: (1, K, N, D).
        form: how scores are made.
        dropout: probability with which an attention weight is dropped.
    Returns: (1, N, H, D).
    """
    samples = current_samples()
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:  # to all heads, which every kernel takes, for H / K times the memory of keys and values
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    if not isinstance(samples, Samples | SamplesInBucket):
        return samples.attend(query, key, value, form)
    obstacle = varlen_obstacle(query, form, dropout)
    if obstacle is None:
        return _varlen(query, key, value, samples, form, dropout)
    if isinstance(samples, SamplesInBucket):
        if query.device.type != "cpu":
            raise NoVarlenError(obstacle)
        samples = samples.on_host()
    bias = samples.bias(query.dtype, window=form.window, slopes=form.slopes)
    options = _Options(bias, form.scale, dropout, form.softcap)
    if samples.is_even or query.device.type not in _ONE_BY_ONE:
        return _side_by_side(query, key, value, samples, options)
    # The gradient of a split is one copy, that of a slice a whole row of zeros.
    lengths = list(samples.lengths)
    parts = [torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)]
    attended = [_attend(one, keys, values, options) for one, keys, values in zip(*parts, strict=True)]
    return torch.cat([one.transpose(1, 2) for one in attended], dim=1)


def varlen_obstacle(query: Tensor, form: ScoreForm, dropout: float) -> str | None:
    """Why a kernel that takes the bounds of samples cannot serve; None where it does.

    Args:
        query: (1, H, N, D).
        form: how scores are made.
        dropout: probability with which an attention weight is dropped.
    """
    if query.device.type != "cuda":
        return "the device is not CUDA"
    if query.dtype not in (torch.bfloat16, torch.float16):
        return f"the kernel takes 16 bits, these are {str(query.dtype).removeprefix('torch.')}"
    if form.softcap is not None:
        return "scores are capped"
    if form.slopes is not None:
        return "scores fall with the distance (ALiBi)"
    if dropout > 0 and form.window is not None:
        return "attention has a window and dropout"
    return None


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, samples: Samples | SamplesInBucket, form: ScoreForm, dropout: float
) -> Tensor:
    """(1, N, H, D) attention by one call for all samples, which reads their bounds on the device.

    Of the two public functions one knows no dropout, the other no window.
    """
    queries, keys, values = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))  # (N, H, D)
    starts, longest = samples.starts, samples.longest
    if dropout == 0:
        window = (-1 if form.window is None else form.window - 1, 0)
        attended = varlen_attn(
            queries, keys, values, starts, starts, longest, longest, scale=form.scale, window_size=window
        )
        return cast(Tensor, attended)[None]

    def nested(rows: Tensor) -> Tensor:
        # Both bounds are given, or the library would look for them on the device and wait.
        return nested_tensor_from_jagged(rows, starts, min_seqlen=1, max_seqlen=longest).transpose(1, 2)

    attended = F.scaled_dot_product_attention(
        nested(queries), nested(keys), nested(values), dropout_p=dropout, is_causal=True, scale=form.scale
    )
    return attended.transpose(1, 2).values()[None]


@dataclass(frozen=True, slots=True)
class _Options:
    bias: Tensor | None
    scale: float
    dropout: float
    softcap: float | None


def _side_by_side(query: Tensor, key: Tensor, value: Tensor, samples: Samples, options: _Options) -> Tensor:
    """Attention in few calls, on rows that are padded on the right where lengths differ."""
    tokens = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # (N, H, D)
    if samples.is_even:
        shape = (len(samples.lengths), samples.longest)
        return _attend_rows(tokens, shape, options)[None]
    groups = samples.groups
    sizes = [rows * places for rows, places in groups.shapes]
    padded = [
        torch.split(one.new_zeros(sum(sizes), *one.shape[1:]).index_copy(0, groups.places, one), sizes)
        for one in tokens
    ]
    attended = [_attend_rows(parts, shape, options) for *parts, shape in zip(*padded, groups.shapes, strict=True)]
    return torch.cat(attended).index_select(0, groups.places)[None]


def _attend_rows(tokens: Sequence[Tensor], shape: tuple[int, int], options: _Options) -> Tensor:
    """(rows * places, H, D) attention within rows of that shape."""
    query, key, value = (one.reshape(*shape, *one.shape[1:]).transpose(1, 2) for one in tokens)
    return _attend(query, key, value, options).transpose(1, 2).flatten(0, 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, options: _Options) -> Tensor:
    """(n, H, T, D) attention within each row."""
    length = query.shape[2]
    bias = options.bias
    if options.softcap is not None:
        return _softcapped(query, key, value, options)
    if bias is None:
        return F.scaled_dot_product_attention(
            query, key, value, dropout_p=options.dropout, is_causal=True, scale=options.scale
        )
    bias = bias[None, :, :length, :length]
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=options.dropout, scale=options.scale
    )


def _softcapped(query: Tensor, key: Tensor, value: Tensor, options: _Options) -> Tensor:
    """The same with capped scores, which no fused kernel has."""
    assert options.softcap is not None
    length = query.shape[2]
    scores = torch.tanh(query @ key.transpose(2, 3) * (options.scale / options.softcap)) * options.softcap
    if options.bias is None:
        ahead = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(ahead, float("-inf"))
    else:
        scores = scores + options.bias[None, :, :length, :length]
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return F.dropout(weights, options.dropout, training=options.dropout > 0) @ value
