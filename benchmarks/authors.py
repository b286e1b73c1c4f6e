"""The published computation of a training step, as the peer of ours; written anew from its description.

Both sides of a pair go through all layers, all hidden states are kept, the cosine is broadcast to (B, B, D);
instruction blocks are projected onto the vocabulary at every position; the head is a copy of the embedding that is
trained apart; AdamW visits one parameter at a time. Source: AFP, arXiv:2311.08089, and its published code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from afp_ray.config.loss import LossConfig
from afp_ray.data.batches import InstructionBatch, PairBatch, TrainBatch
from afp_ray.models.hidden_states import CausalModel, decoder_of


def untie(model: CausalModel) -> CausalModel:
    """Give the model a head of its own, equal to the embedding, as the published code trains it."""
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    return model


def losses(model: CausalModel, batch: TrainBatch, loss: LossConfig) -> tuple[Tensor, Tensor]:
    """Contrastive and instruction loss of a batch with right padding, one layer, one direction."""
    device = model.device
    assert isinstance(batch.pairs, PairBatch)
    contrastive = contrastive_loss(model, batch.pairs, loss)
    instruction = torch.zeros((), device=device)
    for rows in batch.instructions:
        assert isinstance(rows, InstructionBatch)
        logits = model(input_ids=rows.input_ids.to(device), attention_mask=rows.attention_mask.to(device)).logits
        labels = rows.labels.to(device)[:, 1:].reshape(-1)
        total = F.cross_entropy(logits[:, :-1].reshape(len(labels), -1), labels, reduction="sum")
        instruction = instruction + total / batch.num_supervised
    return contrastive, instruction


def contrastive_loss(model: CausalModel, pairs: PairBatch, loss: LossConfig) -> Tensor:
    """Whole forward over both sides, padded to the longest of either, then the broadcast cosine."""
    device = model.device
    longest = max(pairs.source_ids.shape[1], pairs.target_ids.shape[1])
    sides = [(pairs.source_ids, pairs.source_mask), (pairs.target_ids, pairs.target_mask)]
    padded = [[F.pad(tensor, (0, longest - tensor.shape[1])) for tensor in side] for side in sides]
    ids, mask = (torch.stack([side[index] for side in padded], dim=1).flatten(0, 1).to(device) for index in (0, 1))
    states = decoder_of(model)(
        input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False, return_dict=True
    ).hidden_states[loss.layer]
    pooled = torch.unflatten(pool(states, mask, loss.pooling), 0, (-1, 2))  # (B, 2, D)
    cosine = F.cosine_similarity(pooled[:, 0].unsqueeze(1), pooled[:, 1].unsqueeze(0), dim=-1)  # (B, B)
    return F.cross_entropy(cosine / loss.temperature, torch.arange(len(cosine), device=device))


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector a row; `max` takes padding for zeros, as the published code does."""
    real = mask.unsqueeze(-1)  # (B, T, 1)
    if pooling == "mean":
        return (states * real).sum(dim=1) / real.sum(dim=1)
    if pooling == "max":
        return (states * real).amax(dim=1)
    return states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]


def backward(
    model: CausalModel, batch: TrainBatch, loss: LossConfig, *, is_bf16: bool = False
) -> tuple[Tensor, Tensor]:
    """One backward of the weighted sum; in bf16 the losses as well are under autocast."""
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=is_bf16):
        contrastive, instruction = losses(model, batch, loss)
        total = loss.contrastive_weight * contrastive + loss.instruction_weight * instruction
    total.backward()  # type: ignore[no-untyped-call]
    return contrastive.detach(), instruction.detach()


def make_optimizer(model: CausalModel, learning_rate: float) -> torch.optim.AdamW:
    """AdamW as a loop over parameters."""
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, foreach=False, fused=False)
