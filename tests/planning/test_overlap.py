"""Overlap of evaluation with training: planted text is found, in every script, and chance is not called a leak."""

from collections.abc import Iterable
from typing import Any

import pytest

from afp_ray.config import DataConfig, EvaluationConfig
from afp_ray.data import embedded
from afp_ray.data.sources import load_instructions, load_pairs
from afp_ray.planning import overlap
from afp_ray.planning.overlap import find_overlap, normalized
from afp_ray.records.plans import Overlap

LONG = "the old man who lives near the river sold his boat to a young fisherman last winter"
CHINESE = "住在河边的那位老人去年冬天把自己的小船卖给了一个从北方来的年轻渔夫和他的两个弟弟"


def row(number: int, premise: str, hypothesis: str) -> dict[str, Any]:
    return {
        "id": f"r{number}",
        "content_id": f"c{number}",
        "premise": premise,
        "hypothesis": hypothesis,
        "label": "neutral",
    }


def compare(
    monkeypatch: pytest.MonkeyPatch,
    rows: list[dict[str, Any]],
    training: Iterable[tuple[str, str]],
    language: str = "en",
) -> Overlap:
    """Overlap of these rows, as the validation split of XNLI."""

    class Rows:
        splits = {"validation": rows, "test": []}

    monkeypatch.setattr(overlap, "load_rows", lambda *_: Rows)
    report = find_overlap(EvaluationConfig(tasks=("xnli",)), iter(training), languages=[language], pivot="en")
    return report.cells[0]


def test_a_planted_sentence_is_found_whatever_its_case_and_punctuation(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        row(0, "The cat sleeps on the mat.", "An animal is at rest."),
        row(1, "Dogs bark at night.", "It is loud now."),
    ]
    found = compare(monkeypatch, rows, [("en", "the  CAT sleeps, on the mat!")])
    assert (found.rows, found.exact, found.contained, found.suspect) == (2, 1, 0, 0)
    assert found.example is not None
    assert (found.example.row, found.example.field, found.example.kind) == ("r0", "premise", "exact")
    assert found.example.training == "the  CAT sleeps, on the mat!"


def test_a_row_is_suspect_when_every_text_of_it_is_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(0, "The cat sleeps on the mat.", "It rests."), row(1, "The cat sleeps on the mat.", "It runs.")]
    found = compare(monkeypatch, rows, [("en", "The cat sleeps on the mat."), ("en", "It rests")])
    assert (found.exact, found.suspect) == (2, 1)


def test_a_short_text_alone_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compare(monkeypatch, [row(0, "Mina", "A sentence of its own.")], [("en", "Mina"), ("en", "mina!")])
    assert (found.exact, found.contained, found.suspect, found.example) == (0, 0, 0, None)


@pytest.mark.parametrize("words, contained", [(13, 1), (12, 0)])
def test_a_run_of_thirteen_words_counts(monkeypatch: pytest.MonkeyPatch, words: int, contained: int) -> None:
    part = " ".join(LONG.split()[:words])
    found = compare(monkeypatch, [row(0, LONG, "He has no boat.")], [("en", f"They say: {part}, so it goes.")])
    assert (found.exact, found.contained, found.suspect) == (0, contained, contained)


@pytest.mark.parametrize("characters, contained", [(30, 1), (29, 0)])
def test_thirty_characters_count_where_no_space_is_written(
    monkeypatch: pytest.MonkeyPatch, characters: int, contained: int
) -> None:
    found = compare(monkeypatch, [row(0, CHINESE, "他卖船")], [("zh", f"据说 {CHINESE[:characters]}，完")], "zh")
    assert (found.exact, found.contained) == (0, contained)


def test_every_row_with_the_text_is_marked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """XNLI repeats a premise three times; a long text that is there whole is exact, not contained as well."""
    rows = [row(number, LONG, f"Hypothesis number {number} of three.") for number in range(3)]
    found = compare(monkeypatch, rows, [("en", LONG)] * 5)
    assert (found.exact, found.contained, found.suspect) == (3, 0, 3)


def test_the_training_side_is_read_once_as_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    def stream() -> Iterable[tuple[str, str]]:
        for number in range(5000):
            yield "en", f"sentence number {number} has nothing to say"
        yield "en", "The cat sleeps on the mat."

    found = compare(monkeypatch, [row(0, "The cat sleeps on the mat.", "Something else entirely here.")], stream())
    assert found.exact == 1


