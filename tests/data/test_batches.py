"""Token batches: what is supervised, what is cut, and the same global batches for any number of workers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from afp_ray.data.batches import Batching, TrainBatch, TrainingBatches
from afp_ray.data.rows import Instruction, TranslationPair
from afp_ray.data.tokens import JOINT, tokenize_instructions
from afp_ray.errors import ConfigError, DataError

TEXTS = (
    "where is the red boat? Answer in Thai:",
    "เรืออยู่ที่ท่าเรือ",
    "the boat is in the harbour",
    "船在哪里？",
    "mashua iko wapi",
)
TEMPLATES = {"bloom": "$A", "xglm": "</s> $A", "llama": "<s> $A", "t5": "$A </s>"}


def instruction(prompt: str, response: str) -> Instruction:
    return Instruction(prompt, response, "en", "th", "c")


def numbered_instructions(count: int) -> list[Instruction]:
    return [instruction(f"where is boat {n}? Answer in Thai:", "เรือ " * (n % 5 + 1) + str(n)) for n in range(count)]


def numbered_pairs(count: int) -> list[TranslationPair]:
    return [TranslationPair(f"boat {n} " * (n % 4 + 1), f"เรือ {n}", "en", "th", f"c:{n}") for n in range(count)]


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer: Any) -> Any:
    return make_tokenizer(TEXTS)


def batches(
    tokenizer: Any,
    num_pairs: int = 10,
    num_instructions: int = 10,
    *,
    rank: int = 0,
    world_size: int = 1,
    **options: Any,
) -> TrainingBatches:
    batching = Batching(**({"batch_size": 4, "max_length": 64, "seed": 0} | options))
    pairs, instructions = numbered_pairs(num_pairs), numbered_instructions(num_instructions)
    return TrainingBatches(pairs, instructions, tokenizer, batching, rank=rank, world_size=world_size)


def real_rows(ids: torch.Tensor, mask: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(row[seen.bool()].tolist()) for row, seen in zip(ids, mask, strict=True)]


def token_rows(batch: TrainBatch) -> list[tuple[Any, ...]]:
    """Unpadded ids of the batch: pairs side by side, and instructions with their labels."""
    assert batch.pairs is not None
    sources = real_rows(batch.pairs.source_ids, batch.pairs.source_mask)
    targets = real_rows(batch.pairs.target_ids, batch.pairs.target_mask)
    rows: list[tuple[Any, ...]] = []
    for part in batch.instructions:
        rows += zip(
            real_rows(part.input_ids, part.attention_mask), real_rows(part.labels, part.attention_mask), strict=True
        )
    return [*zip(sources, targets, strict=True), *rows] if len(rows) == len(sources) else []


@pytest.mark.parametrize("name", TEMPLATES)
def test_supervised_tokens_are_the_response_and_one_end(make_tokenizer: Any, name: str) -> None:
    tokenizer = make_tokenizer(TEXTS, template=TEMPLATES[name])
    rows = [instruction(TEXTS[0], TEXTS[1]), instruction(TEXTS[3], "OK"), instruction("a", TEXTS[2])]
    made = TrainingBatches([], rows, tokenizer, Batching(batch_size=3, max_length=200, seed=0))
    batch = made.batch(0)
    (part,) = batch.instructions
    responses = set()
    for ids, mask, labels in zip(part.input_ids, part.attention_mask, part.labels, strict=True):
        supervised = labels[labels != -100]
        assert torch.equal(supervised, ids[labels != -100])
        assert supervised.tolist().count(tokenizer.eos_token_id) == 1
        assert supervised[-1] == tokenizer.eos_token_id
        responses.add(tokenizer.decode(supervised[:-1]).removeprefix(JOINT))
        assert (labels[mask == 0] == -100).all()
    assert responses == {row.response for row in rows}
    assert batch.num_supervised == int((part.labels[:, 1:] != -100).sum())
    starts = {ids[0].item() for ids in part.input_ids}
    expected = {"llama": {tokenizer.convert_tokens_to_ids("<s>")}, "xglm": {tokenizer.eos_token_id}}
    if name in expected:
        assert starts == expected[name]


def test_a_token_that_merges_prompt_and_response_is_supervised() -> None:
    class Merging:
        """Splits into characters, but "b c" is one token: it reaches over the joint."""

        eos_token_id, pad_token_id = 0, None

        def __call__(self, text: list[str], **options: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[ord(letter) for letter in one.replace("b c", "#")] for one in text]}

    made = tokenize_instructions([instruction("ab", "cd"), instruction("b", "cd")], Merging(), max_length=9)
    assert [row.tolist() for row in (made.rows[0], made.rows[1])] == [[*b"a#d", 0], [*b"#d", 0]]
    assert made.boundaries == [1, 1]  # nothing predicts position 0, so it is not counted either
    assert [made.num_supervised(row) for row in (0, 1)] == [3, 2]


def test_padding_is_on_the_right_whatever_the_tokenizer_prefers(make_tokenizer: Any) -> None:
    left, right = (make_tokenizer(TEXTS, padding_side=side) for side in ("left", "right"))
    ours, theirs = batches(left).batch(2), batches(right).batch(2)
    assert token_rows(ours) == token_rows(theirs) != []
    assert ours.pairs is not None
    for mask in (ours.pairs.source_mask, ours.pairs.target_mask, ours.instructions[0].attention_mask):
        assert (mask.diff(dim=1) <= 0).all()  # once padding begins, it goes on
        assert mask.sum(dim=1).max() == mask.shape[1]
        assert (mask[:, 0] == 1).all()


def test_a_tokenizer_without_a_padding_token_pads_with_the_end(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(TEXTS, pad_token=None)
    assert tokenizer.pad_token_id is None
    batch = batches(tokenizer).batch(0)
    assert batch.pairs is not None
    padding = batch.pairs.source_ids[batch.pairs.source_mask == 0]
    assert len(padding)
    assert (padding == tokenizer.eos_token_id).all()


@pytest.mark.parametrize("micro", [None, 1, 2])
@pytest.mark.parametrize("world_size", [2, 4])
def test_workers_together_take_the_rows_of_one_worker_in_its_order(
    tokenizer: Any, world_size: int, micro: int | None
) -> None:
    alone = batches(tokenizer, batch_size=8)
    workers = [
        batches(tokenizer, batch_size=8, rank=rank, world_size=world_size, micro_batch_size=micro)
        for rank in range(world_size)
    ]
    for step in (0, 1, 5):
        whole = alone.batch(step)
        parts = [worker.batch(step) for worker in workers]
        assert {part.num_supervised for part in parts} == {whole.num_supervised}
        pairs, instructions = token_rows(whole)[:8], token_rows(whole)[8:]
        own = [token_rows(part) for part in parts]
        share = 8 // world_size
        assert [row for rows in own for row in rows[:share]] == pairs
        assert [row for rows in own for row in rows[share:]] == instructions
        assert len(pairs) == len(instructions) == 8
        expected = 1 if micro is None else share // micro
        assert all(len(part.instructions) == expected for part in parts)


def test_micro_batches_supervise_what_the_whole_batch_does(tokenizer: Any) -> None:
    whole, parted = batches(tokenizer).batch(3), batches(tokenizer, micro_batch_size=3).batch(3)
    assert [len(part.labels) for part in parted.instructions] == [3, 1]
    count = sum(int((part.labels != -100).sum()) for part in parted.instructions)
    assert count == parted.num_supervised == whole.num_supervised


def test_steps_come_at_random_access_and_by_seed(tokenizer: Any) -> None:
    one, other = batches(tokenizer), batches(tokenizer)
    last = token_rows(other.batch(9))
    assert [token_rows(one.batch(step)) for step in range(10)][9] == last
    assert token_rows(batches(tokenizer, seed=1).batch(0)) != token_rows(one.batch(0))


def test_cut_tokens_are_counted_exactly(tokenizer: Any) -> None:
    pairs, rows = numbered_pairs(10), numbered_instructions(10)
    longest = 24
    lengths = [len(tokenizer(text)["input_ids"]) for pair in pairs for text in (pair.source, pair.target)]
    expected = sum(max(0, length - longest) for length in lengths)
    refused = 0
    for row in rows:
        prompt = len(tokenizer(row.prompt)["input_ids"])
        whole = len(tokenizer(row.prompt + JOINT + row.response)["input_ids"]) + 1
        refused += prompt >= longest
        expected += whole if prompt >= longest else max(0, whole - longest)
    made = TrainingBatches(pairs, rows, tokenizer, Batching(batch_size=2, max_length=longest, seed=0))
    assert made.dropped_tokens == expected > 0
    assert (made.refused_instructions, made.num_instructions) == (refused, 10 - refused)
    assert TrainingBatches(pairs, rows, tokenizer, Batching(batch_size=2, max_length=999, seed=0)).dropped_tokens == 0
    for step in range(5):
        (part,) = made.batch(step).instructions
        assert part.input_ids.shape[1] <= longest
        assert ((part.labels[:, 1:] != -100).sum(dim=1) > 0).all()


def test_a_response_that_is_cut_away_whole_is_refused_not_trained_on(tokenizer: Any) -> None:
    long, short = instruction("boat " * 50, "yes"), instruction("boat", "yes it is")
    made = TrainingBatches([], [long, short], tokenizer, Batching(batch_size=2, max_length=16, seed=0))
    assert (made.num_instructions, made.refused_instructions) == (1, 1)
    with pytest.raises(DataError, match="no response of 1 instructions is left after cutting to 16 tokens") as caught:
        TrainingBatches([], [long], tokenizer, Batching(batch_size=2, max_length=16, seed=0))
    assert "max_length" in caught.value.fix


def test_rows_without_tokens_are_refused() -> None:
    class Letters:
        """Knows lower-case letters alone."""

        eos_token_id, pad_token_id = 1, 0

        def __call__(self, text: list[str], **options: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[ord(letter) for letter in one if letter.islower()] for one in text]}

    pairs = [TranslationPair("abc", "船", "en", "zh", "1"), TranslationPair("abc", "d", "en", "zh", "2")]
    rows = [instruction("abc", "船"), instruction("abc", "d")]
    made = TrainingBatches(pairs, rows, Letters(), Batching(batch_size=1, max_length=9, seed=0))
    assert (made.num_pairs, made.refused_pairs) == (1, 1)
    assert (made.num_instructions, made.refused_instructions) == (1, 1)
    with pytest.raises(DataError, match="none of 1 pairs has tokens on both sides"):
        TrainingBatches(pairs[:1], [], Letters(), Batching(batch_size=1, max_length=9, seed=0))


def test_either_kind_of_row_may_be_missing(tokenizer: Any) -> None:
    assert batches(tokenizer, num_pairs=0).batch(0).pairs is None
    batch = batches(tokenizer, num_instructions=0).batch(0)
    assert (batch.instructions, batch.num_supervised) == ((), 0)


def test_a_contrastive_batch_repeats_no_sentence(tokenizer: Any) -> None:
    pairs = [TranslationPair(f"boat {n % 20}", f"{'ab'[n // 20]}{n}", "en", "th", "c") for n in range(40)]
    made = TrainingBatches(pairs, [], tokenizer, Batching(batch_size=16, max_length=32, seed=0))
    for step in range(20):
        pair_batch = made.batch(step).pairs
        assert pair_batch is not None
        sources = real_rows(pair_batch.source_ids, pair_batch.source_mask)
        assert len(set(sources)) == 16


def test_shares_that_do_not_come_out_even_are_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="batch of 4 cannot be shared by 3 workers") as caught:
        batches(tokenizer, world_size=3)
    assert caught.value.where == "training.batch_size"
    assert "multiple of 3" in caught.value.fix
    with pytest.raises(ConfigError, match="micro-batch of 0"):
        batches(tokenizer, micro_batch_size=0)
    with pytest.raises(ValueError, match=r"rank 2 is not in 0\.\.1"):
        batches(tokenizer, rank=2, world_size=2)


def test_a_tokenizer_without_an_end_is_refused(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(TEXTS, eos_token=None)
    assert batches(tokenizer, num_instructions=0).batch(0).pairs is not None
    with pytest.raises(DataError, match="no end-of-sequence token") as caught:
        batches(tokenizer)
    assert "eos_token" in caught.value.fix


def test_tensors_are_int64_and_pairs_keep_their_special_tokens(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(TEXTS, template="<s> $A </s>")
    batch = batches(tokenizer).batch(0)
    assert batch.pairs is not None
    part = batch.instructions[0]
    for tensor in (batch.pairs.source_ids, batch.pairs.target_mask, part.input_ids, part.attention_mask, part.labels):
        assert tensor.dtype == torch.int64
    for row in real_rows(batch.pairs.target_ids, batch.pairs.target_mask):
        assert (row[0], row[-1]) == (0, 1)
        assert np.isin(row[1:-1], (0, 1)).sum() == 0


def test_pairs_may_have_a_batch_of_their_own(tokenizer: Any) -> None:
    batching = Batching(batch_size=4, max_length=64, seed=0, pair_batch_size=20)
    pairs, instructions = numbered_pairs(40), numbered_instructions(12)
    whole = TrainingBatches(pairs, instructions, tokenizer, batching).batch(0)
    assert whole.pairs is not None
    assert len(whole.pairs.source_ids) == 20
    assert sum(len(part.input_ids) for part in whole.instructions) == 4
    shares = [
        TrainingBatches(pairs, instructions, tokenizer, batching, rank=rank, world_size=2).batch(0) for rank in (0, 1)
    ]
    assert [len(share.pairs.source_ids) for share in shares if share.pairs] == [10, 10]
    with pytest.raises(ConfigError, match="cannot be shared by 2 workers") as refused:
        TrainingBatches(pairs, [], tokenizer, replace(batching, pair_batch_size=21), world_size=2)
    assert refused.value.where == "training.pair_batch_size"
