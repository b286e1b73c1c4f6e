"""Losses and gradients of a step against the published computation: equal where they should be, and where not, how."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import build_model
from training_cases import RandomBatches

from afp_ray.config.loss import LossConfig
from afp_ray.data.batches import InstructionBatch, PairBatch, TrainBatch
from afp_ray.training.step import StepLosses, TrainingStep
from benchmarks import authors, equality

CASES = list(itertools.product(("xglm", "bloom"), ("last", "mean"), (0, 1, 3), (0.05, 0.5)))
"""Families of the paper, pooling, layer (the embedding, the first block, the last one after the norm), temperature."""


def both(batch: TrainBatch, loss: LossConfig, family: str = "xglm") -> tuple[tuple[Any, StepLosses], tuple[Any, Any]]:
    """Our model and theirs, each with the gradients and losses of one batch; theirs has a head of its own."""
    ours, theirs = build_model(family), authors.untie(build_model(family))
    step = TrainingStep(ours, loss, device=torch.device("cpu"))
    return (ours, step.backward(batch)), (theirs, authors.backward(theirs, batch, loss))


def case(pooling: str, layer: int, temperature: float) -> LossConfig:
    return LossConfig.model_validate({"pooling": pooling, "layer": layer, "temperature": temperature})


@pytest.mark.parametrize(("family", "pooling", "layer", "temperature"), CASES)
def test_a_step_is_theirs_to_a_millionth(family: str, pooling: str, layer: int, temperature: float) -> None:
    batch = RandomBatches().batch(0)
    (ours, losses), (theirs, expected) = both(batch, case(pooling, layer, temperature), family)
    assert equality.loss_error([losses.contrastive, losses.instruction], expected) < 1e-6
    assert equality.gradient_error(ours, theirs) < 1e-6


def test_there_are_24_such_cases() -> None:
    assert len(CASES) == 24


def test_the_mean_of_their_loss_both_ways_is_our_symmetric_one() -> None:
    batch = replace(RandomBatches().batch(0), instructions=())
    pairs = batch.pairs
    assert isinstance(pairs, PairBatch)
    back = PairBatch(pairs.target_ids, pairs.target_mask, pairs.source_ids, pairs.source_mask)
    loss = LossConfig(symmetric=True, instruction_weight=0)
    ours, theirs = build_model("xglm"), build_model("xglm")
    losses = TrainingStep(ours, loss, device=torch.device("cpu")).backward(batch)
    expected = (authors.contrastive_loss(theirs, pairs, loss) + authors.contrastive_loss(theirs, back, loss)) / 2
    expected.backward()  # type: ignore[no-untyped-call]
    assert equality.loss_error([losses.contrastive], [expected.detach()]) < 1e-6
    assert equality.gradient_error(ours, theirs) < 1e-6


def test_their_maximum_is_over_padding_too_and_depends_on_the_longest_row() -> None:
    states, mask = -1 - torch.rand(2, 3, 4), torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert authors.pool(states, mask, "max")[1].tolist() == [0.0] * 4  # of no token
    assert authors.pool(states[1:, :1], mask[1:, :1], "max").tolist() == states[1:, 0].tolist()
    (_, losses), (_, expected) = both(RandomBatches().batch(0), case("max", 1, 0.05))
    assert equality.loss_error([losses.contrastive], expected[:1]) > 1e-3


def test_a_repeated_sentence_is_their_negative_and_not_ours() -> None:
    pairs = RandomBatches().batch(0).pairs
    assert isinstance(pairs, PairBatch)
    twice = PairBatch(*(tensor[[0, 1, 2, 0]] for tensor in (pairs.source_ids, pairs.source_mask)),
                      *(tensor[[0, 1, 2, 0]] for tensor in (pairs.target_ids, pairs.target_mask)))  # fmt: skip
    batch = TrainBatch(twice, RandomBatches().batch(0).instructions, RandomBatches().batch(0).num_supervised)
    (_, losses), (_, expected) = both(batch, LossConfig(temperature=0.5))
    assert losses.contrastive is not None
    assert float(losses.contrastive) < float(expected[0]) - 0.05


def test_samples_of_one_of_their_blocks_see_each_other_and_ours_do_not() -> None:
    """Two samples in one block, as the published collator strings them, against the same two with a row each."""
    ids = torch.randint(4, 60, (2, 6), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, 0] = -100  # the first token of a sample follows nothing of its own
    rows = InstructionBatch(ids, torch.ones_like(ids), labels)
    block = InstructionBatch(ids.reshape(1, -1), torch.ones(1, 12, dtype=torch.long), labels.reshape(1, -1))
    loss = LossConfig(contrastive_weight=0)
    model, count = build_model("xglm"), int((labels != -100).sum())
    pairs = RandomBatches().batch(0).pairs
    whole = (TrainBatch(pairs, (part,), count) for part in (rows, block))
    apart, strung = (float(authors.losses(model, one, loss)[1].detach()) for one in whole)
    own = TrainingStep(model, loss, device=torch.device("cpu")).backward(TrainBatch(None, (rows,), count)).instruction
    assert own is not None
    assert float(own) == pytest.approx(apart, rel=1e-6)
    assert abs(strung - float(own)) > 1e-3
