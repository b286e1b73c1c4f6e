"""All mistakes of a study file in one run, each at its place, on the terminal and as JSON."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from afp_ray.config.load import load_study
from afp_ray.errors import ConfigError, SeveralConfigError
from services import cli

FILE = """\
name: mine
seds: [0]
objective: {metric: meen}
fixed:
  training:
    max_stesp: 20
    batch_size: 010
  loss.temperature: -1
  data.languages: [zh, q8]
  evaluation.tasks: [xcopaa, xnlii]
compare: {method: [base, apf]}
arms:
  full: {loss.poling: mean}
  bad name: {method: afp}
tune:
  loss.layer: {low: 1, high: 2}
  loss.pooling: {choices: [last, frist]}
budget: {trials: 0}
small:
  seeds: [0, 0]
  fixed: {training.max_steps: 1.5}
"""
# line and column, and words of what is wrong there
MISTAKES = [
    ("2:1", "unknown field 'seds'"),
    ("3:21", "'meen' is not known"),
    ("6:5", "unknown field 'training.max_stesp'"),
    ("7:17", "octal"),
    ("8:21", "is not > 0"),
    ("9:24", "language 'q8'"),
    ("10:22", '"xcopaa" is not known'),
    ("10:30", '"xnlii" is not known'),
    ("11:26", '"apf" is not known'),
    ("13:10", "unknown field 'loss.poling'"),
    ("14:3", "cannot be an arm's name"),
    ("16:15", "whole number"),
    ("17:34", '"frist" is not known'),
    ("18:18", "is not >= 1"),
    ("20:10", "repeats a value"),
    ("21:31", "a whole number is expected"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(FILE)
    return path


def test_every_mistake_of_a_file_is_found_once_at_its_place(file: Path) -> None:
    with pytest.raises(SeveralConfigError) as caught:
        load_study(file, ["training.batch_sise=2"])
    *mistakes, last = caught.value.mistakes
    assert [mistake.where.rpartition("study.yaml:")[2] for mistake in mistakes] == [where for where, _ in MISTAKES]
    for mistake, (_, words) in zip(mistakes, MISTAKES, strict=True):
        assert words in mistake.problem
        assert mistake.problem.endswith("^")
    assert (last.where, last.fix) == ("--set training.batch_sise=2", "did you mean training.batch_size?")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


def test_ten_mistakes_are_shown_and_the_others_counted(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(file)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    places = re.findall(rf"^error  {re.escape(str(file))}:(\d+:\d+)  ", shown.err, re.MULTILINE)
    assert places == [where for where, _ in MISTAKES[:10]]
    assert shown.err.endswith("\n16 mistakes, 6 more than are shown\n")


def test_json_lists_the_mistakes_and_keeps_its_form(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(file), "--json"]) == 2
    error: dict[str, Any] = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["class"], error["more"]) == (2, "ConfigError", 6)
    assert [set(mistake) for mistake in error["mistakes"]] == [{"problem", "where", "allowed", "fix"}] * 10
    assert error["problem"] == error["mistakes"][0]["problem"]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("name: Bad Name\nbudget: {trials: 0}\nfixed: {loss.temperature: -1}\n", ["1:7", "2:18", "3:27"]),
        ("seeds: []\nfixed: {loss.temperature: -1}\n", ["1:1", "1:8", "2:27"]),
        ("name: a\nconstraints: [{}, {metric: x, max_drop: -1}]\n", ["2:15", "2:41"]),
        (
            "name: a\nfixed: {loss.layer: 1}\ntune: {loss.layer: {choices: [1]}}\nbudget: {trials: 0}\n",
            ["2:21", "4:18"],
        ),
    ],
)
def test_a_mistake_does_not_hide_those_of_other_fields(tmp_path: Path, text: str, places: list[str]) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(SeveralConfigError) as caught:
        load_study(file)
    assert [mistake.where.rpartition("s.yaml:")[2] for mistake in caught.value.mistakes] == places


def test_one_mistake_alone_is_the_error_itself(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("name: a\nbudget: {trials: 0}\n")
    with pytest.raises(ConfigError) as caught:
        load_study(file)
    assert type(caught.value) is ConfigError


def test_what_the_parts_of_a_study_are_refused_for_is_said_in_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "pairs.en-fr.tsv"
    table.write_text("one\tun\ntwo\tdeux\nthree\ttrois\n")
    file = tmp_path / "study.yaml"
    file.write_text(
        f"name: a\nfixed:\n  data.languages: [fr]\n  data.sources: [{{kind: tsv, path: {table}}}]\n"
        "  loss.layer: 12\n  training.max_length: 100000\n  evaluation.tasks: [xnli, xcopa]\n"
        "compare: {method: [base, mcl]}\n"
    )
    assert cli.main(["plan", str(file), "--storage", str(tmp_path / "runs")]) == 2
    shown = capsys.readouterr().err
    for words in (
        "loss.layer 12 is beyond",
        "training.max_length 100000 is beyond",
        "1000 pairs asked, but the sources have 3",
        "xnli has no embedded rows in 'fr'",
        "xcopa has no embedded rows in 'fr'",
        "no pairs of en with fr",
    ):
        assert shown.count(words) == 1, words
    assert shown.endswith("\n6 mistakes\n")
