"""The whole filter on made-up languages whose translation is known, and on small rows of every kind."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from afp_ray.config import DataConfig
from afp_ray.config.data import FilterLimits
from afp_ray.data.quality.best import keep_best, read_scores
from afp_ray.data.quality.filter import apply_filter
from afp_ray.data.quality.instructions import filter_instructions
from afp_ray.data.quality.lexicon import Lexicon
from afp_ray.data.quality.misalignment import cut
from afp_ray.data.quality.pairs import filter_pairs
from afp_ray.data.quality.similarity import MarginSimilarity
from afp_ray.data.rows import ParallelInstruction, TranslationPair
from afp_ray.errors import DataError

ONLY_LEARNED = FilterLimits(min_language_confidence=None, min_script_share=None, near_duplicate=None)
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu")


def word(number: int, order: int) -> str:
    """A word of a made-up language; `order` turns its syllables, so that two languages share none."""
    parts = (number % 15, number // 15 % 15, (number * 7 + order) % 15)
    return "".join(SYLLABLES[(part + order) % 15] for part in parts)


def made_up_pairs(count: int, seed: int = 0) -> list[TranslationPair]:
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        chosen = [min(int(rng.expovariate(1 / 60)), 224) for _ in range(rng.randint(8, 20))]
        source = " ".join(word(number, 0) for number in chosen) + "."
        target = " ".join(word(number, 5) for number in reversed(chosen)) + "."
        rows.append(TranslationPair(source, target, "en", "sw", f"made:{index}"))
    return rows


def with_target(pair: TranslationPair, target: str) -> TranslationPair:
    return TranslationPair(pair.source, target, pair.source_language, pair.target_language, pair.content_id)


def test_swapped_and_cut_off_targets_are_learned_from_the_rows_alone() -> None:
    pairs = made_up_pairs(800)
    noisy = list(pairs)
    for index in range(0, 40):
        noisy[index] = with_target(pairs[index], pairs[(index + 1) % 40].target)
    for index in range(40, 80):
        noisy[index] = with_target(pairs[index], cut(pairs[index].target, 0.4))
    kept, report = filter_pairs(noisy, ONLY_LEARNED)
    assert report.pairs["sw"].is_judged
    assert sum(index < 80 for index in kept.indices) <= 4
    assert sum(index >= 80 for index in kept.indices) >= 0.98 * 720
    assert [pair.content_id for pair in kept] == [f"made:{index}" for index in kept.indices]
    assert report.pairs["sw"].num_kept == len(kept) == 800 - sum(report.pairs["sw"].dropped.values())
    again, _ = filter_pairs(noisy, ONLY_LEARNED)
    assert again.indices.tolist() == kept.indices.tolist()


def test_few_rows_are_not_judged_and_the_report_says_so() -> None:
    pairs = made_up_pairs(50)
    moved = [with_target(pair, pairs[index - 1].target) for index, pair in enumerate(pairs)]
    kept, report = filter_pairs(moved, FilterLimits(min_language_confidence=None, max_length_ratio=None))
    assert len(kept) == 50
    assert not report.pairs["sw"].is_judged


def test_a_lexicon_foretells_translations_and_nothing_from_unknown_words() -> None:
    sources = [["one", "two"], ["one", "three"], ["two", "three"], ["four", "one"]] * 5
    targets = [[f"{name}-x" for name in row] for row in sources]
    lexicon = Lexicon(sources, targets)
    whole, tail = lexicon.gains(sources[:2], [["one-x", "two-x"], ["two-x", "four-x"]])
    assert whole[0] > 0.1 > 0 > whole[1]
    assert tail[0] > 0 > tail[1]
    assert lexicon.gains([["new"], ["one"], []], [["new-x"], [], ["one-x"]])[0][:2].tolist() == [0.0, 0.0]


def test_a_view_of_kept_rows_slices_and_counts() -> None:
    pairs = made_up_pairs(10)
    pairs[3] = with_target(pairs[3], pairs[3].source)
    kept, report = filter_pairs(pairs, FilterLimits(min_language_confidence=None))
    assert report.pairs["sw"].dropped == {"identical": 1}
    assert [pair.content_id for pair in kept[2:4]] == ["made:2", "made:4"]
    assert kept[-1] is pairs[9]
    assert report.pairs["sw"].examples["identical"] == [{"en": pairs[3].source, "sw": pairs[3].source}]


def test_nothing_left_of_a_language_is_an_error() -> None:
    pairs = [TranslationPair(f"Text {n}", f"text {n}!", "en", "de", str(n)) for n in range(4)]
    with pytest.raises(DataError, match="none of 4 pairs of de \\(4 identical\\)"):
        filter_pairs(pairs, FilterLimits())


def letters(texts: "list[str] | tuple[str, ...]") -> NDArray[np.float32]:
    """A state a text: how often each letter occurs, whatever its case."""
    rows = [[text.lower().count(chr(code)) for code in range(97, 123)] for text in texts]
    return np.array(rows, np.float32).reshape(-1, 26)


def test_margin_is_higher_for_aligned_rows() -> None:
    sources = [pair.source for pair in made_up_pairs(60)]
    targets = [text.upper() for text in sources]
    similarity = MarginSimilarity(letters, sources, targets)  # type: ignore[arg-type]
    aligned, moved = similarity(sources, targets), similarity(sources, targets[1:] + targets[:1])
    assert aligned.min() > 0
    assert (aligned > moved).mean() > 0.95
    new = similarity([sources[0]], ["entirely new words"])
    assert new[0] < aligned[0]


def test_similarity_is_evidence_of_its_own() -> None:
    """Sides without a word in common: only the states can tell."""
    rng = random.Random(1)
    sources = ["".join(rng.choices("abcdefghij", k=30)) for _ in range(300)]
    pairs = [TranslationPair(text, text.upper()[::-1], "en", "sw", str(n)) for n, text in enumerate(sources)]
    noisy = [with_target(pair, pairs[(n + 1) % 20].target) if n < 20 else pair for n, pair in enumerate(pairs)]
    kept, _ = filter_pairs(noisy, ONLY_LEARNED, embed=letters)  # type: ignore[arg-type]
    blind, _ = filter_pairs(noisy, ONLY_LEARNED)
    assert sum(index < 20 for index in kept.indices) <= 2
    assert sum(index < 20 for index in blind.indices) >= 15
    assert sum(index >= 20 for index in kept.indices) >= 0.95 * 280


ENGLISH = "Describe the river that flows through the old town and the people who live on its banks."
GERMAN = "Beschreibe den Fluss, der durch die Altstadt fließt, und die Menschen, die an seinen Ufern wohnen."
FRENCH = "Décris la rivière qui traverse la vieille ville et les gens qui vivent sur ses rives."
ANSWER = {
    "en": "The river is wide and slow, and most of the people who live beside it build small wooden boats.",
    "de": "Der Fluss ist breit und langsam, und die meisten Menschen, die an ihm wohnen, bauen kleine Holzboote.",
    "fr": "La rivière est large et lente, et la plupart des gens qui vivent à côté construisent de petits bateaux.",
}
PROMPT = {"en": ENGLISH, "de": GERMAN, "fr": FRENCH}


def instruction(name: str, prompts: dict[str, str], responses: dict[str, str]) -> ParallelInstruction:
    return ParallelInstruction(prompts, responses, f"test:{name}", "instruction")


def numbered(prompts: dict[str, str], number: int) -> dict[str, str]:
    return {language: f"{text} ({number})" for language, text in prompts.items()}


def test_a_row_goes_when_one_of_its_languages_fails_and_the_report_names_it() -> None:
    code = dict.fromkeys(
        ANSWER, "for row in rows:\n    print(row['a'] + 1, row['b'] * 2)  # one line for each of the rows"
    )
    asked = dict.fromkeys(ANSWER, ANSWER["fr"])
    rows = [
        instruction("good", numbered(PROMPT, 1), ANSWER),
        instruction("number", numbered(PROMPT, 2), dict.fromkeys(ANSWER, "308")),
        instruction("code", numbered(PROMPT, 3), code),
        instruction("asked", numbered(PROMPT, 4), asked),
        instruction("untranslated", numbered(PROMPT, 5), ANSWER | {"de": ANSWER["en"]}),
        instruction("prompt", numbered(PROMPT | {"fr": GERMAN}, 6), ANSWER),
        instruction("copied", numbered(PROMPT | {"de": ENGLISH}, 7), ANSWER),
        instruction("empty", numbered(PROMPT, 8), ANSWER | {"fr": " "}),
        instruction("again", numbered(PROMPT, 1), ANSWER),
    ]
    kept, report = filter_instructions(rows, FilterLimits(), pivot="en")
    assert [row.content_id for row in kept] == ["test:good", "test:number", "test:code", "test:asked"]
    assert report.instructions["de"].dropped == {"wrong_language_response": 1, "wrong_language_prompt": 1}
    assert report.instructions["fr"].dropped == {"wrong_language_prompt": 1, "empty": 1}
    assert report.instructions["en"].dropped == {"duplicate": 1}
    assert (report.num_instructions_read, report.num_instructions_kept) == (9, 4)


def test_no_filter_gives_the_very_objects_back() -> None:
    pairs, rows = made_up_pairs(3), [instruction("good", PROMPT, ANSWER)]
    filtered = apply_filter(pairs, rows, DataConfig())
    assert filtered.pairs is pairs
    assert filtered.instructions is rows
    assert filtered.report is None


def test_the_filter_and_the_best_are_one_step_with_a_report_of_plain_json() -> None:
    pairs = [
        TranslationPair(ENGLISH, GERMAN, "en", "de", "1"),
        TranslationPair(ANSWER["en"], FRENCH, "en", "de", "2"),
    ]
    rows = [instruction(str(n), numbered(PROMPT, n), ANSWER) for n in (1, 20, 300, 4000)]
    config = DataConfig(languages=("de",), filter="rules", keep_best=2)
    filtered = apply_filter(pairs, rows, config, rate=lambda found: [len(row.prompts["en"]) for row in found])
    assert [pair.content_id for pair in filtered.pairs] == ["1"]
    assert [row.content_id for row in filtered.instructions] == ["test:300", "test:4000"]
    assert filtered.report is not None
    shown = json.loads(json.dumps(filtered.report.to_json(), allow_nan=False))
    assert shown["pairs"]["de"]["dropped"] == {"wrong_language_target": 1}
    assert (shown["num_not_best"], shown["num_instructions_kept"]) == (2, 2)


def test_equal_scores_are_kept_by_their_id_in_the_order_of_the_rows() -> None:
    rows = [instruction(name, PROMPT, ANSWER) for name in ("d", "b", "c", "a")]
    kept = keep_best(rows, {"a": 1, "test:b": 1.0, "c": 2, "d": 1}, 3)
    assert [row.content_id for row in kept] == ["test:b", "test:c", "test:a"]
    assert keep_best(rows, [0.0] * 4, 9) == rows


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"id": "a", "score": NaN}', "nan is no finite number"),
        ('{"id": "a", "score": "5"}', "'5' is no finite number"),
        ('{"id": "a", "score": true}', "True is no finite number"),
        ('{"id": "a", "score": 1}\n{"id": "a", "score": 2}', "scores.jsonl:2.*'a' is given twice"),
        ('{"id": "a"}', "no `id` and `score`"),
        ("5 a", "not a JSON object"),
        ("\n", "the file is empty"),
    ],
)
def test_wrong_scores_name_their_line(tmp_path: Path, lines: str, message: str) -> None:
    file = tmp_path / "scores.jsonl"
    file.write_text(lines, "utf-8")
    with pytest.raises(DataError) as caught:
        read_scores(str(file))
    assert re.search(message, str(caught.value))


def test_a_row_without_a_score_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no score for instruction 'test:x'"):
        keep_best([instruction("x", PROMPT, ANSWER)], {"y": 1.0}, 1)
    with pytest.raises(DataError, match="does not exist"):
        read_scores(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="inf is no finite number"):
        keep_best([instruction("x", PROMPT, ANSWER)], [float("inf")], 1)


def test_questions_on_one_paragraph_with_other_answers_are_no_duplicates() -> None:
    paragraph = "The harbour was built in the ninth year of the war and burnt down twice before the canal was opened. "
    asked = {
        "When was it built?": "In the ninth year.",
        "How often did it burn?": "Twice.",
        "How often did it Burn?": "twice.",
    }
    rows = [
        ParallelInstruction({"en": paragraph + question}, {"en": answer}, f"made:{number}", "question")
        for number, (question, answer) in enumerate(asked.items())
    ]
    kept, report = filter_instructions(rows, FilterLimits(), pivot="en")
    assert [row.content_id for row in kept] == ["made:0", "made:1"]
    assert report.instructions["en"].dropped == {"near_duplicate": 1}
