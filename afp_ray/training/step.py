"""Losses and gradients of one optimizer step: the contrastive term on pairs plus the instruction term on texts.

Every term is a share of the global batch's loss, so the gradients that accumulate here are exact whatever the number of
micro-batches, and sum to the whole over the workers.

Rows that come padded are packed first: the model computes real tokens alone, whatever the layout of the batch.

Shapes: b pairs of this worker, B of all workers, T tokens of a padded row, N tokens of a packed one, D width.
"""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from afp_ray.config.loss import LossConfig
from afp_ray.data.batches import TrainBatch
from afp_ray.losses import LogitForm, next_token_sum
from afp_ray.models.head import VocabularyHead, vocabulary_head
from afp_ray.models.hidden_states import CausalModel
from afp_ray.models.packing import packed_last_hidden_state, supports_packing
from afp_ray.training.contrastive import ContrastiveTerm
from afp_ray.training.gather import sum_gradients, sum_over_workers, world_size
from afp_ray.training.oom_retry import agree
from afp_ray.training.sharding import free_gathered
from afp_ray.training.step_inputs import InstructionInputs, instruction_inputs_of, on_device


@dataclass(frozen=True, slots=True)
class StepLosses:
    """What a step computed, this worker's share of it.

    Attributes:
        contrastive: () nats, unweighted; None when the term is off or the batch has no pairs.
        instruction: () nats per supervised token, unweighted; None when the term is off or the batch has no rows of it.
        gradient_cosine: between the gradients of the two terms over all workers; None when it was not measured.
        gradient_ratio: norm of the instruction term's gradient over that of the contrastive term's, weights included;
            None when it was not measured.
    """

    contrastive: Tensor | None
    instruction: Tensor | None
    gradient_cosine: float | None
    gradient_ratio: float | None = None


class TrainingStep:
    """Accumulates the gradients of one batch into the model's parameters.

    Args:
        model: in train mode, on `device`.
        loss: weights and shape of the two terms; a weight of 0 leaves its term out altogether.
        device: where batches go.
        is_bf16: run the model under bf16 autocast; similarities and softmaxes stay float32.
        pair_chunk_size: pairs of one forward pass, which changes memory alone; None takes all at once.
        is_compiled: compile the softmax over the vocabulary.

    Attributes:
        padded_because: why samples do not share a row of this model; None where they do.
        pair_chunk_size: as given; it may be changed between two steps.
        contrastive: the contrastive term.
    """

    def __init__(
        self,
        model: CausalModel,
        loss: LossConfig,
        *,
        device: torch.device,
        is_bf16: bool = False,
        pair_chunk_size: int | None = None,
        is_compiled: bool = False,
    ) -> None:
        self.model, self.loss, self.device, self.is_bf16 = model, loss, device, is_bf16
        self.pair_chunk_size = pair_chunk_size
        self.contrastive = ContrastiveTerm(model, loss, device=device, is_bf16=is_bf16)
        self.padded_because = supports_packing(model)
        self.head: VocabularyHead | None = vocabulary_head(model) if loss.instruction_weight > 0 else None
        self._form = LogitForm(is_compiled=is_compiled)
        if self.head is not None:
            self._form = replace(self._form, scale=self.head.scale, softcap=self.head.softcap)

    def backward(self, batch: TrainBatch, *, measure_cosine: bool = False) -> StepLosses:
        """Add the gradients of this worker's share of the loss to `.grad`.

        Args:
            batch: this worker's rows; `num_supervised` counts the global batch.
            measure_cosine: also compare the gradients of the two terms; the update stays the same.
        Returns: the losses; sums over the workers give the values of the global batch.
        """
        contrastive = (
            self.contrastive.backward(batch.pairs, chunk_size=self.pair_chunk_size)
            if self.loss.contrastive_weight > 0 and batch.pairs is not None
            else None
        )
        has_instructions = self.head is not None and bool(batch.instructions)
        measures = measure_cosine and contrastive is not None and has_instructions
        of_contrastive = _summed_gradients(self.model, is_copied=True) if measures else []
        instruction = self._instruction_backward(batch) if has_instructions else None
        if not measures:
            return StepLosses(contrastive, instruction, None)
        of_both = _summed_gradients(self.model, is_copied=False)
        comparison = _compare_with_rest(of_contrastive, of_both, is_shared_out=_is_shared_out(self.model))
        return StepLosses(contrastive, instruction, *comparison)

    def after_step(self) -> None:
        """Take in what the next step needs of this one; call it once the weights are updated, on all workers."""
        self.contrastive.after_step()

    def state_dict(self) -> dict[str, Any]:
        """What the next step needs beside the weights; empty where it needs nothing."""
        return self.contrastive.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.contrastive.load_state_dict(state)

    def _instruction_backward(self, batch: TrainBatch) -> Tensor:
        value = torch.zeros((), device=self.device)
        for inputs in instruction_inputs_of(batch):
            value += self.instruction_pass(inputs)
        return value

    def instruction_pass(self, inputs: InstructionInputs) -> Tensor:
        """Add the gradients of one micro-batch; a function of tensors alone.

        Returns: () nats, its share, unweighted, without gradient.
        """
        share = self.instruction_share(inputs)
        (self.loss.instruction_weight * share).backward()  # type: ignore[no-untyped-call]
        return share.detach()

    def instruction_share(self, inputs: InstructionInputs) -> Tensor:
        """Summed cross-entropy of one micro-batch over the supervised positions of the global batch.

        Returns: () nats, unweighted, with gradient.
        """
        assert self.head is not None
        inputs = on_device(inputs, self.device)
        row = inputs.row
        with self._autocast():
            total = next_token_sum(
                packed_last_hidden_state(self.model, row.input_ids, row.positions, row.lengths),
                self.head.weight,
                inputs.supervised,
                head_bias=self.head.bias,
                form=self._form,
            )
        return total / inputs.num_supervised

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        if not self.is_bf16:
            return contextlib.nullcontext()
        return torch.autocast(device_type=self.device.type, dtype=torch.bfloat16)


