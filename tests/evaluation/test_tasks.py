"""Rows into questions: golden prompts, splits, refusals, demonstrations."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from afp_ray.config import CHOICE_TASKS, SPLITS, EvaluationConfig
from afp_ray.data import embedded
from afp_ray.errors import DataError, TaskError, UserError
from afp_ray.evaluation.check import check_evaluation, evaluation_fingerprint
from afp_ray.evaluation.questions import load_rows, render_cells
from afp_ray.evaluation.task import halves
from afp_ray.evaluation.tasks import TASKS
from afp_ray.languages import LANGUAGES

GOLDEN = Path(__file__).parent.parent / "golden"


def test_every_task_of_the_config_is_registered_under_its_name() -> None:
    assert tuple(TASKS) == CHOICE_TASKS.own
    assert all(task.name == name for name, task in TASKS.items())


def golden_cases() -> list[Any]:
    cases = []
    for name in CHOICE_TASKS:
        for case in json.loads((GOLDEN / f"{name}.json").read_text("utf-8")):
            cases.append(pytest.param(name, case, id=f"{name}-{case['language']}-{case['words']}"))
    return cases


@pytest.mark.parametrize("name, case", golden_cases())
def test_prompts_are_rendered_to_the_letter(name: str, case: dict[str, Any]) -> None:
    row = {"id": "0", "content_id": "0", **case["row"]}
    question = TASKS[name].example(row, LANGUAGES[case["language"]], LANGUAGES[case["words"]]).question
    assert [list(choice) for choice in question.choices] == case["choices"]
    assert question.gold == case["gold"]


@pytest.mark.parametrize("name", CHOICE_TASKS)
def test_a_label_outside_the_set_is_refused_with_the_row_and_the_set(name: str) -> None:
    case = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))[0]
    label = {"xstorycloze": "AnswerRightEnding", "xwinograd": "answer"}.get(name, "label")
    row = {"id": "0", "content_id": "0", "where": "rows.tsv:7", **case["row"], label: "maybe"}
    with pytest.raises(TaskError, match="'maybe'") as caught:
        TASKS[name].example(row, LANGUAGES["en"], LANGUAGES["en"])
    assert caught.value.where == "rows.tsv:7"
    assert caught.value.allowed
    assert caught.value.fix


@pytest.mark.parametrize("name", CHOICE_TASKS)
def test_a_row_that_lacks_a_field_is_refused(name: str) -> None:
    case = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))[0]
    field = next(iter(case["row"]))
    row = {"id": "9", "content_id": "0", **{key: value for key, value in case["row"].items() if key != field}}
    with pytest.raises(TaskError, match=f"lacks {field}") as caught:
        TASKS[name].example(row, LANGUAGES["en"], LANGUAGES["en"])
    assert "row 9" in caught.value.where


@pytest.mark.parametrize("sentence", ["no gap here.", "_ and _ left.", "He saw _"])
def test_a_winograd_sentence_has_one_gap_with_text_after_it(sentence: str) -> None:
    row = {"id": "0", "content_id": "0", "sentence": sentence, "option1": "A", "option2": "B", "answer": "1"}
    with pytest.raises(DataError, match="gap"):
        TASKS["xwinograd"].example(row, LANGUAGES["en"], LANGUAGES["en"])


def test_halves_keep_contents_together_and_every_row_once() -> None:
    rows = [{"id": str(i), "content_id": str(i // 3)} for i in range(99)]
    parts = halves(rows)
    assert sorted((row["id"] for split in SPLITS for row in parts[split]), key=int) == [str(i) for i in range(99)]
    contents = [{row["content_id"] for row in parts[split]} for split in SPLITS]
    assert not contents[0] & contents[1]
    assert (len(contents[0]), len(contents[1])) == (17, 16)
    assert [row["id"] for row in halves(rows[::-1])["test"]] == [row["id"] for row in parts["test"]][::-1]


# Files of the original layout, written by hand.
def write_xnli(folder: Path, language: str = "en", *, label: str = "neutral", name: str = "dev") -> Path:
    path = folder / "xnli" / f"{name}-{language}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = ("entailment", label, "contradiction")
    lines = [f"Premise {i // 3}.\tHypothesis {i}.\t{labels[i % 3]}" for i in range(24)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def write_pawsx(folder: Path, part: str, *, language: str = "en", extra: str = "") -> None:
    path = folder / "pawsx" / language / f"{part}_2k.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{i}\tFirst {part} {i} .\tSecond {i} .\t{i % 2}" for i in range(8)]
    path.write_bytes(("id\tsentence1\tsentence2\tlabel\r\n" + "\r\n".join(lines) + "\r\n" + extra).encode())


def config(folder: Path, *tasks: str, **fields: Any) -> EvaluationConfig:
    return EvaluationConfig.model_validate({"tasks": tasks, "data_dir": str(folder), "representation": None, **fields})


def test_a_label_in_a_file_is_refused_by_the_check_with_file_and_line(tmp_path: Path) -> None:
    path = write_xnli(tmp_path, label="perhaps")
    with pytest.raises(TaskError) as caught:
        check_evaluation(config(tmp_path, "xnli"), languages=("en",), pivot="en")
    assert re.fullmatch(re.escape(str(path)) + r":\d+", caught.value.where)
    assert "'perhaps'" in caught.value.problem
    assert caught.value.allowed == "entailment, neutral, contradiction"


def test_a_row_with_too_few_columns_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path = write_xnli(tmp_path)
    path.write_text(path.read_text() + "only\ttwo\n")
    with pytest.raises(DataError, match="2 columns instead of 3") as caught:
        check_evaluation(config(tmp_path, "xnli"), languages=("en",), pivot="en")
    assert caught.value.where == f"{path}:25"


def test_a_header_without_its_columns_is_refused(tmp_path: Path) -> None:
    write_pawsx(tmp_path, "dev")
    path = tmp_path / "pawsx" / "en" / "dev_2k.tsv"
    path.write_text(path.read_text().replace("sentence2\t", "second\t", 1))
    with pytest.raises(DataError, match="lacks sentence2"):
        check_evaluation(config(tmp_path, "pawsx"), languages=("en",), pivot="en")


def test_a_language_without_rows_is_refused_with_the_languages_that_have_some(tmp_path: Path) -> None:
    write_xnli(tmp_path, "en")
    write_xnli(tmp_path, "th")
    with pytest.raises(TaskError, match="no rows in 'sw'") as caught:
        check_evaluation(config(tmp_path, "xnli"), languages=("en", "sw"), pivot="en")
    assert caught.value.allowed == "languages with files: en, th"
    assert "xnli/dev-<language>.tsv" in caught.value.fix


def test_a_language_without_embedded_rows_is_refused() -> None:
    with pytest.raises(TaskError, match="'ta'"):
        check_evaluation(EvaluationConfig(tasks=("xcopa",)), languages=("ta",), pivot="en")


def test_a_language_without_a_template_word_is_refused_unless_the_pivot_lends_it(tmp_path: Path) -> None:
    write_xnli(tmp_path, "qu")
    with pytest.raises(TaskError, match="Quechua") as caught:
        check_evaluation(config(tmp_path, "xnli"), languages=("qu",), pivot="en")
    assert "prompt_language: pivot" in caught.value.fix
    check_evaluation(config(tmp_path, "xnli", prompt_language="pivot"), languages=("qu",), pivot="en")


def test_a_data_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        check_evaluation(config(tmp_path / "absent", "xnli"), languages=("en",), pivot="en")


def test_rows_without_a_sentence_are_skipped_and_counted(tmp_path: Path) -> None:
    write_pawsx(tmp_path, "dev", extra="90\tNS\tSecond .\t0\r\n91\t\tSecond .\t1\r\n")
    write_pawsx(tmp_path, "test")
    rows = load_rows(TASKS["pawsx"], str(tmp_path), "en")
    assert rows.num_skipped == 2
    assert [len(rows.splits[split]) for split in SPLITS] == [8, 8]
    assert rows.splits["test"][3]["label"] == "1"  # no carriage return is left in the last column


def test_the_original_parts_are_the_splits_where_both_are_there(tmp_path: Path) -> None:
    write_xnli(tmp_path)
    alone = load_rows(TASKS["xnli"], str(tmp_path), "en").splits
    assert [len(alone[split]) for split in SPLITS] == [12, 12]
    write_xnli(tmp_path, name="test")
    both = load_rows(TASKS["xnli"], str(tmp_path), "en").splits
    assert [len(both[split]) for split in SPLITS] == [24, 24]
    assert not {row["content_id"] for row in both["validation"]} & {row["content_id"] for row in both["test"]}


@pytest.mark.parametrize("split", SPLITS)
def test_no_demonstration_shares_the_content_of_the_question(tmp_path: Path, split: Any) -> None:
    write_xnli(tmp_path)
    settings = config(tmp_path, "xnli", shots=(2,), demo_seeds=(0, 1))
    for cell in render_cells("xnli", settings, language="en", pivot="en", split=split):
        for example in cell.examples:
            *demonstrations, question = example.question.choices[0][0].split("\n\n")
            premise = question.split(",")[0]
            assert len(demonstrations) == 2
            assert all(not text.startswith(premise) for text in demonstrations)


def test_demonstrations_are_right_answers_and_the_same_for_every_test_row(tmp_path: Path) -> None:
    write_xnli(tmp_path)
    right = {"entailment": "Yes", "neutral": "Also", "contradiction": "No"}
    labels = {
        row["hypothesis"]: row["label"]
        for part in load_rows(TASKS["xnli"], str(tmp_path), "en").splits.values()
        for row in part
    }
    (cell,) = render_cells("xnli", config(tmp_path, "xnli", shots=(3,)), language="en", pivot="en", split="test")
    prefixes = {example.question.choices[0][0].rsplit("\n\n", 1)[0] for example in cell.examples}
    assert len(prefixes) == 1
    for text in prefixes.pop().split("\n\n"):
        _, word, hypothesis = re.fullmatch(r"(.*), right\? (\w+), (.*)", text).groups()  # type: ignore[union-attr]
        assert word == right[labels[hypothesis]]


def test_languages_share_their_demonstrations_and_seeds_change_them(tmp_path: Path) -> None:
    for language in ("en", "th"):
        write_xnli(tmp_path, language)
    settings = config(tmp_path, "xnli", shots=(0, 2), demo_seeds=(0, 1, 2))
    cells = {}
    for language in ("en", "th"):
        for cell in render_cells("xnli", settings, language=language, pivot="en", split="test"):
            text = cell.examples[0].question.choices[0][0]
            cells[language, cell.shots, cell.demo_seed] = re.findall(r"Hypothesis (\d+)", text)
    assert len(cells) == 8  # one cell at 0 shots, three at 2, in two languages
    assert all(cells["en", 2, seed] == cells["th", 2, seed] for seed in range(3))
    assert len({tuple(cells["en", 2, seed]) for seed in range(3)}) > 1


def test_pivot_prompts_take_words_and_demonstrations_from_the_pivot(tmp_path: Path) -> None:
    write_xnli(tmp_path, "en")
    path = write_xnli(tmp_path, "th")
    path.write_text(path.read_text().replace("Premise", "ประโยค"), "utf-8")
    settings = config(tmp_path, "xnli", shots=(1,), prompt_language="pivot")
    (cell,) = render_cells("xnli", settings, language="th", pivot="en", split="test")
    demonstration, question = cell.examples[0].question.choices[0][0].split("\n\n")
    assert demonstration.startswith("Premise")
    assert question.startswith("ประโยค")
    assert question.endswith(", right?")


def test_more_shots_than_contents_are_refused(tmp_path: Path) -> None:
    write_xnli(tmp_path)
    with pytest.raises(TaskError, match="too few rows for 9 demonstrations") as caught:
        check_evaluation(config(tmp_path, "xnli", shots=(9,)), languages=("en",), pivot="en")
    assert caught.value.allowed == "0 to 3"  # four contents of validation, less the question's own


def test_the_limit_takes_the_first_rows(tmp_path: Path) -> None:
    write_xnli(tmp_path)
    everything, few = (
        next(render_cells("xnli", config(tmp_path, "xnli", limit=limit), language="en", pivot="en", split="test"))
        for limit in (None, 5)
    )
    assert [example.id for example in few.examples] == [example.id for example in everything.examples][:5]


def test_the_fingerprint_follows_the_rows_and_not_the_folder(tmp_path: Path) -> None:
    def fingerprint(folder: Path, **fields: Any) -> str:
        return evaluation_fingerprint(config(folder, "xnli", **fields), languages=("en",), pivot="en")

    for name in ("one", "two"):
        write_xnli(tmp_path / name)
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    path = tmp_path / "two" / "xnli" / "dev-en.tsv"
    path.write_text(path.read_text().replace("Hypothesis 7.", "Hypothesis seven."))
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")
    assert len(fingerprint(tmp_path / "one")) == 64


def test_the_embedded_rows_render_for_every_task_and_language() -> None:
    settings = EvaluationConfig(shots=(0, 1))
    check_evaluation(settings, languages=embedded.LANGUAGES, pivot="en")
    assert evaluation_fingerprint(settings, languages=embedded.LANGUAGES, pivot="en") == evaluation_fingerprint(
        settings, languages=embedded.LANGUAGES[::-1], pivot="en"
    )
