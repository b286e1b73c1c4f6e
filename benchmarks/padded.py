"""Rows with one sample each, padded to the longest, as trainers for instructions make and run them.

The model projects every position of a row, padding and prompt included, and its own loss leaves out what is not
supervised; they divide it by the supervised tokens of the batch. Pairs go through all layers and every hidden state is
kept, since a stock model has no other way to give the states of a layer. Weights stay tied.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
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


@torch.inference_mode()
def score(model: Any, requests: Sequence[Any], batch_size: int) -> list[float]:
    """Log-likelihoods in nats of continuations, as harnesses compute them: whole rows, the longest first.

    Every position of a batch is projected onto the vocabulary and normalised in float32.

    Args:
        requests: with `ids`, and `start` of what is scored.
    """
    values = [0.0] * len(requests)
    by_length = sorted(range(len(requests)), key=lambda index: -len(requests[index].ids))
    for first in range(0, len(by_length), batch_size):
        batch = by_length[first : first + batch_size]
        rows = [torch.tensor(requests[index].ids[:-1]) for index in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(model.device)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        logits = model(input_ids=ids, attention_mask=mask.to(model.device), use_cache=False).logits
        log_probabilities = F.log_softmax(logits.float(), dim=-1)
        for row, index in enumerate(batch):
            request = requests[index]
            scored = torch.tensor(request.ids[request.start :], device=model.device)
            states = log_probabilities[row, request.start - 1 : len(request.ids) - 1]
            values[index] = float(states.gather(1, scored[:, None]).sum())
    return values


@torch.inference_mode()
def generate(model: Any, tokenizer: Any, texts: Sequence[str], length: int, batch_size: int) -> list[str]:
    """Greedy texts by `generate` of the library, on batches padded on the left, in the order of the prompts."""
    tokenizer.padding_side = "left"
    written: list[str] = []
    for first in range(0, len(texts), batch_size):
        batch = tokenizer(list(texts[first : first + batch_size]), return_tensors="pt", padding=True)
        ids, mask = (batch[name].to(model.device) for name in ("input_ids", "attention_mask"))
        settings = {"max_new_tokens": length, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
        ended = model.generate(input_ids=ids, attention_mask=mask, eos_token_id=tokenizer.eos_token_id, **settings)
        written += tokenizer.batch_decode(ended[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in written]
