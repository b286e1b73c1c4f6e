"""Mixes at every size: exact counts, shares within one per cent, even use, and no word from the number of workers."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afp_ray.config import DataConfig
from afp_ray.data.batches import Batching, InstructionBatch, PairBatch, TrainingBatches
from afp_ray.data.drawing import fill_by_temperature
from afp_ray.data.mixing import draw_instructions, draw_pairs, remove_heldout
from afp_ray.data.rows import Instruction, ParallelInstruction, TranslationPair
from afp_ray.data.selection import Selection

TARGETS = ("zh", "th", "sw", "tr")
AMOUNTS = st.dictionaries(st.sampled_from(TARGETS), st.integers(0, 60), min_size=1)


def make_pairs(amounts: Mapping[str, int]) -> list[TranslationPair]:
    return [
        TranslationPair(f"word {n}", f"{language} {n}", "en", language, f"{language}:{n}")
        for language, count in amounts.items()
        for n in range(count)
    ]


def make_rows(count: int, languages: Sequence[str]) -> list[ParallelInstruction]:
    texts = [{code: f"{n} {code}" for code in ("en", *languages)} for n in range(count)]
    return [ParallelInstruction(text, text, f"i:{n}", "k") for n, text in enumerate(texts)]


def mix(
    num: int, *, num_rows: int, languages: Sequence[str] = TARGETS, seed: int = 0, **fields: Any
) -> list[Instruction]:
    config = DataConfig.model_validate({"languages": languages, "num_instructions": num, "num_pairs": 0, **fields})
    pairs = make_pairs(dict.fromkeys(languages, 30))
    return draw_instructions(make_rows(num_rows, languages), pairs, config, seed=seed)


def count_cells(rows: Iterable[Instruction]) -> Counter[tuple[str, str]]:
    """Rows by the languages of prompt and response."""
    return Counter((row.prompt_language, row.response_language) for row in rows)


class Table(Sequence[TranslationPair]):
    """Pairs that count how often a row is read, and are grouped without being read."""

    def __init__(self, pairs: Sequence[TranslationPair], reads: Counter[str]) -> None:
        self._pairs, self.reads = pairs, reads

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, place: Any) -> Any:
        pair = self._pairs[place]
        self.reads[pair.content_id] += 1
        return pair

    def __iter__(self) -> Iterator[TranslationPair]:
        return (self[place] for place in range(len(self)))

    def by_language(self) -> Mapping[str, Sequence[TranslationPair]]:
        codes = dict.fromkeys(pair.target_language for pair in self._pairs)
        return {
            code: Table([pair for pair in self._pairs if pair.target_language == code], self.reads) for code in codes
        }

    def without_sentences(self, sentences: Iterable[tuple[str, str]]) -> "tuple[Table, int]":
        wanted = set(sentences)
        kept = [
            pair
            for pair in self._pairs
            if not {(pair.source_language, pair.source), (pair.target_language, pair.target)} & wanted
        ]
        return Table(kept, self.reads), len(self._pairs) - len(kept)


@pytest.mark.parametrize("cross, direction", [(0.5, 0.5), (0.37, 0.81), (0.0, 0.5), (1.0, 0.123), (0.0333, 1.0)])
@pytest.mark.parametrize("languages", [("zh",), TARGETS])
def test_ten_thousand_rows_realise_the_asked_probabilities(
    cross: float, direction: float, languages: tuple[str, ...]
) -> None:
    rows = mix(10_000, num_rows=3000, languages=languages, cross_probability=cross, direction_probability=direction)
    found = count_cells(rows)
    crossing = {cell: count for cell, count in found.items() if cell[0] != cell[1]}
    assert len(rows) == 10_000
    assert abs(sum(crossing.values()) / 10_000 - cross) < 0.0001
    towards = sum(count for (_, response), count in crossing.items() if response == "en")
    if crossing:
        expected = 0.5 if len(languages) == 1 else direction
        assert abs(towards / sum(crossing.values()) - expected) < 0.01
    assert all("en" in cell for cell in crossing)
    same = [found[code, code] for code in ("en", *languages)]
    assert max(same) - min(same) <= 1
    used = Counter(row.content_id for row in rows)
    assert len(used) == 3000
    assert set(used.values()) == {3, 4}


@given(num=st.integers(1, 500), cross=st.floats(0, 1), direction=st.floats(0, 1), seed=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_crossing_between_any_languages_uses_each_ordered_pair_alike(
    num: int, cross: float, direction: float, seed: int
) -> None:
    fields: dict[str, Any] = {"cross_probability": cross, "crossing": "any"}
    rows = mix(num, num_rows=40, seed=seed, direction_probability=direction, **fields)
    found = count_cells(rows)
    crossing = [found.get(cell, 0) for cell in permutations(("en", *TARGETS), 2)]
    assert len(rows) == num
    assert sum(crossing) == int(num * cross + 0.5)
    assert max(crossing) - min(crossing) <= 1
    assert rows == mix(num, num_rows=40, seed=seed, direction_probability=0.5, **fields)


def test_with_one_target_language_any_two_are_the_pivot_and_that_one() -> None:
    assert mix(99, num_rows=20, languages=("zh",), crossing="any") == mix(99, num_rows=20, languages=("zh",))


@given(
    num=st.integers(1, 300),
    num_rows=st.integers(1, 60),
    folds=st.one_of(st.integers(2, 9), st.just("languages")),
    cross=st.floats(0, 1),
    crossing=st.sampled_from(["pivot", "any"]),
    num_languages=st.integers(1, 4),
)
@settings(max_examples=120, deadline=None)
def test_folds_use_few_instructions_each_in_as_many_cells_as_there_are(
    num: int, num_rows: int, folds: Any, cross: float, crossing: str, num_languages: int
) -> None:
    languages = TARGETS[:num_languages]
    fields: dict[str, Any] = {"cross_probability": cross, "crossing": crossing}
    rows = mix(num, num_rows=num_rows, languages=languages, instruction_folds=folds, **fields)
    num_folds = 1 + num_languages if folds == "languages" else folds
    used = Counter(row.content_id for row in rows)
    assert sum(used.values()) == num
    assert len(used) == min(num_rows, -(-num // num_folds))
    assert max(used.values()) - min(used.values()) <= 1
    repeated = Counter((row.content_id, row.prompt_language, row.response_language) for row in rows)
    by_cell = count_cells(rows)
    for (_, prompt, response), count in repeated.items():
        assert count <= -(-by_cell[prompt, response] // len(used))
    assert by_cell == count_cells(mix(num, num_rows=num_rows, languages=languages, **fields))


def test_folds_over_the_languages_without_crossing_hold_each_instruction_once_in_every_language() -> None:
    rows = mix(200, num_rows=100, cross_probability=0.0, instruction_folds="languages")
    held = {code: {row.content_id for row in rows if row.prompt_language == code} for code in ("en", *TARGETS)}
    assert all(len(contents) == 40 for contents in held.values())
    assert len(set.union(*held.values())) == 40


@given(amounts=AMOUNTS, temperature=st.floats(0.01, 50), data=st.data())
@settings(max_examples=150, deadline=None)
def test_tempered_shares_are_exact_and_none_falls_when_the_total_grows(
    amounts: dict[str, int], temperature: float, data: st.DataObject
) -> None:
    total = data.draw(st.integers(0, sum(amounts.values())))
    counts = fill_by_temperature(amounts, total, temperature)
    assert list(counts) == list(amounts)
    assert sum(counts.values()) == total
    assert all(0 <= counts[name] <= amounts[name] for name in amounts)
    if total < sum(amounts.values()):
        more = fill_by_temperature(amounts, total + 1, temperature)
        assert sorted(more[name] - counts[name] for name in amounts) == [*[0] * (len(amounts) - 1), 1]


@pytest.mark.parametrize("temperature", [1.0, 1.5, 3.33, 100.0])
def test_ten_thousand_pairs_follow_the_tempered_amounts(temperature: float) -> None:
    amounts = {"zh": 30_000, "th": 12_000, "sw": 8_000}
    drawn = draw_pairs(make_pairs(amounts), num_pairs=10_000, seed=0, temperature=temperature)
    weights = {code: count ** (1 / temperature) for code, count in amounts.items()}
    found = Counter(pair.target_language for pair in drawn)
    assert len(set(drawn)) == 10_000
    for code in amounts:
        assert abs(found[code] / 10_000 - weights[code] / sum(weights.values())) < 0.0002


def test_a_language_short_of_its_tempered_share_gives_all_and_the_others_keep_their_ratio() -> None:
    assert fill_by_temperature({"zh": 900, "th": 400, "sw": 1}, 251, 2.0) == {"zh": 150, "th": 100, "sw": 1}


@given(AMOUNTS, st.floats(0.2, 20), st.integers(0, 3), st.data())
@settings(max_examples=40, deadline=None)
def test_a_smaller_tempered_draw_is_part_of_a_larger_one(
    amounts: dict[str, int], temperature: float, seed: int, data: st.DataObject
) -> None:
    pairs = make_pairs(amounts)
    large = data.draw(st.integers(0, len(pairs)))
    small = data.draw(st.integers(0, large))
    draws = [set(draw_pairs(pairs, num_pairs=n, seed=seed, temperature=temperature)) for n in (small, large)]
    assert draws[0] <= draws[1]


def test_translation_tasks_follow_the_languages_of_the_drawn_pairs() -> None:
    pairs = make_pairs({"zh": 300, "th": 75, "sw": 25})
    config = DataConfig(
        languages=("zh", "th", "sw"), num_instructions=640, translation_share=1.0, language_temperature=1.0
    )
    tasks = draw_instructions([], pairs, config, seed=0)
    found = Counter(row.content_id.split(":")[0] for row in tasks)
    assert found == {"zh": 480, "th": 120, "sw": 40}
    assert set(Counter(row.content_id for row in tasks).values()) == {1, 2}


@pytest.mark.parametrize("temperature", [None, 2.0])
def test_drawing_from_a_table_reads_the_drawn_rows_alone(temperature: float | None) -> None:
    pairs = make_pairs({"zh": 90, "sw": 12, "th": 60})
    table = Table(pairs, Counter())
    drawn = draw_pairs(table, num_pairs=50, seed=7, temperature=temperature)
    assert drawn == draw_pairs(pairs, num_pairs=50, seed=7, temperature=temperature)
    assert table.reads == Counter(pair.content_id for pair in drawn)


@given(heldout=st.lists(st.integers(0, 39), max_size=12))
@settings(max_examples=30, deadline=None)
def test_what_is_left_beside_the_heldout_pairs_is_the_same_for_lists_and_tables(heldout: list[int]) -> None:
    pairs = make_pairs({"zh": 25, "sw": 15})
    taken = [pairs[place] for place in heldout]
    expected = [pair for pair in pairs if not any(pair.source == other.source for other in taken)]
    view, num_removed = remove_heldout(pairs, taken)
    assert list(view) == [view[place] for place in range(len(view))] == expected
    assert num_removed == len(pairs) - len(expected)
    table, num_from_table = remove_heldout(Table(pairs, Counter()), taken)
    assert (list(table), num_from_table) == (expected, num_removed)
    size = min(7, len(view))
    assert draw_pairs(view, num_pairs=size, seed=0) == draw_pairs(expected, num_pairs=size, seed=0)


def test_a_selection_counts_from_either_end_and_is_cut_without_a_copy() -> None:
    rows = list("abcdef")
    view = Selection(rows, [5, 3, 1, 0])
    assert (view[0], view[-1], len(view), "d" in view) == ("f", "a", 4, True)
    assert list(view[1:3]) == ["d", "b"]
    rows[5] = "z"
    assert view[0] == "z"
    with pytest.raises(IndexError):
        view[4]


@pytest.mark.parametrize("fields", [{}, {"crossing": "any", "instruction_folds": 3}])
def test_the_number_of_workers_changes_no_global_batch(make_tokenizer: Any, fields: dict[str, Any]) -> None:
    rows = mix(40, num_rows=20, **fields)
    pairs = draw_pairs(make_pairs({"zh": 20, "th": 9}), num_pairs=16, seed=0, temperature=2.0)
    tokenizer = make_tokenizer([row.prompt for row in rows])

    def joined(world_size: int, step: int) -> list[tuple[Any, ...]]:
        """Real tokens of the pairs, then of the instructions, in the order of the ranks."""
        sides, instructions = [], []
        for rank in range(world_size):
            batches = TrainingBatches(
                pairs,
                rows,
                tokenizer,
                Batching(batch_size=8, pair_batch_size=4, max_length=64, seed=3),
                rank=rank,
                world_size=world_size,
            )
            batch = batches.batch(step)
            assert isinstance(batch.pairs, PairBatch)
            sides += [
                (source[: int(seen.sum())].tolist(), target[: int(also_seen.sum())].tolist())
                for source, seen, target, also_seen in zip(
                    batch.pairs.source_ids,
                    batch.pairs.source_mask,
                    batch.pairs.target_ids,
                    batch.pairs.target_mask,
                    strict=True,
                )
            ]
            for part in batch.instructions:
                assert isinstance(part, InstructionBatch)
                instructions += [
                    (ids[: int(mask.sum())].tolist(), labels[: int(mask.sum())].tolist())
                    for ids, mask, labels in zip(part.input_ids, part.attention_mask, part.labels, strict=True)
                ]
        return [*sides, *instructions]

    for step in (0, 3, 11):
        alone = joined(1, step)
        assert len(alone) == 12
        assert joined(2, step) == joined(4, step) == alone
