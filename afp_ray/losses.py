"""The terms of the training loss as pure functions of tensors.

Shapes: B pairs, N rows of candidates (B, or the pairs of all workers), T tokens, S supervised positions, D width,
V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of a position that is not supervised."""

_CHUNK_ELEMENTS = {"cuda": 2**27}
_DEFAULT_CHUNK_ELEMENTS = 2**22
_LEAST_CHUNK_ROWS = 128
"""Fewer rows would read and write the gradient of a large vocabulary more often than they are worth."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows among which each row of a batch must find its translation.

    Attributes:
        source, target: (N, D) rows of all workers, those of the batch among them; None takes the batch. The first
            serves the target to source direction alone.
        labels: (B,) index of row i's translation among them; None is 0..B-1.
        ignored: (B, N) true where a candidate is no negative of a row, in either direction; what it says of a row's
            own translation has no effect. None ignores nothing.
        has_own_side: whether rows of the anchor's own language are negatives, too; a row is none of itself.
    """

    source: Tensor | None = None
    target: Tensor | None = None
    labels: Tensor | None = None
    ignored: Tensor | None = None
    has_own_side: bool = False


def contrastive_loss(
    source: Tensor,
    target: Tensor,
    temperature: float,
    *,
    symmetric: bool = False,
    candidates: Candidates | None = None,
    reduction: str = "mean",
) -> Tensor:
    """InfoNCE with in-batch negatives: row i of `target` translates row i of `source`.

    Args:
        source, target: (B, D) pooled embeddings, of any scale and float dtype; similarities are at least float32.
        temperature: divisor of the cosine similarities, unitless, > 0.
        symmetric: average the losses of source to target and target to source.
        candidates: rows among which the translation must be nearest; None takes the batch itself.
        reduction: `mean` over the B rows, or `sum`.
    Returns: () cross-entropy in nats; log(N) when the embeddings carry no signal.
    Raises: ValueError when the shapes differ.    Source: AFP, arXiv:2311.08089, section 3.
    """
    if source.shape != target.shape:
        raise ValueError(f"source {tuple(source.shape)} and target {tuple(target.shape)} differ")
    candidates = candidates or Candidates()
    labels, ignored = candidates.labels, candidates.ignored
    if labels is None:
        labels = torch.arange(len(source), device=source.device)
    targets = target if candidates.target is None else candidates.target
    sources = source if candidates.source is None else candidates.source
    # Of the other side the own translation is never ignored, of the own side the row itself always is.
    of_own_side = None
    if candidates.has_own_side:
        of_own_side = torch.zeros(len(source), len(targets), dtype=torch.bool, device=source.device)
        of_own_side = (of_own_side if ignored is None else ignored).scatter(1, labels[:, None], True)
    if ignored is not None:
        ignored = ignored.scatter(1, labels[:, None], False)
    if of_own_side is not None:
        ignored = torch.cat([torch.zeros_like(of_own_side) if ignored is None else ignored, of_own_side], dim=1)
    with torch.autocast(device_type=source.device.type, enabled=False):
        forward = targets if of_own_side is None else torch.cat([targets, sources])
        loss = _one_direction(source, forward, labels, temperature, ignored, reduction)
        if not symmetric:
            return loss
        backward = sources if of_own_side is None else torch.cat([sources, targets])
        return (loss + _one_direction(target, backward, labels, temperature, ignored, reduction)) / 2


def _one_direction(
    anchors: Tensor, candidates: Tensor, labels: Tensor, temperature: float, ignored: Tensor | None, reduction: str
) -> Tensor:
    cosine = F.normalize(_wide(anchors), dim=-1) @ F.normalize(_wide(candidates), dim=-1).T  # (B, N)
    logits = cosine / temperature
    if ignored is not None:
        logits = logits.masked_fill(ignored, float("-inf"))
    return F.cross_entropy(logits, labels, reduction=reduction)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def instruction_loss(logits: Tensor, labels: Tensor, num_supervised: int) -> Tensor:
    """Next-token cross-entropy of whole logits; the plain form that `next_token_sum` is equal to.

    Args:
        logits: (B, T, V) position t predicts token t + 1.
        labels: (B, T) token ids, -100 where a token is not supervised; the first position never is.
        num_supervised: positions over the whole (global) batch, > 0; a share of a batch divides by it too.
    Returns: () nats per supervised token.
    """
    loss = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return loss / num_supervised


@dataclass(frozen=True, slots=True)
class Supervised:
    """Which states of a row predict which tokens.

    Attributes:
        positions: (S,) indices into the flattened (B*T) states.
        tokens: (S,) that they predict.
        weights: (S,) float32 factor of each one's loss, 0 for what fills up a bucket; None is 1 for all.
    """

    positions: Tensor
    tokens: Tensor
    weights: Tensor | None = None

    def to(self, device: torch.device) -> "Supervised":
        """The same on another device, without waiting for the copies."""
        weights = None if self.weights is None else self.weights.to(device, non_blocking=True)
        return Supervised(
            self.positions.to(device, non_blocking=True), self.tokens.to(device, non_blocking=True), weights
        )


@dataclass(frozen=True, slots=True)
class LogitForm:
    """How logits are made of the products of states and projection, and their loss is computed.

    Attributes:
        scale: multiplies the logits.
        softcap: logits become softcap * tanh(logits / softcap); None leaves them.
        chunk_elements: logits in memory at a time; None chooses by device.
        is_compiled: compute loss and gradient of a chunk in one compiled pass; equal to rounding.
    """

    scale: float = 1.0
    softcap: float | None = None
    chunk_elements: int | None = None
    is_compiled: bool = False


