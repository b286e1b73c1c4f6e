"""Files as the hub has them give the rows of the original files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afp_ray.config import SPLITS, EvaluationConfig
from afp_ray.errors import DataError, TaskError
from afp_ray.evaluation.check import check_evaluation, evaluation_fingerprint
from afp_ray.evaluation.questions import load_rows
from afp_ray.evaluation.tasks import TASKS

SHORT, CONVERTED, PLAIN = "{}-00000-of-00001.parquet", "{}/0000.parquet", "{}.parquet"
NLI = ("entailment", "neutral", "contradiction")


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def write_xnli(original: Path, hub: Path, form: str) -> None:
    for part, split in (("dev", "validation"), ("test", "test")):
        rows = [(f"{part} premise {i // 3}.", f"Hypothesis {i}.", i % 3) for i in range(9)]
        write_lines(original / "xnli" / f"{part}-th.tsv", [f"{a}\t{b}\t{NLI[label]}" for a, b, label in rows])
        table = [{"premise": a, "hypothesis": b, "label": label} for a, b, label in rows]
        write_table(hub / "xnli" / "th" / form.format(split), table)


def write_pawsx(original: Path, hub: Path, form: str) -> None:
    for part, split in (("dev", "validation"), ("test", "test")):
        rows = [(i + 1, f"{part} one {i} .", "NS" if i == 3 else f"Two {i} .", i % 2) for i in range(8)]
        lines = ["id\tsentence1\tsentence2\tlabel", *("\t".join(map(str, row)) for row in rows)]
        write_lines(original / "pawsx" / "th" / f"{part}_2k.tsv", lines)
        names = ("id", "sentence1", "sentence2", "label")
        write_table(hub / "pawsx" / "th" / form.format(split), [dict(zip(names, row, strict=True)) for row in rows])


def write_xcopa(original: Path, hub: Path, form: str) -> None:
    for part, split in (("val", "validation"), ("test", "test")):
        rows = [
            {
                "premise": f"{part} {i}.",
                "choice1": "A.",
                "choice2": "B.",
                "question": ("cause", "effect")[i % 2],
                "label": i % 2,
                "idx": i,
                "changed": False,
            }
            for i in range(6)
        ]
        write_lines(original / "xcopa" / "data" / "th" / f"{part}.th.jsonl", [json.dumps(row) for row in rows])
        write_table(hub / "xcopa" / "th" / form.format(split), rows)


def write_xstorycloze(original: Path, hub: Path, form: str) -> None:
    sentences = [f"InputSentence{number}" for number in range(1, 5)]
    header = ["InputStoryid", *sentences, "RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding"]
    names = ["story_id", *(f"input_sentence_{number}" for number in range(1, 5)), "sentence_quiz1", "sentence_quiz2"]
    for part in ("train", "eval"):
        rows = [
            [f"{part}-{i}", *(f"S{n} {i}." for n in range(1, 5)), f"End {i}.", f"Other {i}.", 1 + i % 2]
            for i in range(6)
        ]
        path = original / "xstorycloze" / f"spring2016.val.th.tsv.split_20_80_{part}.tsv"
        write_lines(path, ["\t".join(map(str, row)) for row in (header, *rows)])
        table = [dict(zip([*names, "answer_right_ending"], row, strict=True)) for row in rows]
        write_table(hub / "xstorycloze" / "th" / form.format(part), table)


def write_xwinograd(original: Path, hub: Path, form: str) -> None:
    rows = [
        {"sentence": f"Ana{i} met Eva{i} when _ was ill.", "option1": f"Ana{i}", "option2": f"Eva{i}", "answer": "2"}
        for i in range(6)
    ]
    write_lines(original / "xwinograd" / "test" / "th.jsonl", [json.dumps(row) for row in rows])
    write_table(hub / "xwinograd" / "th" / form.format("test"), rows)


WRITERS = {
    "xnli": write_xnli,
    "pawsx": write_pawsx,
    "xcopa": write_xcopa,
    "xstorycloze": write_xstorycloze,
    "xwinograd": write_xwinograd,
}


@pytest.mark.parametrize("form", [SHORT, CONVERTED, PLAIN], ids=["main", "converted", "plain"])
@pytest.mark.parametrize("task", list(WRITERS))
def test_the_hubs_tables_give_the_rows_of_the_original_files(tmp_path: Path, task: str, form: str) -> None:
    original, hub = tmp_path / "original", tmp_path / "hub"
    WRITERS[task](original, hub, form)
    ours, theirs = (load_rows(TASKS[task], str(folder), "th") for folder in (original, hub))
    names = ("id", "content_id", *TASKS[task].fields)
    for split in SPLITS:
        rows = [{name: str(row[name]) for name in names} for row in ours.splits[split]]
        assert rows
        assert [{name: str(row[name]) for name in names} for row in theirs.splits[split]] == rows
    assert ours.num_skipped == theirs.num_skipped == (2 if task == "pawsx" else 0)
    prints = [
        evaluation_fingerprint(
            EvaluationConfig.model_validate({"tasks": [task], "data_dir": str(folder), "representation": None}),
            languages=("th",),
            pivot="th",
        )
        for folder in (original, hub)
    ]
    assert prints[0] == prints[1]


def config(folder: Path) -> EvaluationConfig:
    return EvaluationConfig(tasks=("xnli",), data_dir=str(folder), representation=None)


def test_a_label_outside_the_hubs_numbers_is_refused_with_file_and_row(tmp_path: Path) -> None:
    rows = [{"premise": "P.", "hypothesis": f"H {i}.", "label": (-1 if i == 4 else i % 3)} for i in range(6)]
    path = write_table(tmp_path / "xnli" / "en" / SHORT.format("validation"), rows)
    with pytest.raises(TaskError, match="'-1'") as caught:
        check_evaluation(config(tmp_path), languages=("en",), pivot="en")
    assert caught.value.where == f"{path}:5"


def test_null_in_a_table_is_no_text(tmp_path: Path) -> None:
    rows = [{"premise": "P.", "hypothesis": None if i == 4 else f"H {i}.", "label": i % 3} for i in range(12)]
    write_table(tmp_path / "xnli" / "en" / SHORT.format("validation"), rows)
    assert load_rows(TASKS["xnli"], str(tmp_path), "en").num_skipped == 1


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "xnli" / "en" / SHORT.format("validation"), [{"premise": "P.", "label": 0}])
    with pytest.raises(DataError, match="lacks hypothesis") as caught:
        check_evaluation(config(tmp_path), languages=("en",), pivot="en")
    assert caught.value.where == str(path)


def test_a_broken_table_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "xnli" / "en" / SHORT.format("validation"), ["no table"])
    with pytest.raises(DataError, match="no readable parquet file") as caught:
        check_evaluation(config(tmp_path), languages=("en",), pivot="en")
    assert caught.value.where == str(path)
