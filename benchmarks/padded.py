"""Rows with one sample each, padded to the longest, as trainers for instructions make and run them.

The model projects every position of a row, padding and prompt included, and its own loss leaves out what is not
supervised; they divide it by the supervised tokens of the batch. Pairs go through all layers and every hidden state is
kept, since a stock model has no other way to give the states of a layer. Weights stay tied.
"""

import torch
from torch import Tensor

from afp_ray.config.loss import LossConfig
from afp_ray.data.batches import InstructionBatch, PairBatch, TrainBatch
from afp_ray.models.hidden_states import CausalModel
from benchmarks import authors


def backward(model: CausalModel, batch: TrainBatch, loss: LossConfig) -> tuple[Tensor, Tensor]:
    """One backward of each term, unweighted losses returned."""
    assert isinstance(batch.pairs, PairBatch)
    contrastive = authors.contrastive_loss(model, batch.pairs, loss)
    (loss.contrastive_weight * contrastive).backward()  # type: ignore[no-untyped-call]
    instruction = torch.zeros(())
    for rows in batch.instructions:
        assert isinstance(rows, InstructionBatch)
        share = model(
            input_ids=rows.input_ids,
            attention_mask=rows.attention_mask,
            labels=rows.labels,
            use_cache=False,
            num_items_in_batch=batch.num_supervised,
        ).loss
        (loss.instruction_weight * share).backward()
        instruction = instruction + share.detach()
    return contrastive.detach(), instruction


def wasted(batch: TrainBatch) -> float:
    """Share of the places of the rows that are padding, in [0, 1]."""
    rows = [rows for rows in batch.instructions if isinstance(rows, InstructionBatch)]
    places = sum(part.attention_mask.numel() for part in rows)
    return 1 - sum(int(part.attention_mask.sum()) for part in rows) / places
