"""An arm whose model cannot be loaded: named beforehand, one failed arm of a study that ends with a table."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from staged import NoProjection

from afp_ray.ledger import replay
from afp_ray.models.describe import EMBEDDED_FOLDER
from afp_ray.models.manifest import MANIFEST
from afp_ray.records import TrialStatus
from afp_ray.store import StudyPaths
from services import cli

STUDY = """
name: lost
fixed:
  data.languages: [zh]
  data.num_pairs: 20
  data.num_instructions: 20
  training: {{max_steps: 1, batch_size: 4, max_length: 32}}
  evaluation.tasks: [xcopa]
  evaluation.limit: 6
  evaluation.representation: null
compare:
  model.name: [{models}]
  method: [base, mit]
seeds: [0, 1]
{more}
runtime: {{executor: local, checkpoint_every_s: null}}
"""


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFP_STORAGE", str(tmp_path / "runs"))
    monkeypatch.setattr("afp_ray.study.BackgroundProjector", NoProjection)
    return tmp_path / "runs"


def write(folder: Path, *models: str, more: str = "") -> str:
    file = folder / "study.yaml"
    file.write_text(STUDY.format(models=", ".join(models), more=more), "utf-8")
    return str(file)


def events(storage: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (storage / "lost" / "ledger.jsonl").read_text().splitlines()]


def statuses(storage: Path) -> Counter[tuple[str, TrialStatus]]:
    return Counter((trial.arm, trial.status) for trial in replay(StudyPaths(storage, "lost").ledger).trials)


def test_plan_names_the_arm_and_the_reason(tmp_path: Path, storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write(tmp_path, "embedded", str(tmp_path / "gone"))
    assert cli.main(["plan", study]) == 0
    shown = capsys.readouterr().out
    assert f"FAIL   arm model.name={tmp_path / 'gone'},method=mit, the others can run: model.name: model" in shown
    assert "ok     2 arms: configuration, model" in shown
    assert cli.main(["plan", study, "--json"]) == 0
    problems = [arm["problem"] for arm in json.loads(capsys.readouterr().out)["arms"]]
    assert [problem is None for problem in problems] == [True, True, False, False]
    assert "does not exist" in problems[2]
    assert not storage.exists()
    cli.main(["doctor", study])
    assert "will fail: model" in capsys.readouterr().out


def test_the_others_run_and_the_arm_is_found_again(
    tmp_path: Path, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    study = write(tmp_path, "embedded", str(gone))
    assert cli.main(["run", study]) == 3
    captured = capsys.readouterr()
    assert f"warning  arm model.name={gone},method=mit fails, the others run: model '{gone}' does not" in captured.err
    assert f"warning: arm model.name={gone},method=mit failed, so it is left out: CONFIG: model" in captured.out
    assert f"failed   CONFIG: model '{gone}' does not exist" in captured.out
    assert "best     lost: model.name=embedded" in captured.out
    failed = {event["trial_id"] for event in events(storage) if event["state"] == "FAILED"}
    assert len(failed) == 3  # base once, the trained arm at both seeds
    assert not any(event["state"] == "RUNNING" and event["trial_id"] in failed for event in events(storage))
    before = len(events(storage))
    assert cli.main(["resume", "lost"]) == 3  # it is still not there: nothing is tried again
    assert {event["state"] for event in events(storage)[before:]} == {"OPENED", "CLOSED"}

    shutil.copytree(EMBEDDED_FOLDER, gone)
    config = json.loads((gone / "config.json").read_text())
    (gone / MANIFEST).unlink()
    (gone / "config.json").write_text(json.dumps({**config, "of": "another model, with trials of its own"}))
    capsys.readouterr()
    assert cli.main(["resume", "lost"]) == 0
    assert "left out" not in capsys.readouterr().out
    counts = statuses(storage)
    assert {status for _, status in counts} == {TrialStatus.DONE, TrialStatus.CANCELLED}
    assert counts[f"model.name={gone},method=mit", TrialStatus.DONE] == 2
    notes = [event["note"] for event in events(storage) if event["state"] == "CANCELLED"]
    assert notes == ["its model can be loaded now"] * 3

    shutil.rmtree(gone)  # now it has run: its trials are no failures, and nothing is written
    before = len(events(storage))
    assert cli.main(["resume", "lost"]) == 2
    assert "have run with it" in capsys.readouterr().err
    assert len(events(storage)) == before


def test_without_any_model_nothing_starts(tmp_path: Path, storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write(tmp_path, str(tmp_path / "gone"), str(tmp_path / "lost"))
    assert cli.main(["plan", study]) == 2
    assert cli.main(["run", study]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not storage.exists()


def test_a_search_fails_once_for_its_arm(tmp_path: Path, storage: Path) -> None:
    more = "tune: {training.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}}\nbudget: {trials: 3}"
    study = write(tmp_path, "embedded", str(tmp_path / "gone"), more=more)
    assert cli.main(["run", study]) == 3
    counts = statuses(storage)
    assert counts[f"model.name={tmp_path / 'gone'},method=mit", TrialStatus.FAILED] == 1
    assert counts["model.name=embedded,method=mit", TrialStatus.DONE] >= 3


def test_a_model_that_is_searched_must_be_there(
    tmp_path: Path, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "tune: {model.attention: {choices: [eager, sdpa]}}\nbudget: {trials: 2}"
    assert cli.main(["run", write(tmp_path, "embedded", str(tmp_path / "gone"), more=more)]) == 2
    assert "does not exist" in capsys.readouterr().err
