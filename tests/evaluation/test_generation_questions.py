"""MGSM and XQuAD: original layouts, directions, demonstrations and refusals; questions about embedded paragraphs."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from afp_ray.config import EvaluationConfig, GenerationConfig, TrialConfig, trial_id
from afp_ray.data import embedded
from afp_ray.errors import DataError, TaskError
from afp_ray.evaluation.check import check_evaluation, evaluation_fingerprint
from afp_ray.evaluation.generation_tasks import GENERATION
from afp_ray.evaluation.objective import allowed_metrics
from afp_ray.evaluation.prompts import generation_cells, generation_languages, load_direction


def config(task: str, folder: Path | None = None, shots: Any = (0,), **fields: Any) -> EvaluationConfig:
    return EvaluationConfig(
        tasks=(task,),  # type: ignore[arg-type]
        data_dir=str(folder) if folder else None,
        shots=shots,
        representation=None,
        generation=GenerationConfig(**fields),
    )


def examples(direction: str, settings: EvaluationConfig, language: str = "de", split: Any = "test") -> Any:
    return next(generation_cells(direction, settings, language=language, pivot="en", split=split)).examples


def write_mgsm(folder: Path, *languages: str, number: int = 8) -> None:
    (folder / "mgsm").mkdir(exist_ok=True)
    for code in languages:
        lines = [f"{code} problem {line}\t{1000 * line:,}" for line in range(number)]
        (folder / "mgsm" / f"mgsm_{code}.tsv").write_text("\n".join(lines) + "\n", "utf-8")


EXEMPLARS = '''"""Prompts."""
import nothing_that_exists
MGSM_EXEMPLARS = {
    "de": {
        "1": {"q": "Frage: Mina hat 4 Äpfel "
                   "und kauft 3.", "a": "Schritt-für-Schritt-Antwort: 4 + 3 = 7. Die Antwort ist 7."},
        "2": {"q": "Frage: Adam hat 1.200 Samen.", "a": "Schritt-für-Schritt-Antwort: Es sind 1.200."},
    },
}
'''


def test_mgsm_rows_are_halved_and_are_the_same_in_every_language(tmp_path: Path) -> None:
    write_mgsm(tmp_path, "de", "th")
    parts = {code: load_direction("mgsm", config("mgsm", tmp_path), language=code, pivot="en") for code in ("de", "th")}
    splits = parts["de"].splits
    assert [len(splits[split]) for split in ("validation", "test")] == [4, 4]
    assert parts["de"].demonstrations == splits["validation"]
    for split in ("validation", "test"):
        assert [row["content_id"] for row in splits[split]] == [row["content_id"] for row in parts["th"].splits[split]]
    answers = {row["target"] for part in splits.values() for row in part}
    assert answers == {f"{1000 * line:,}" for line in range(8)}


def test_mgsm_exemplars_are_read_as_data_and_show_their_steps_where_asked(tmp_path: Path) -> None:
    write_mgsm(tmp_path, "de", "th")
    (tmp_path / "mgsm" / "exemplars.py").write_text(EXEMPLARS, "utf-8")
    first = examples("mgsm", config("mgsm", tmp_path, (2,)))[0]
    assert set(first.demonstrations) == {
        "Mina hat 4 Äpfel und kauft 3. Answer in German: 7",
        "Adam hat 1.200 Samen. Answer in German: 1200",
    }
    first = examples("mgsm", config("mgsm", tmp_path, (1,), math_steps=True, question_form="native"))[0]
    start = "Frage: Mina hat 4 Äpfel und kauft 3.\nSchritt-für-Schritt-Antwort:"
    other = "Frage: Adam hat 1.200 Samen.\nSchritt-für-Schritt-Antwort:"
    shown = (f"{start} 4 + 3 = 7. Die Antwort ist 7.", f"{other} Es sind 1.200.")
    assert first.demonstrations[0] in shown
    assert first.prompt.endswith("\nSchritt-für-Schritt-Antwort:")
    assert GENERATION["mgsm"].stop(GenerationConfig(math_steps=True)) == ("\n\n",)
    with pytest.raises(TaskError, match="no answers to show") as caught:
        examples("mgsm", config("mgsm", tmp_path, (1,)), language="th")
    assert caught.value.allowed == "0 shots"


def test_exemplars_count_in_the_fingerprint_and_broken_ones_are_refused(tmp_path: Path) -> None:
    write_mgsm(tmp_path, "de")

    def fingerprint() -> str:
        return evaluation_fingerprint(config("mgsm", tmp_path, (1,)), languages=("de",), pivot="de")

    before = fingerprint()
    file = tmp_path / "mgsm" / "exemplars.py"
    file.write_text(EXEMPLARS, "utf-8")
    with_exemplars = fingerprint()
    file.write_text(EXEMPLARS.replace("kauft 3", "kauft drei"), "utf-8")
    assert len({before, with_exemplars, fingerprint()}) == 3
    for broken, problem in (
        ("MGSM_EXEMPLARS = {", "cannot be read"),
        ("MGSM_EXEMPLARS = make()", "cannot be read"),
        ("OTHER = {}", "no MGSM_EXEMPLARS"),
        ("MGSM_EXEMPLARS = {'de': {'1': {'q': 'a'}}}", "no MGSM_EXEMPLARS"),
        ("MGSM_EXEMPLARS = {'de': {'1': {'q': 'a', 'a': 'none'}}}", "has no number"),
    ):
        file.write_text(broken, "utf-8")
        with pytest.raises(DataError, match=problem):
            fingerprint()


@pytest.mark.parametrize(
    "line, problem", [("a problem\tmany", "has no number"), ("a problem 3", "1 columns instead of 2")]
)
def test_mgsm_lines_that_are_none_are_refused(tmp_path: Path, line: str, problem: str) -> None:
    write_mgsm(tmp_path, "de")
    file = tmp_path / "mgsm" / "mgsm_de.tsv"
    file.write_text(file.read_text("utf-8") + line + "\n", "utf-8")
    with pytest.raises(DataError, match=problem) as caught:
        load_direction("mgsm", config("mgsm", tmp_path), language="de", pivot="en")
    assert caught.value.where.endswith("mgsm_de.tsv:9")


def test_mgsm_has_no_embedded_rows_and_says_so() -> None:
    with pytest.raises(TaskError, match="mgsm has no embedded rows") as caught:
        check_evaluation(config("mgsm"), languages=("en", "zh"), pivot="en")
    assert caught.value.where == "evaluation.data_dir"


def test_words_that_a_language_lacks_are_refused_with_the_other_form(tmp_path: Path) -> None:
    write_mgsm(tmp_path, "de", "tr")
    check_evaluation(config("mgsm", tmp_path), languages=("de", "tr"), pivot="de")
    with pytest.raises(TaskError, match="no words to ask in Turkish") as caught:
        check_evaluation(config("mgsm", tmp_path, question_form="native"), languages=("de", "tr"), pivot="de")
    assert "question_form: clause" in caught.value.fix


def write_xquad(folder: Path, *languages: str, number: int = 4) -> None:
    (folder / "xquad").mkdir(exist_ok=True)
    for code in languages:
        paragraphs = [
            {
                "context": f"{code} paragraph {place}.",
                "qas": [
                    {"id": f"{place}-{which}", "question": f"{code} question {place}-{which}?",
                     "answers": [{"text": f"{code} answer {place}-{which}", "answer_start": 0}]}
                    for which in range(2)
                ],
            }
            for place in range(number)
        ]  # fmt: skip
        text = json.dumps({"data": [{"paragraphs": paragraphs}]})
        (folder / "xquad" / f"xquad.{code}.json").write_text(text, "utf-8")


@pytest.mark.parametrize(
    "direction, asked, told",
    [("xquad_qa", "de", "de"), ("xquad_qa_from_pivot", "en", "de"), ("xquad_qa_to_pivot", "de", "en")],
)
def test_xquad_parts_are_in_the_languages_of_the_direction(
    tmp_path: Path, direction: str, asked: str, told: str
) -> None:
    write_xquad(tmp_path, "en", "de")
    rows = load_direction(direction, config("xquad_qa", tmp_path), language="de", pivot="en").splits
    assert [len(rows[split]) for split in ("validation", "test")] == [4, 4]
    assert {row["content_id"] for row in rows["test"]}.isdisjoint(row["content_id"] for row in rows["validation"])
    for row in rows["test"]:
        name = row["id"].removeprefix("xquad:")
        assert row["source"] == f"{asked} question {name}?"
        assert row["target"] == f"{told} answer {name}"
        assert row["context"] == f"{told} paragraph {name[0]}."
        assert row["content_id"] == f"xquad:{name[0]}"
    name = {"de": "German", "en": "English"}[told]
    prompt = examples(direction, config("xquad_qa", tmp_path))[0].prompt
    assert prompt.startswith(f"{told} paragraph") and prompt.endswith(f"? Answer in {name}:")
    demonstrations = examples(direction, config("xquad_qa", tmp_path, (1,)))[0].demonstrations
    assert demonstrations[0].count("paragraph") == 1 and f"Answer in {name}: {told} answer" in demonstrations[0]


def test_files_whose_questions_differ_are_refused(tmp_path: Path) -> None:
    write_xquad(tmp_path, "en")
    write_xquad(tmp_path, "de", number=3)
    check_evaluation(config("xquad_qa", tmp_path, directions=("xquad_qa",)), languages=("en", "de"), pivot="en")
    with pytest.raises(DataError, match="2 questions are in one file alone"):
        check_evaluation(config("xquad_qa", tmp_path), languages=("en", "de"), pivot="en")


def test_the_paragraph_counts_in_the_fingerprint(tmp_path: Path) -> None:
    write_xquad(tmp_path, "en")

    def fingerprint() -> str:
        return evaluation_fingerprint(config("xquad_qa", tmp_path), languages=("en",), pivot="en")

    before = fingerprint()
    file = tmp_path / "xquad" / "xquad.en.json"
    file.write_text(file.read_text("utf-8").replace("paragraph 3", "passage 3"), "utf-8")
    assert fingerprint() != before


def test_the_pivot_is_scored_within_its_own_language_alone() -> None:
    settings = config("xquad_qa")
    side, spoken = generation_languages(settings, languages=("en", "zh"), pivot="en")
    assert side == "en"
    assert spoken == {"xquad_qa": ["en", "zh"], "xquad_qa_from_pivot": ["zh"], "xquad_qa_to_pivot": ["zh"]}
    allowed = allowed_metrics(settings, languages=("en", "zh"), pivot="en")
    assert "xquad_qa/en" in allowed and "pivot_mean" in allowed and "xquad_qa_to_pivot/en" not in allowed
    _, alone = generation_languages(settings, languages=("en",), pivot="en")
    assert alone["xquad_qa"] == ["en"] and not alone["xquad_qa_to_pivot"]
    for refused in (config("xquad_qa", directions=("xquad_qa_to_pivot",)), config("translation")):
        with pytest.raises(TaskError, match="needs a language beside 'en'"):
            generation_languages(refused, languages=("en",), pivot="en")


def test_directions_belong_to_their_task() -> None:
    with pytest.raises(ValidationError, match="whose task is not among"):
        config("mgsm", directions=("xquad_qa_from_pivot",))
    assert config("xquad_qa", directions=("xquad_qa_from_pivot",)).directions == ("xquad_qa_from_pivot",)


def test_settings_of_questions_change_no_other_trial() -> None:
    def identity(task: str, form: Any) -> str:
        evaluation = EvaluationConfig(tasks=(task,), generation=GenerationConfig(question_form=form))  # type: ignore[arg-type]
        return trial_id(TrialConfig(evaluation=evaluation), {})

    assert identity("translation", "clause") == identity("translation", "native")
    assert identity("xquad_qa", "clause") != identity("xquad_qa", "native")


@pytest.mark.parametrize("split", embedded.PARTS)
def test_embedded_paragraphs_hold_their_answers(split: Any) -> None:
    rows = embedded.readings("zh", "en", split)
    assert len(rows) == 60 and len({content for *_, content in rows}) == 20
    for context, question, answer, _ in rows:
        told = answer.rstrip(".").split(" ")
        assert " ".join(told[1:] if len(told) > 1 else told) in context
        assert any("\u4e00" <= character <= "\u9fff" for character in question)
        assert context.count(".") == 3


@pytest.mark.shared_data
def test_the_original_question_files_pass_their_check(shared_data: Path) -> None:
    for form in ("clause", "native"):
        settings = config("xquad_qa", shared_data, (0, 2), question_form=form)
        check_evaluation(settings, languages=("en", "zh", "th", "ar"), pivot="en")
        settings = config("mgsm", shared_data, (0, 5), question_form=form)
        check_evaluation(settings, languages=("en", "zh", "th", "bn", "sw", "te"), pivot="en")
    rows = load_direction("xquad_qa_to_pivot", config("xquad_qa", shared_data), language="th", pivot="en").splits
    assert sum(map(len, rows.values())) == 1190
    rows = load_direction("mgsm", config("mgsm", shared_data), language="th", pivot="en").splits
    assert [len(rows[split]) for split in ("validation", "test")] == [125, 125]


@pytest.fixture
def shared_data() -> Path:
    import os

    folder = Path(os.environ.get("AFP_DATA_DIR") or Path(__file__).parents[2].parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data under {folder}; set AFP_DATA_DIR")
    return folder
