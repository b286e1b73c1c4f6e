"""Packed batches: the tokens and labels of the padded ones without the padding, and nothing across samples."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_cases import Letters, make_instructions, make_pairs

from afp_ray.data.batches import Batching, InstructionBatch, PairBatch, TrainBatch, TrainingBatches
from afp_ray.data.packing import UNSUPERVISED, PackedBatch, fill_greedily, pack, unpack
from afp_ray.errors import ConfigError

samples = st.lists(
    st.lists(st.integers(0, 250_000), min_size=2, max_size=12).flatmap(
        lambda ids: st.tuples(st.just(ids), st.integers(1, len(ids) - 1))
    ),
    min_size=1,
    max_size=9,
)


def packed_of(rows: list[tuple[list[int], int]]) -> PackedBatch:
    return pack([np.array(ids, dtype=np.int32) for ids, _ in rows], [boundary for _, boundary in rows])


@given(samples)
def test_packing_and_unpacking_is_a_round_trip(rows: list[tuple[list[int], int]]) -> None:
    packed = packed_of(rows)
    assert packed.labels is not None
    assert [part.tolist() for part in unpack(packed.input_ids, packed.lengths)] == [ids for ids, _ in rows]
    expected = [[UNSUPERVISED] * boundary + ids[boundary:] for ids, boundary in rows]
    assert [part.tolist() for part in unpack(packed.labels, packed.lengths)] == expected
    assert [part.tolist() for part in unpack(packed.positions, packed.lengths)] == [
        list(range(len(ids))) for ids, _ in rows
    ]
    assert packed.num_tokens == sum(len(ids) for ids, _ in rows) == int(packed.lengths.sum())
    assert {tensor.dtype for tensor in (packed.input_ids, packed.positions, packed.lengths, packed.labels)} == {
        torch.int64
    }


@given(samples)
def test_shifting_a_packed_row_predicts_nothing_across_samples(rows: list[tuple[list[int], int]]) -> None:
    packed = packed_of(rows)
    assert packed.labels is not None
    predicted = [
        (int(packed.input_ids[0, place]), int(packed.labels[0, place + 1]))
        for place in range(packed.num_tokens - 1)
        if packed.labels[0, place + 1] != UNSUPERVISED
    ]
    alone = [(ids[place - 1], ids[place]) for ids, boundary in rows for place in range(boundary, len(ids))]
    assert predicted == alone
    assert (packed.labels[packed.positions == 0] == UNSUPERVISED).all()


def test_a_supervised_first_token_is_impossible() -> None:
    with pytest.raises(AssertionError, match="first token"):
        pack([np.array([1, 2], dtype=np.int32)], [0])


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 90), st.booleans())
def test_micro_batches_hold_every_sample_once_and_keep_to_their_budget(
    lengths: list[int], max_tokens: int, is_padded: bool
) -> None:
    parts = fill_greedily(lengths, max_tokens=max_tokens, is_padded=is_padded)
    assert [length for part in parts for length in lengths[part]] == lengths

    def size(held: list[int]) -> int:
        return max(held) * len(held) if is_padded else sum(held)

    for part, following in zip(parts, [*parts[1:], None], strict=False):
        held = lengths[part]
        assert len(held) == 1 or (held and size(held) <= max_tokens)
        if following is not None:  # greedy: the next sample had no room left
            assert size([*held, lengths[following.start]]) > max_tokens


def batches(*, rank: int = 0, world_size: int = 1, **options: Any) -> TrainingBatches:
    batching = Batching(**({"batch_size": 12, "pair_batch_size": 8, "max_length": 24, "seed": 1} | options))
    pairs, instructions = make_pairs(70), make_instructions(90)
    return TrainingBatches(pairs, instructions, Letters(), batching, rank=rank, world_size=world_size)


def padded_rows(ids: torch.Tensor, mask: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(row[seen.bool()].tolist()) for row, seen in zip(ids, mask, strict=True)]


def rows_of(batch: TrainBatch) -> tuple[list[Any], list[Any]]:
    """Pairs as (source, target), and instructions as (ids, labels), of either layout."""
    if isinstance(batch.pairs, PackedBatch):
        assert batch.pairs.labels is None
        sides = [tuple(part.tolist()) for part in unpack(batch.pairs.input_ids, batch.pairs.lengths)]
        pairs = list(zip(sides[: len(sides) // 2], sides[len(sides) // 2 :], strict=True))
    else:
        assert isinstance(batch.pairs, PairBatch)
        held = batch.pairs
        sources, targets = (
            padded_rows(held.source_ids, held.source_mask),
            padded_rows(held.target_ids, held.target_mask),
        )
        pairs = list(zip(sources, targets, strict=True))
    rows: list[Any] = []
    for part in batch.instructions:
        if isinstance(part, InstructionBatch):
            ids, labels = (padded_rows(values, part.attention_mask) for values in (part.input_ids, part.labels))
        else:
            assert part.labels is not None
            ids, labels = (
                [tuple(one.tolist()) for one in unpack(values, part.lengths)]
                for values in (part.input_ids, part.labels)
            )
        rows += zip(ids, labels, strict=True)
    return pairs, rows


@pytest.mark.parametrize("micro", [{}, {"micro_batch_size": 5}, {"max_tokens": 60}, {"max_tokens": 1}])
@pytest.mark.parametrize("world_size", [1, 2])
def test_packed_batches_hold_what_padded_ones_hold(world_size: int, micro: dict[str, int]) -> None:
    for rank in range(world_size):
        workers = {"rank": rank, "world_size": world_size}
        padded, packed = (batches(layout=layout, **workers, **micro) for layout in ("padded", "packed"))
        assert padded.dropped_tokens == packed.dropped_tokens
        tokens: list[Counter[int]] = [Counter(), Counter()]
        for step in (0, 3, 11):
            one, other = padded.batch(step), packed.batch(step)
            assert rows_of(one) == rows_of(other)  # ids, labels and order
            assert one.num_supervised == other.num_supervised
            for count, batch in zip(tokens, (one, other), strict=True):
                for ids, labels in rows_of(batch)[1]:
                    count.update(ids)
                    assert any(label != UNSUPERVISED for label in labels)
            supervised = sum(int((part.labels != UNSUPERVISED).sum()) for part in other.instructions)  # type: ignore[operator]
            assert world_size > 1 or supervised == other.num_supervised
            size = sum(part.input_ids.numel() for part in other.instructions)
            assert size == sum(len(ids) for ids, _ in rows_of(other)[1])  # no padding
        assert tokens[0] == tokens[1]


def test_a_budget_of_tokens_bounds_every_forward_pass() -> None:
    for layout in ("padded", "packed"):
        made = batches(layout=layout, max_tokens=60)
        sizes = [part.input_ids.numel() for step in range(9) for part in made.batch(step).instructions]
        assert max(sizes) <= 60
        assert len(sizes) > 9
        alone = batches(layout=layout, max_tokens=1).batch(0).instructions
        assert len(alone) == 12  # a sample over the budget is not lost but alone


@settings(max_examples=25)
@given(max_length=st.integers(14, 60), seed=st.integers(0, 5), step=st.integers(0, 40))
def test_no_layout_loses_a_token(max_length: int, seed: int, step: int) -> None:
    one, other = (batches(max_length=max_length, seed=seed, layout=layout) for layout in ("padded", "packed"))
    assert rows_of(one.batch(step)) == rows_of(other.batch(step))


def test_micro_batches_are_counted_in_one_unit() -> None:
    with pytest.raises(ConfigError, match="either 4 instructions or 60 tokens"):
        batches(micro_batch_size=4, max_tokens=60)
    with pytest.raises(ConfigError, match="micro-batch of 0 tokens is none"):
        batches(max_tokens=0)