def _summed_gradients(model: nn.Module, *, is_copied: bool) -> list[Tensor | None]:
    """All gradients, summed over the workers, without touching the gradients themselves; shares where they are shared.

    With one worker they are copied only where asked: a copy takes the memory of the weights.
    """
    free_gathered(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    own = [value.to_local() if isinstance(value, DTensor) else value for value in (item.grad for item in trained)]
    if world_size() == 1 or _is_shared_out(model):
        return [gradient.clone() if is_copied and gradient is not None else gradient for gradient in own]
    copies = [nn.Parameter(torch.empty(0)) for _ in own]
    for copied, parameter in zip(copies, trained, strict=True):
        copied.data = torch.zeros_like(parameter)
        copied.grad = None if parameter.grad is None else parameter.grad.clone()
    agree(copies[0].device)
    sum_gradients(copies)
    return [copied.grad for copied in copies]


def _compare_with_rest(
    part: list[Tensor | None], whole: list[Tensor | None], *, is_shared_out: bool
) -> tuple[float, float | None]:
    """Cosine between `part` and `whole - part`, 0 when one is zero; and the norm of the rest over that of `part`.

    Both are over all parameters together, and over the workers where each has a share of them; the second is None when
    `part` is zero.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    for of_part, of_whole in zip(part, whole, strict=True):
        if of_whole is None:
            continue
        first = torch.zeros_like(of_whole) if of_part is None else of_part
        second = of_whole - first
        products = (first * second, first.square(), second.square())
        sums = sums.to(of_whole.device) + torch.stack([product.sum(dtype=torch.float64) for product in products])
    dot, of_first, of_second = (sum_over_workers(sums) if is_shared_out else sums).tolist()
    norm = math.sqrt(of_first * of_second)
    return dot / norm if norm > 0 else 0.0, math.sqrt(of_second / of_first) if of_first > 0 else None


def _is_shared_out(model: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())
