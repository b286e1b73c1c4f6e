"""One trial from the command line: scores of a model as it is, and a stored row run again."""

import json
from pathlib import Path

import pytest

from services import cli

SMALL = ["--tasks", "xcopa", "--languages", "en,zh", "--limit", "8"]


def test_a_model_is_scored_as_it_is_and_its_row_reproduced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = ["--storage", str(tmp_path)]
    assert cli.main(["eval", "embedded", *SMALL, *storage, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {(score["language"], score["split"]) for score in result["scores"]} == {
        (language, split) for language in ("en", "zh") for split in ("validation", "test")
    }
    assert result["training"]["steps"] == 0
    assert cli.main(["reproduce", result["trial_id"][:6], *storage, "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["reproduced"] is True
    assert verdict["largest_difference"] == 0
    file = tmp_path / "trials" / result["trial_id"] / "result.json"
    stored = json.loads(file.read_text())
    stored["scores"][0]["value"] = 0.123
    file.write_text(json.dumps(stored))
    assert cli.main(["reproduce", result["trial_id"], *storage]) == 7
    assert "NOT reproduced" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["eval", "embedded", "--tasks", "mmlu"], "--tasks"),
        (["eval", "embedded", "--languages", "xx"], "xx"),
        (["eval", "embedded", "--shots", "many"], "'many' is no list of numbers"),
        (["eval", "no/such/folder"], "no/such/folder"),
        (["reproduce", "feed"], "0 finished trials begin with 'feed'"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, "--storage", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
