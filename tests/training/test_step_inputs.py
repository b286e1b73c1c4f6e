"""What fills up a bucket changes nothing: losses and gradients are those of the rows as they came."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, build_model
from torch import Tensor
from training_cases import RandomBatches

from afp_ray.config.loss import LossConfig
from afp_ray.data.batches import TrainBatch
from afp_ray.data.packing import PackedBatch, pack
from afp_ray.models.packed_attention import SamplesInBucket
from afp_ray.training.packed_rows import pack_instructions, pack_pairs
from afp_ray.training.schedule import terms_of_step
from afp_ray.training.step import TrainingStep
from afp_ray.training.step_inputs import (
    EXACT,
    Granularity,
    filled_up,
    instruction_inputs_of,
    on_device,
    pair_inputs,
    tensors_of,
)

CPU = torch.device("cpu")
SIZES = [Granularity(7, 5, 3), Granularity(64, 32, 16, longest=20), Granularity(1, 4, 64, longest=64)]
LOSSES: dict[str, dict[str, Any]] = {
    "one layer": {"layer": 1},
    "middle": {"layer": "middle", "pooling": "last", "symmetric": True},
    "all": {"layer": "all", "pooling": "max"},
    "queue": {"layer": 1, "negatives": "queue", "queue_size": 8},
    "alternate": {"layer": 2, "schedule": "alternate"},
}


def run(model: Any, loss: LossConfig, granularity: Granularity, *, in_bucket: bool) -> list[Tensor]:
    """Losses, then gradients, of three steps in a row without an update."""
    terms = TrainingStep(model, loss, device=CPU)
    values: list[Tensor] = []
    for number in range(3):
        batch = terms_of_step(RandomBatches().batch(number), loss, number)
        if batch.pairs is not None:
            pairs = pair_inputs(batch.pairs, granularity)
            if in_bucket:
                pairs = replace(pairs, row=pairs.row.in_bucket(64))
            terms.contrastive.wait_for_update([pairs])
            values.append(terms.contrastive.pass_backward(pairs))
        for inputs in instruction_inputs_of(batch, granularity):
            row = inputs.row.in_bucket(64) if in_bucket else inputs.row
            count = torch.tensor(inputs.num_supervised) if in_bucket else inputs.num_supervised
            values.append(terms.instruction_pass(replace(inputs, row=row, num_supervised=count)))
        terms.after_step()
    return [*values, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


def assert_equal(values: list[Tensor], expected: list[Tensor]) -> None:
    assert len(values) == len(expected)
    scale = max(float(value.abs().max()) for value in expected)
    for value, other in zip(values, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("family", FAMILIES)
def test_buckets_of_any_size_give_the_same_step(family: str) -> None:
    loss = LossConfig(layer=1)
    expected = run(build_model(family), loss, EXACT, in_bucket=False)
    for granularity in SIZES:
        for in_bucket in (False, True):
            assert_equal(run(build_model(family), loss, granularity, in_bucket=in_bucket), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_so_does_every_form_of_the_loss(name: str) -> None:
    loss = LossConfig(**LOSSES[name])
    expected = run(build_model("llama"), loss, EXACT, in_bucket=False)
    for in_bucket in (False, True):
        assert_equal(run(build_model("llama"), loss, SIZES[1], in_bucket=in_bucket), expected)


def test_the_passes_are_those_of_a_step() -> None:
    loss, batch = LossConfig(layer=1), RandomBatches().batch(0)
    whole, parts = build_model("llama"), build_model("llama")
    losses = TrainingStep(whole, loss, device=CPU).backward(batch)
    terms = TrainingStep(parts, loss, device=CPU)
    assert batch.pairs is not None
    assert losses.contrastive is not None
    assert losses.instruction is not None
    assert torch.equal(terms.contrastive.pass_backward(pair_inputs(batch.pairs)), losses.contrastive)
    shares = [terms.instruction_pass(inputs) for inputs in instruction_inputs_of(batch)]
    assert torch.equal(torch.stack(shares).sum(), losses.instruction)
    for one, other in zip(parts.parameters(), whole.parameters(), strict=True):
        assert one.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_nothing_is_added_where_nothing_is_asked_for() -> None:
    batch = RandomBatches().batch(0)
    assert batch.pairs is not None
    packed = pack_pairs(batch.pairs)
    inputs = pair_inputs(packed)
    assert inputs.row.input_ids is packed.input_ids
    assert inputs.pooled is packed.lengths
    for rows, made in zip(batch.instructions, instruction_inputs_of(batch), strict=True):
        assert torch.equal(made.row.input_ids, pack_instructions(rows).input_ids)
        assert made.supervised.weights is None


@pytest.mark.parametrize("lengths", [(5, 3), (16, 16), (1, 1, 1), (15,), (16,), (31, 2)])
@pytest.mark.parametrize("multiple", [1, 4, 16, 64])
@pytest.mark.parametrize("longest", [2, 3, 16, 40])
def test_a_row_is_filled_up_with_samples_of_their_own(lengths: tuple[int, ...], multiple: int, longest: int) -> None:
    row = pack([torch.arange(3, 3 + length).numpy() for length in lengths])
    filled = filled_up(row, multiple, longest=longest)
    assert isinstance(filled.lengths, Tensor)
    num_tokens, added = filled.input_ids.shape[1], filled.lengths[len(lengths) :]
    assert num_tokens % multiple == 0
    assert num_tokens == filled.positions.shape[1] == int(filled.lengths.sum())
    assert torch.equal(filled.input_ids[:, : row.num_tokens], row.input_ids)
    assert torch.equal(filled.positions[:, : row.num_tokens], row.positions)
    assert len(added) == 0 or 1 <= int(added.min()) <= int(added.max()) <= longest
    assert filled.positions.max() < max(*lengths, longest)


def test_rows_of_like_size_have_one_shape() -> None:
    def shape(num_tokens: int) -> tuple[int, ...]:
        filled = filled_up(row_of(num_tokens), 32, longest=8)
        assert isinstance(filled.lengths, Tensor)
        return (*filled.input_ids.shape, len(filled.lengths))

    # A few tokens before a multiple they would go on to the next one: the samples that fill up take a token each.
    assert {shape(num_tokens) for num_tokens in range(65, 92)} == {(1, 96, 14)}
    assert shape(96) == (1, 96, 9)


def row_of(num_tokens: int) -> PackedBatch:
    """Nine samples of together so many tokens."""
    sizes = [num_tokens // 9 + (index < num_tokens % 9) for index in range(9)]
    return pack([torch.arange(size).numpy() for size in sizes])


def test_a_bucket_knows_its_samples_by_their_bounds_alone() -> None:
    batch = RandomBatches().batch(0)
    assert batch.pairs is not None
    row = pair_inputs(batch.pairs, SIZES[1]).row.in_bucket(64)
    assert isinstance(row.lengths, SamplesInBucket)
    assert row.lengths.starts.dtype == torch.int32
    assert row.lengths.on_host().lengths == tuple(row.lengths.starts.diff().tolist())
    moved = on_device(row, CPU)
    assert [tensor.data_ptr() for tensor in tensors_of(moved)] == [tensor.data_ptr() for tensor in tensors_of(row)]


def test_a_batch_that_supervises_nothing_has_no_inputs() -> None:
    rows = replace(RandomBatches().batch(0).instructions[0])
    empty = replace(rows, labels=torch.full_like(rows.labels, -100))  # type: ignore[arg-type]
    assert list(instruction_inputs_of(TrainBatch(None, (empty,), 0))) == []
    assert list(instruction_inputs_of(TrainBatch(None, (empty,), 4))) == []
