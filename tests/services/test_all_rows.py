"""`num_pairs: all` and `num_instructions: all` through the command: what there is, told by the plan and trained on."""

import json
from pathlib import Path
from typing import Any

import pytest
from staged import NoProjection

from afp_ray.config import TrialConfig, trial_id
from afp_ray.data.token_keys import recipe_keys
from services import cli

STUDY = """
name: whole
fixed:
  data:
    sources: [{{kind: tsv, path: "{folder}/{{source}}-{{target}}.tsv"}}]
    languages: [th, zh]
    num_pairs: all
    num_instructions: all
    translation_share: 1.0
  training: {{max_steps: 1, batch_size: 4, max_length: 32}}
  evaluation: {{tasks: [xcopa], limit: 4, representation: null}}
arms: {{both: {{method: afp}}}}
runtime: {{executor: local, checkpoint_every_s: null}}
"""
PAIRS = {"th": 7, "zh": 12}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AFP_STORAGE", str(tmp_path / "runs"))
    monkeypatch.setattr("afp_ray.study.BackgroundProjector", NoProjection)
    for code, number in PAIRS.items():
        rows = [
            f"sentence number {index} of a file\t{'กขคงจฉชซ'[index % 8]}{'ญฐดตถทธน'[index // 8]}\n"
            for index in range(number)
        ]
        (tmp_path / f"en-{code}.tsv").write_text("".join(rows), "utf-8")
    path = tmp_path / "whole.yaml"
    path.write_text(STUDY.format(folder=tmp_path))
    return str(path)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.main([*arguments, "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def test_all_is_told_trained_on_and_found_again(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = (text for text in answer(capsys, "plan", file)["checks"] if "all is" in text)
    assert line.startswith("data.num_pairs: all is 19 pairs (th 7, zh 12)")
    drawn = answer(capsys, "data", "inspect", file)
    assert {row["language"]: row["pairs_drawn"] for row in drawn["amounts"] if row["pairs"]} == PAIRS
    assert (drawn["pairs"], drawn["instructions"]) == (19, 19)
    assert cli.main(["run", file]) == 0
    capsys.readouterr()
    # Another study of the same rows takes the trial over; one more row is another trial.
    assert cli.main(["run", file, "--set", "name=again"]) == 0
    capsys.readouterr()
    ids = {path.parent.name for path in Path(file).parent.glob("runs/*/trials/*/result.json")}
    assert len(ids) == 1
    with (Path(file).parent / "en-th.tsv").open("a", encoding="utf-8") as rows:
        rows.write("one more sentence\tกกก\n")
    assert "20 pairs" in " ".join(answer(capsys, "plan", file, "--set", "name=more")["checks"])
    assert cli.main(["run", file, "--set", "name=more"]) == 0
    assert len({path.parent.name for path in Path(file).parent.glob("runs/*/trials/*/result.json")}) == 2


def test_all_is_a_choice_of_a_search_and_a_number_keeps_its_id(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["fixed.data.num_pairs=4", "tune.training.learning_rate={choices: [1.0e-5]}"]
    assert cli.main(["plan", file, *(word for text in overrides for word in ("--set", text))]) == 0
    capsys.readouterr()
    text = Path(file).read_text().replace("    num_pairs: all\n", "") + "tune: {data.num_pairs: {choices: [4, all]}}\n"
    Path(file).write_text(text)
    assert "data.num_pairs: all is 19 pairs" in " ".join(answer(capsys, "plan", file)["checks"])
    number, word = (TrialConfig.model_validate({"data": {"num_pairs": value}}) for value in (1000, "all"))
    assert trial_id(number, {}) == trial_id(TrialConfig(), {}) != trial_id(word, {})
    keys = [recipe_keys(config.data, seed=0).pairs for config in (number, word)]
    assert keys[0] != keys[1]
