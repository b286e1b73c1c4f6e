"""Mixes: exact amounts and shares, every row used evenly, and nothing left to chance but the order."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afp_ray.config import DataConfig
from afp_ray.data.mixing import draw_instructions, draw_pairs, remove_heldout
from afp_ray.data.rows import Instruction, ParallelInstruction, TranslationPair
from afp_ray.errors import DataError
from afp_ray.languages import LANGUAGES

THREE = ("zh", "th", "sw")


def make_pairs(**counts: int) -> list[TranslationPair]:
    return [
        TranslationPair(f"word {n}", f"{language} {n}", "en", language, f"c:{n}")
        for language, count in counts.items()
        for n in range(count)
    ]


def make_rows(count: int, languages: Sequence[str] = ("en", *THREE)) -> list[ParallelInstruction]:
    return [
        ParallelInstruction(
            {code: f"ask {n} {code}" for code in languages},
            {code: f"say {n} {code}" for code in languages},
            f"i:{n}",
            "k",
        )
        for n in range(count)
    ]


def mix(
    num: int, *, num_rows: int = 50, languages: tuple[str, ...] = THREE, seed: int = 0, **fields: Any
) -> list[Instruction]:
    config = DataConfig(languages=languages, num_instructions=num, **fields)
    pairs = make_pairs(**dict.fromkeys(languages, 30))
    return draw_instructions(make_rows(num_rows, ("en", *languages)), pairs, config, seed=seed)


def cells(rows: Sequence[Instruction]) -> Counter[tuple[str, str]]:
    return Counter((row.prompt_language, row.response_language) for row in rows)


def test_pairs_are_spread_evenly_and_a_short_language_gives_all_it_has() -> None:
    drawn = draw_pairs(make_pairs(zh=100, sw=10, th=100), num_pairs=100, seed=3)
    assert Counter(pair.target_language for pair in drawn) == {"zh": 45, "sw": 10, "th": 45}
    assert len(set(drawn)) == 100


def test_a_smaller_draw_is_part_of_a_larger_one() -> None:
    pairs = make_pairs(zh=100, sw=10, th=100)
    small, large = (set(draw_pairs(pairs, num_pairs=count, seed=3)) for count in (40, 120))
    assert small < large
    assert small != set(draw_pairs(pairs, num_pairs=40, seed=4))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.data())
@settings(max_examples=60, deadline=None)
def test_every_amount_up_to_all_pairs_is_drawn_exactly(sizes: list[int], data: st.DataObject) -> None:
    counts = dict(zip(("zh", "th", "sw", "de", "fr"), sizes, strict=False))
    pairs = make_pairs(**counts)
    asked = data.draw(st.integers(0, len(pairs)))
    drawn = draw_pairs(pairs, num_pairs=asked, seed=1)
    assert len(drawn) == len(set(drawn)) == asked
    got = Counter(pair.target_language for pair in drawn)
    short = [language for language, size in counts.items() if got[language] < size]
    assert max(got.values(), default=0) - min((got[language] for language in short), default=10**6) <= 1


def test_more_pairs_than_there_are_name_the_counts() -> None:
    with pytest.raises(DataError, match=r"9 pairs asked, but there are 8 \(zh 5, th 3\)"):
        draw_pairs(make_pairs(zh=5, th=3), num_pairs=9, seed=0)


def test_a_bilingual_mix_has_a_uniform_prompt_language_and_crosses_as_asked() -> None:
    rows = mix(1000, languages=("zh",), cross_probability=0.3)
    assert cells(rows) == {("en", "en"): 350, ("zh", "zh"): 350, ("en", "zh"): 150, ("zh", "en"): 150}


def test_a_multilingual_mix_crosses_between_pivot_and_targets_alone() -> None:
    rows = mix(2400, cross_probability=0.5, direction_probability=0.25)
    same = {(code, code): 300 for code in ("en", *THREE)}
    towards = {(code, "en"): 100 for code in THREE}
    away = {("en", code): 300 for code in THREE}
    assert cells(rows) == same | towards | away


@given(
    num=st.integers(1, 400),
    cross=st.floats(0, 1),
    direction=st.floats(0, 1),
    share=st.floats(0, 1),
    bilingual=st.booleans(),
    seed=st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_amount_and_shares_are_exact_to_rounding(
    num: int, cross: float, direction: float, share: float, bilingual: bool, seed: int
) -> None:
    languages = ("zh",) if bilingual else THREE
    rows = mix(
        num,
        languages=languages,
        seed=seed,
        cross_probability=cross,
        direction_probability=direction,
        translation_share=share,
    )
    assert len(rows) == num
    tasks = [row for row in rows if row.content_id.startswith("c:")]
    others = [row for row in rows if row.content_id.startswith("i:")]
    assert abs(len(tasks) - num * share) <= 0.5 + 1e-9
    crossing = [row for row in others if row.prompt_language != row.response_language]
    assert abs(len(crossing) - len(others) * cross) <= 0.5 + 1e-9
    towards = [row for row in tasks if row.response_language == "en"]
    assert abs(len(towards) - len(tasks) * direction) <= 0.5 + 1e-9
    if not bilingual:
        reverse = [row for row in crossing if row.response_language == "en"]
        assert abs(len(reverse) - len(crossing) * direction) <= 0.5 + 1e-9
    used = Counter(row.content_id for row in others)
    if others:
        assert max(used.values()) - min(used[f"i:{n}"] for n in range(50)) <= 1


def test_every_row_is_used_equally_often_and_in_different_languages() -> None:
    rows = mix(150, num_rows=50, cross_probability=0.5)
    assert set(Counter(row.content_id for row in rows).values()) == {3}
    assert len(set(rows)) == 150


def test_prompt_and_response_belong_to_one_row_and_the_clause_names_the_answer_language() -> None:
    for row in mix(300):
        number = row.content_id.removeprefix("i:")
        answer = LANGUAGES[row.response_language].name
        assert row.prompt == f"ask {number} {row.prompt_language} Answer in {answer}:"
        assert row.response == f"say {number} {row.response_language}"


def test_translation_tasks_have_both_forms_and_directions_as_asked() -> None:
    rows = mix(400, translation_share=1.0, direction_probability=0.25)
    towards = [row for row in rows if row.response_language == "en"]
    assert len(towards) == 100
    assert sum(row.prompt.endswith(" =") for row in towards) == 50
    assert sum(row.prompt.endswith(" Translate into English:") for row in towards) == 50
    away = [row for row in rows if row.prompt_language == "en"]
    assert sum(row.prompt.endswith(" =") for row in away) == 150
    for row in rows:
        number = row.content_id.removeprefix("c:")
        sides = {"en": f"word {number}"} | {code: f"{code} {number}" for code in THREE}
        assert row.prompt.startswith(sides[row.prompt_language] + " ")
        assert row.response == sides[row.response_language]
    foreign = Counter(next(c for c in (row.prompt_language, row.response_language) if c != "en") for row in rows)
    assert max(foreign.values()) - min(foreign.values()) <= 1
    used = Counter((row.content_id, row.prompt_language, row.response_language) for row in rows)
    by_pair: Counter[frozenset[str]] = Counter()
    for (content, asked, answered), count in used.items():
        by_pair[frozenset((content, asked, answered))] += count
    assert set(by_pair.values()) <= {4, 5}
    assert len(by_pair) == 90


def test_the_seed_alone_decides() -> None:
    assert mix(97, translation_share=0.3) == mix(97, translation_share=0.3)
    assert mix(97, seed=1) != mix(97, seed=2)
    assert draw_pairs(make_pairs(zh=9), num_pairs=5, seed=1) == draw_pairs(make_pairs(zh=9), num_pairs=5, seed=1)


def test_nothing_to_draw_from_is_refused_with_a_remedy() -> None:
    config = DataConfig(languages=("zh",), num_instructions=4)
    assert draw_instructions([], [], config.model_copy(update={"num_instructions": 0}), seed=0) == []
    with pytest.raises(DataError, match="no source gave any") as caught:
        draw_instructions([], [], config, seed=0)
    assert "data.num_instructions: 0" in caught.value.fix
    with pytest.raises(DataError, match="no pairs to make them from") as caught:
        draw_instructions([], [], config.model_copy(update={"translation_share": 1.0}), seed=0)
    assert "data.num_pairs" in caught.value.fix
    with pytest.raises(DataError, match="i:0 is not there in zh") as caught:
        draw_instructions(make_rows(1, ("en", "th")), [], config, seed=0)
    assert caught.value.allowed == "en, th"


def test_heldout_sentences_leave_the_training_pairs() -> None:
    pairs = make_pairs(zh=5, th=5)
    heldout = [TranslationPair("word 1", "新", "en", "zh", "h"), TranslationPair("new", "th 2", "en", "th", "h")]
    kept, removed = remove_heldout(pairs, heldout)
    assert removed == 3  # "word 1" in both languages, "th 2" in one
    assert [pair for pair in pairs if pair not in kept] == [pairs[1], pairs[6], pairs[7]]
