"""Losses and gradients of one optimizer step: the contrastive term on pairs plus the instruction term on texts.

Every term is a share of the global batch's loss, so the gradients that accumulate here are exact whatever the number of
micro-batches, and sum to the whole over the workers.

Shapes: b pairs of this worker, B of all workers, T tokens, D width, S supervised positions.
"""

import contextlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afp_ray.config.loss import LossConfig
from afp_ray.data.batches import InstructionBatch, PairBatch, TrainBatch
from afp_ray.losses import contrastive_loss, next_token_sum
from afp_ray.models.head import VocabularyHead, vocabulary_head
from afp_ray.models.hidden_states import CausalModel, hidden_states_at, last_hidden_state
from afp_ray.models.pooling import pool
from afp_ray.training.gather import gather_rows, sum_gradients, sum_over_workers, world_size


@dataclass(frozen=True, slots=True)
class StepLosses:
    """What a step computed, this worker's share of it.

    Attributes:
        contrastive: () nats, unweighted; None when the term is off.
        instruction: () nats per supervised token, unweighted; None when the term is off.
        gradient_cosine: between the gradients of the two terms over all workers; None when it was not measured.
    """

    contrastive: Tensor | None
    instruction: Tensor | None
    gradient_cosine: float | None


class TrainingStep:
    """Accumulates the gradients of one batch into the model's parameters.

    Args:
        model: in train mode, on `device`.
        loss: weights and shape of the two terms; a weight of 0 leaves its term out altogether.
        device: where batches go.
        is_bf16: run the model under bf16 autocast; similarities and softmaxes stay float32.
    """

    def __init__(self, model: CausalModel, loss: LossConfig, *, device: torch.device, is_bf16: bool = False) -> None:
        self.model, self.loss, self.device, self.is_bf16 = model, loss, device, is_bf16
        self.head: VocabularyHead | None = vocabulary_head(model) if loss.instruction_weight > 0 else None

    def backward(self, batch: TrainBatch, *, measure_cosine: bool = False) -> StepLosses:
        """Add the gradients of this worker's share of the loss to `.grad`.

        Args:
            batch: this worker's rows; `num_supervised` counts the global batch.
            measure_cosine: also compare the gradients of the two terms; the update stays the same.
        Returns: the losses; sums over the workers give the values of the global batch.
        """
        contrastive = (
            self._contrastive_backward(batch.pairs)
            if self.loss.contrastive_weight > 0 and batch.pairs is not None
            else None
        )
        measures = measure_cosine and contrastive is not None and self.head is not None
        of_contrastive = _summed_gradients(self.model) if measures else []
        instruction = self._instruction_backward(batch) if self.head is not None else None
        cosine = _cosine_with_rest(of_contrastive, _summed_gradients(self.model)) if measures else None
        return StepLosses(contrastive, instruction, cosine)

    def _contrastive_backward(self, pairs: PairBatch) -> Tensor:
        value = self.contrastive_share(pairs)
        (self.loss.contrastive_weight * value).backward()  # type: ignore[no-untyped-call]
        return value.detach()

    def contrastive_share(self, pairs: PairBatch) -> Tensor:
        """Share of this worker in the mean contrastive loss over the B pairs of all workers.

        Args:
            pairs: this worker's b pairs.
        Returns: () nats, unweighted, with gradient.
        """
        source, target = self.embed(pairs)
        options = {"symmetric": self.loss.symmetric, "reduction": "sum"}
        if self.loss.negatives == "batch" or world_size() == 1:
            total = contrastive_loss(source, target, self.loss.temperature, **options)  # type: ignore[arg-type]
            count = sum_over_workers(torch.tensor(len(source), device=self.device))
            return total / count
        targets, first = gather_rows(target)
        sources = gather_rows(source)[0] if self.loss.symmetric else None
        total = contrastive_loss(
            source,
            target,
            self.loss.temperature,
            labels=torch.arange(first, first + len(source), device=self.device),
            source_candidates=sources,
            target_candidates=targets,
            **options,  # type: ignore[arg-type]
        )
        return total / len(targets)

    def embed(self, pairs: PairBatch) -> tuple[Tensor, Tensor]:
        """Pooled states of both sides, from one forward of shape (2b, T) that stops at the layer of the loss.

        Args:
            pairs: this worker's b pairs.
        Returns: (b, D) sources and (b, D) targets.
        """
        longest = max(pairs.source_ids.shape[1], pairs.target_ids.shape[1])
        ids = torch.cat([_widen(pairs.source_ids, longest), _widen(pairs.target_ids, longest)])
        mask = torch.cat([_widen(pairs.source_mask, longest), _widen(pairs.target_mask, longest)])
        ids, mask = ids.to(self.device, non_blocking=True), mask.to(self.device, non_blocking=True)
        with self._autocast():
            states = hidden_states_at(self.model, ids, mask, layer=self.loss.layer)
        source, target = pool(states, mask, self.loss.pooling).chunk(2)
        return source, target

    def _instruction_backward(self, batch: TrainBatch) -> Tensor:
        value = torch.zeros((), device=self.device)
        for rows in batch.instructions:
            if batch.num_supervised == 0 or not bool((rows.labels[:, 1:] >= 0).any()):
                continue
            share = self.instruction_share(rows, batch.num_supervised)
            (self.loss.instruction_weight * share).backward()  # type: ignore[no-untyped-call]
            value += share.detach()
        return value

    def instruction_share(self, rows: InstructionBatch, num_supervised: int) -> Tensor:
        """Summed cross-entropy of these rows over the supervised positions of the global batch.

        Args:
            rows: one micro-batch.
            num_supervised: positions of the global batch, > 0.
        Returns: () nats, unweighted, with gradient.
        """
        assert self.head is not None
        ids = rows.input_ids.to(self.device, non_blocking=True)
        mask = rows.attention_mask.to(self.device, non_blocking=True)
        with self._autocast():
            hidden = last_hidden_state(self.model, ids, mask)
            total = next_token_sum(
                hidden,
                self.head.weight,
                rows.labels,
                head_bias=self.head.bias,
                scale=self.head.scale,
                softcap=self.head.softcap,
            )
        return total / num_supervised

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        if not self.is_bf16:
            return contextlib.nullcontext()
        return torch.autocast(device_type=self.device.type, dtype=torch.bfloat16)