@pytest.mark.parametrize(
    "text, language, words",
    [
        ("Ｔｈｅ “Cat”, sleeps—now.", "en", ("the", "cat", "sleeps", "now")),
        ("她回答了， 很多问题。", "zh", "她回答了很多问题"),
        ("Straße", "de", ("strasse",)),
        ("มาถึง ก่อน!", "th", "มาถึงก่อน"),
        ("…", "en", ()),
    ],
)
def test_what_is_compared_has_no_case_punctuation_or_width(text: str, language: str, words: Any) -> None:
    assert normalized(text, language)[0] == words


def test_no_embedded_evaluation_row_is_in_training_though_sentences_repeat() -> None:
    data = DataConfig(languages=("zh", "sw"))
    training = [
        side
        for pair in load_pairs(data)
        for side in ((pair.source_language, pair.source), (pair.target_language, pair.target))
    ]
    training += [item for row in load_instructions(data) for item in (*row.prompts.items(), *row.responses.items())]
    report = find_overlap(EvaluationConfig(), training, languages=("en", "zh", "sw"), pivot="en")
    assert report.training_texts == len(training)
    assert report.suspect == 0
    assert sum(cell.exact for cell in report.cells) > 0
    assert {cell.task for cell in report.cells if cell.exact} == {"xnli", "xcopa", "xstorycloze"}


def test_a_leak_of_embedded_rows_is_found() -> None:
    leaked = embedded.task_rows("xnli", "sw", "test")[:7]
    training = [("sw", str(item[name])) for item in leaked for name in ("premise", "hypothesis")]
    report = find_overlap(EvaluationConfig(tasks=("xnli",)), training, languages=("en", "sw"), pivot="en")
    by_cell = {(cell.language, cell.split): cell.suspect for cell in report.cells}
    assert by_cell["sw", "test"] >= 7
    assert by_cell["en", "test"] == 0


def test_both_sides_of_a_translation_row_are_looked_at() -> None:
    config = EvaluationConfig(tasks=("translation",), limit=5)
    first = find_overlap(config, [], languages=("en", "zh"), pivot="en")
    assert {cell.task for cell in first.cells} == {"translation", "translation_to_pivot"}
    from afp_ray.evaluation.prompts import load_direction

    rows = load_direction("translation", config, language="zh", pivot="en").splits["test"][:5]
    report = find_overlap(config, [("zh", str(item["target"])) for item in rows], languages=("en", "zh"), pivot="en")
    assert {cell.task: cell.exact for cell in report.cells if cell.split == "test"} == {
        "translation": 5,
        "translation_to_pivot": 5,
    }


THAI = "เป็นส่วนหนึ่งของความพยายามที่จะลดจำนวนผู้ป่วยในโรงพยาบาลของรัฐบาลทั่วประเทศภายในปีหน้า"


@pytest.mark.parametrize(
    ("language", "text", "shared", "contained"),
    [("th", THAI, 31, 0), ("th", THAI, 59, 0), ("th", THAI, 60, 1), ("zh", CHINESE, 29, 0), ("zh", CHINESE, 30, 1)],
)
def test_a_run_of_characters_counts_by_how_many_write_a_word(
    monkeypatch: pytest.MonkeyPatch, language: str, text: str, shared: int, contained: int
) -> None:
    whole = normalized(text, language)[0]
    assert isinstance(whole, str) and len(whole) > shared
    training = f"乙{whole[:shared]}甲"
    found = compare(monkeypatch, [row(0, text, "อื่น")], [(language, training)], language)
    assert (found.contained, found.suspect) == (contained, contained)
    assert (found.run_limit, found.run_unit) == (60 if language == "th" else 30, "characters")
    if contained:
        assert found.example is not None
        assert (found.example.run, found.example.run_length) == (whole[:shared], shared)


def test_the_shared_run_is_shown_whole_however_far_in_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    training = f"Yesterday I heard, in the market, that {LONG.upper()}!"
    found = compare(monkeypatch, [row(0, f"It is said: {LONG}.", "None")], [("en", training)])
    assert found.example is not None
    assert (found.example.run, found.example.run_length) == (LONG, 17)
    assert (found.run_limit, found.run_unit) == (13, "words")