def supervised_positions(labels: Tensor) -> Supervised:
    """Where a state predicts a supervised token, and which.

    Args:
        labels: (B, T) token ids, -100 where a token is not supervised.
    """
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
    positions = (following != IGNORED).nonzero().squeeze(-1)
    return Supervised(positions, following[positions])


def next_token_sum(
    hidden: Tensor,
    head_weight: Tensor,
    supervised: Supervised,
    *,
    head_bias: Tensor | None = None,
    form: LogitForm | None = None,
) -> Tensor:
    """Summed next-token cross-entropy that projects the supervised rows alone onto the vocabulary, a chunk at a time.

    Never are all logits in memory. Gradients are made in the forward, chunk by chunk, so there is no second derivative.

    Args:
        hidden: (B, T, D) states after the final norm; position t predicts token t + 1.
        head_weight: (V, D) the projection.
        supervised: what `supervised_positions` gives; may stay on the CPU.
        head_bias: (V,) or None.
        form: how logits are made; None takes the plain products.
    Returns: () nats, float32, summed over the supervised positions; 0 when there is none.
    """
    chosen = supervised.to(hidden.device)
    rows = hidden.flatten(0, 1).index_select(0, chosen.positions)  # (S, D)
    form = form or LogitForm()
    elements = form.chunk_elements
    if elements is None:
        elements = _CHUNK_ELEMENTS.get(rows.device.type, _DEFAULT_CHUNK_ELEMENTS)
        elements = max(elements, _LEAST_CHUNK_ROWS * len(head_weight))
    chunk_rows = max(1, elements // len(head_weight))
    loss: Tensor = _CrossEntropySum.apply(  # type: ignore[no-untyped-call]
        rows, head_weight, head_bias, chosen, form, chunk_rows
    )
    return loss


class _CrossEntropySum(torch.autograd.Function):
    """Loss and gradients of one projection; under autocast the products are in its dtype, the softmax is float32."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        chosen: Supervised,
        form: LogitForm,
        chunk_rows: int,
    ) -> Tensor:
        device = rows.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype
        with torch.autocast(device_type=device, enabled=False):
            gradients = _Gradients(ctx.needs_input_grad[:3], rows, weight, bias)
            cast_rows, cast_weight = rows.to(dtype), weight.to(dtype)
            total = torch.zeros((), dtype=torch.float32, device=rows.device)
            loss_and_slope = _compiled_loss_and_slope() if form.is_compiled else _loss_and_slope
            for start in range(0, len(rows), chunk_rows):
                chunk = slice(start, start + chunk_rows)
                logits = cast_rows[chunk] @ cast_weight.T  # (S', V)
                losses, slope = loss_and_slope(logits, bias, chosen.tokens[chunk], form.scale, form.softcap)
                if chosen.weights is not None:
                    losses, slope = losses * chosen.weights[chunk], slope.mul_(chosen.weights[chunk, None])
                total += losses.sum()
                gradients.add(chunk, slope.to(dtype), cast_rows[chunk], cast_weight)
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        (upstream,) = grad_outputs
        made = [None if part is None else part.mul_(upstream) for part in gradients.parts]
        return made[0], made[1], made[2], None, None, None


class _Gradients:
    """Gradients of the summed loss with respect to rows, weight and bias, None where none is asked for."""

    def __init__(self, needed: tuple[bool, ...], rows: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.parts = [
            torch.zeros_like(tensor) if need and tensor is not None else None
            for need, tensor in zip(needed, (rows, weight, bias), strict=True)
        ]

    def add(self, chunk: slice, slope: Tensor, rows: Tensor, weight: Tensor) -> None:
        """Add a chunk's share; `slope` (S', V) is the derivative by the bare product."""
        of_rows, of_weight, of_bias = self.parts
        if of_rows is not None:
            of_rows[chunk] = slope @ weight
        if of_weight is not None:
            if slope.dtype == of_weight.dtype:
                of_weight.addmm_(slope.T, rows)
            else:
                of_weight += slope.T @ rows
        if of_bias is not None:
            of_bias += slope.float().sum(dim=0)


def _loss_and_slope(
    logits: Tensor, bias: Tensor | None, targets: Tensor, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """(S',) losses of a chunk, and their derivative by `logits` (S', V), which may be overwritten."""
    final = logits.float()
    if bias is not None:
        final = final + bias.float()
    if scale != 1.0:
        final = final * scale
    capped = None
    if softcap is not None:
        capped = torch.tanh(final / softcap)
        final = capped * softcap
    log_probabilities = torch.log_softmax(final, dim=-1)
    chosen = targets.unsqueeze(-1)
    loss = -log_probabilities.gather(1, chosen).squeeze(1)
    slope = log_probabilities.exp_()
    slope.scatter_add_(1, chosen, torch.full_like(chosen, -1, dtype=slope.dtype))
    if capped is not None:
        slope.mul_(1 - capped.square())
    return loss, slope.mul_(scale) if scale != 1.0 else slope


@cache
def _compiled_loss_and_slope() -> Callable[..., tuple[Tensor, Tensor]]:
    """The same in one pass over the logits; compiled at its first call, once a process, for any number of rows."""
    return cast(Callable[..., tuple[Tensor, Tensor]], torch.compile(_loss_and_slope, dynamic=True))
