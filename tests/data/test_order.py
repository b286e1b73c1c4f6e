"""Order of rows: whole epochs, random access, and no repeated sentence within a batch where that can be avoided."""

import time
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afp_ray.data.order import BatchOrder


def stream(order: BatchOrder, num_steps: int) -> list[int]:
    return [row for step in range(num_steps) for row in order.rows(step)]


def num_clashes(keys: Sequence[Sequence[object]], rows: Sequence[int]) -> int:
    counts = Counter(key for row in rows for key in keys[row])
    return sum(count - 1 for count in counts.values())


@given(num_rows=st.integers(1, 40), batch_size=st.integers(1, 12), groups=st.integers(1, 40), seed=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_every_epoch_takes_every_row_once(num_rows: int, batch_size: int, groups: int, seed: int) -> None:
    keys = [(row % groups,) for row in range(num_rows)]
    order = BatchOrder(keys, batch_size=batch_size, seed=seed, name="x")
    rows = stream(order, -(-3 * num_rows // batch_size))
    for epoch in range(3):
        assert sorted(rows[epoch * num_rows : (epoch + 1) * num_rows]) == list(range(num_rows))


def test_any_step_can_be_asked_for_first() -> None:
    keys = [(row % 7,) for row in range(23)]
    straight = BatchOrder(keys, batch_size=5, seed=1, name="x")
    wanted = [straight.rows(step) for step in range(60)]
    for step in (59, 0, 31, 30, 7):
        assert BatchOrder(keys, batch_size=5, seed=1, name="x").rows(step) == wanted[step]


def test_epochs_and_seeds_are_shuffled_anew() -> None:
    order = BatchOrder([()] * 30, batch_size=30, seed=1, name="x")
    assert order.rows(0) != order.rows(1)
    assert order.rows(0) != BatchOrder([()] * 30, batch_size=30, seed=2, name="x").rows(0)
    assert order.rows(0) != BatchOrder([()] * 30, batch_size=30, seed=1, name="y").rows(0)


@pytest.mark.parametrize(
    ("num_rows", "groups", "batch_size"),
    [(60, 20, 10), (61, 20, 10), (300, 100, 32), (90, 45, 8), (24, 8, 8), (40, 10, 5)],
)
def test_no_batch_repeats_a_sentence(num_rows: int, groups: int, batch_size: int) -> None:
    keys = [(("source", row % groups), ("target", row)) for row in range(num_rows)]
    order = BatchOrder(keys, batch_size=batch_size, seed=0, name="x")
    for step in range(5 * num_rows // batch_size):
        assert num_clashes(keys, order.rows(step)) == 0, f"step {step}"


def test_both_sides_count() -> None:
    keys = [(("s", row // 2), ("t", row // 3)) for row in range(120)]
    order = BatchOrder(keys, batch_size=16, seed=0, name="x")
    assert sum(num_clashes(keys, order.rows(step)) for step in range(60)) == 0


def test_repeats_that_cannot_be_avoided_are_kept() -> None:
    keys = [("same",)] * 10
    order = BatchOrder(keys, batch_size=4, seed=0, name="x")
    assert sorted(stream(order, 5)) == sorted([*range(10)] * 2)
    few = BatchOrder([(row,) for row in range(3)], batch_size=8, seed=0, name="x")
    assert Counter(stream(few, 3)) == {0: 8, 1: 8, 2: 8}


def test_a_corpus_of_repeats_costs_no_more_than_its_size() -> None:
    keys = [("same", row % 3) for row in range(20_000)]
    order = BatchOrder(keys, batch_size=64, seed=0, name="x")
    started = time.process_time()
    order.rows(0)
    assert time.process_time() - started < 10  # about a second; trying every swap takes minutes