def _widen(rows: Tensor, longest: int) -> Tensor:
    """Pad (b, T) with zeros on the right, whichever side is padded already."""
    return F.pad(rows, (0, longest - rows.shape[1]))


def _summed_gradients(model: nn.Module) -> list[Tensor | None]:
    """Copies of all gradients, summed over the workers, without touching the gradients themselves."""
    own = [parameter.grad for parameter in model.parameters()]
    if world_size() == 1:
        return [None if gradient is None else gradient.clone() for gradient in own]
    copies = [nn.Parameter(torch.empty(0)) for _ in own]
    for copied, parameter in zip(copies, model.parameters(), strict=True):
        copied.data = torch.zeros_like(parameter)
        copied.grad = None if parameter.grad is None else parameter.grad.clone()
    sum_gradients(copies)
    return [copied.grad for copied in copies]


def _cosine_with_rest(part: list[Tensor | None], whole: list[Tensor | None]) -> float:
    """Cosine between `part` and `whole - part`, over all parameters; 0 when one of them is zero."""
    dot = part_square = rest_square = torch.zeros((), dtype=torch.float64)
    for of_part, of_whole in zip(part, whole, strict=True):
        if of_whole is None:
            continue
        first = torch.zeros_like(of_whole) if of_part is None else of_part
        second = of_whole - first
        dot = dot + (first * second).sum(dtype=torch.float64).cpu()
        part_square = part_square + first.square().sum(dtype=torch.float64).cpu()
        rest_square = rest_square + second.square().sum(dtype=torch.float64).cpu()
    norm = (part_square * rest_square).sqrt()
    return float(dot / norm) if norm > 0 else 0.0
