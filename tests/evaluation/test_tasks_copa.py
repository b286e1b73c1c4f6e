"""English COPA: the XML of its authors gives the rows, names, fingerprints and scores of XCOPA's form of it."""

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from afp_ray.config import SPLITS, EvaluationConfig
from afp_ray.errors import DataError, TaskError
from afp_ray.evaluation.check import check_evaluation, evaluation_fingerprint
from afp_ray.evaluation.questions import load_rows
from afp_ray.evaluation.tasks import TASKS
from services.cli import main

HEAD = '<?xml version="1.0" encoding="UTF-8" ?>\n<!DOCTYPE copa-corpus SYSTEM "copa.dtd">\n'
EN = EvaluationConfig(tasks=("xcopa",), languages=("en",))


def item(number: int) -> str:
    """Item `number`, whose texts need escapes and bear spaces at their ends."""
    asked = ("cause", "effect")[number % 2]
    return (
        f'<item id="{number}" asks-for="{asked}" most-plausible-alternative="{1 + number % 3 % 2}">\n'
        f"<p> Premise {number} of A &amp; B.</p>\n<a1>It's &lt; {number}.</a1>\n"
        f"<a2>The caf\u00e9 &#x2014; {number}. </a2>\n"
        "</item>"
    )


def row(number: int, idx: int) -> str:
    texts = {"premise": f"Premise {number} of A & B.", "choice1": f"It's < {number}."}
    asked = {"choice2": f"The caf\u00e9 \u2014 {number}.", "question": ("cause", "effect")[number % 2]}
    return json.dumps({**texts, **asked, "idx": idx, "label": number % 3 % 2})


def corpus(*numbers: int) -> str:
    return HEAD + '<copa-corpus version="1.0">\n' + "\n".join(map(item, numbers)) + "\n</copa-corpus>\n"


DEV, TEST = (*range(1, 9), 400, 401, 500), (*range(501, 509), 1000)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def as_jsonl(data: Path) -> None:
    dev = [row(number, number - 1) for number in DEV if number <= 400]
    write(data / "copa_en" / "train.en.jsonl", "\n".join(dev) + "\n")
    write(data / "copa_en" / "test.en.jsonl", "\n".join(row(number, number - 501) for number in TEST) + "\n")


def as_two_files(data: Path, folder: str = "") -> None:
    write(data / "copa_en" / folder / "copa-dev.xml", corpus(*DEV))
    write(data / "copa_en" / folder / "copa-test.xml", corpus(*TEST))


def as_unpacked(data: Path) -> None:
    as_two_files(data, "COPA-resources/datasets")


def as_one_file(data: Path) -> None:
    write(data / "copa_en" / "copa-all.xml", corpus(*TEST[::-1], *DEV))


def as_archive(data: Path) -> None:
    as_unpacked(data / "unpacked")
    (data / "copa_en").mkdir()
    with tarfile.open(data / "copa_en" / "COPA-resources.tgz", "w:gz") as archive:
        archive.add(data / "unpacked" / "copa_en" / "COPA-resources", "COPA-resources")


@pytest.mark.parametrize("form", [as_two_files, as_unpacked, as_one_file, as_archive])
def test_the_xml_gives_the_rows_of_xcopas_form(form: Callable[[Path], None], tmp_path: Path) -> None:
    as_jsonl(tmp_path / "jsonl")
    form(tmp_path / "xml")
    found = [load_rows(TASKS["xcopa"], str(tmp_path / name), "en") for name in ("jsonl", "xml")]
    for split in SPLITS:
        first, second = ([{**row, "where": ""} for row in rows.splits[split]] for rows in found)
        assert first == second
        assert len(first) == 9
    prints = {
        evaluation_fingerprint(EN.model_copy(update={"data_dir": str(tmp_path / name)}), languages=("en",), pivot="en")
        for name in ("jsonl", "xml")
    }
    assert len(prints) == 1


def test_eval_scores_the_xml_as_the_jsonl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_jsonl(tmp_path / "jsonl")
    as_one_file(tmp_path / "xml")
    answers = []
    for name in ("jsonl", "xml"):
        arguments = ["--tasks", "xcopa", "--languages", "en", "--data-dir", str(tmp_path / name), "--json"]
        assert main(["eval", "embedded", *arguments]) == 0
        answers.append(json.loads(capsys.readouterr().out)["scores"])
    assert answers[0] == answers[1]
    assert answers[0]


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        (
            HEAD.replace('"copa.dtd"', '"copa.dtd" [<!ENTITY a "aa">]') + "<copa-corpus/>",
            "the entity 'a' is declared",
            2,
        ),
        (
            HEAD.replace('SYSTEM "copa.dtd"', '[<!ENTITY a SYSTEM "file:///etc/passwd">]') + "<copa-corpus/>",
            "the entity 'a' is declared",
            2,
        ),
        (HEAD.replace('SYSTEM "copa.dtd"', '[<!ENTITY % a "aa">]') + "<copa-corpus/>", "the entity 'a' is declared", 2),
        (corpus(1).replace("&amp;", "&unknown;"), "the entity 'unknown' is declared or used", 5),
        (corpus(1).replace("</copa-corpus>", ""), "not XML: no element found", 10),
        (corpus(1, 1), "the item has id '1' and", 9),
        (corpus(1).replace('alternative="2"', 'alternative="3"'), "most-plausible-alternative '3'", 4),
        (corpus(1).replace(' asks-for="effect"', ""), "the item has no asks-for", 4),
        (re.sub("<a2>.*</a2>", "", corpus(1)), "item 1 has no <a2>", 8),
    ],
)
def test_what_is_no_xml_of_copa_is_refused_at_its_line(text: str, problem: str, line: int, tmp_path: Path) -> None:
    as_two_files(tmp_path)
    file = write(tmp_path / "copa_en" / "copa-dev.xml", text)
    with pytest.raises(DataError, match=re.escape(problem)) as caught:
        load_rows(TASKS["xcopa"], str(tmp_path), "en")
    assert caught.value.where == f"{file}:{line}"


def test_a_question_that_is_none_and_a_file_without_its_items_are_refused(tmp_path: Path) -> None:
    config = EN.model_copy(update={"data_dir": str(tmp_path)})
    as_two_files(tmp_path)
    write(tmp_path / "copa_en" / "copa-dev.xml", corpus(1).replace("effect", "reason"))
    with pytest.raises(TaskError, match="xcopa row has question 'reason'"):
        check_evaluation(config, languages=("en",), pivot="en")
    write(tmp_path / "copa_en" / "copa-dev.xml", corpus(*TEST))
    with pytest.raises(DataError, match="none of the items 1 to 400"):
        check_evaluation(config, languages=("en",), pivot="en")


def test_the_message_says_where_english_comes_from(tmp_path: Path) -> None:
    write(tmp_path / "xcopa" / "README", "")
    with pytest.raises(TaskError, match=r"COPA-resources\.tgz, https://people\.ict\.usc\.edu"):
        check_evaluation(EN.model_copy(update={"data_dir": str(tmp_path)}), languages=("en",), pivot="en")
