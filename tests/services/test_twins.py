"""Two arms that are one by content: the plan says so, they run once, and the table has one row for both."""

import json
import shutil
from pathlib import Path

import pytest
from staged import NoProjection

from afp_ray.models.describe import EMBEDDED_FOLDER
from services import cli

STUDY = """
name: twins
fixed:
  data.languages: [zh]
  data.num_pairs: 8
  data.num_instructions: 8
  training: {{max_steps: 1, batch_size: 4, max_length: 32}}
  evaluation.tasks: [xcopa]
  evaluation.limit: 4
  evaluation.representation: null
compare: {{method: [base, mit], model.name: [embedded, {copy}]}}
runtime: {{executor: local, checkpoint_every_s: null}}
{more}
"""


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The embedded model under another name."""
    monkeypatch.setenv("AFP_STORAGE", str(tmp_path / "runs"))
    monkeypatch.setattr("afp_ray.study.BackgroundProjector", NoProjection)
    return Path(shutil.copytree(EMBEDDED_FOLDER, tmp_path / "copy"))


def test_arms_of_equal_models_run_once_and_are_no_evidence_for_each_other(
    tmp_path: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "twins.yaml"
    study.write_text(STUDY.format(copy=copy, more=""))
    assert cli.main(["plan", str(study), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    first, second = (f"method=mit,model.name={name}" for name in ("embedded", copy))
    assert (
        f"{second} is the same trial as {first}: it runs once, and stands in the table as {first} alone"
        in (answer["notes"])
    )
    assert answer["trials"] == 2
    assert cli.main(["run", str(study)]) == 0
    assert f"arm {second} is the same trial as {first}, whose row stands for both" in capsys.readouterr().out
    assert cli.main(["compare", "twins", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [row["arm"] for row in table["arms"]] == ["method=base,model.name=embedded", first]
    assert f"arm {second} is the same trial as {first}, whose row stands for both" in table["warnings"]
    shutil.rmtree(copy)
    assert cli.main(["compare", "twins", "--json"]) == 0
    assert f"arm {second} has no trials of its own, so it has no row" in json.loads(capsys.readouterr().out)["warnings"]


def test_arms_that_search_the_same_are_named_by_the_plan(
    tmp_path: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "tune: {training.learning_rate: {low: 1.0e-5, high: 1.0e-3}}\nbudget: {trials: 2}"
    study = tmp_path / "twins.yaml"
    study.write_text(STUDY.format(copy=copy, more=more))
    assert cli.main(["plan", str(study)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"method=mit,model.name={copy} searches the same trials as method=mit,model.name=embedded: what" in shown
    config = json.loads((copy / "config.json").read_text())
    (copy / "manifest.json").unlink(missing_ok=True)
    (copy / "config.json").write_text(json.dumps({**config, "of": "another model"}))
    assert cli.main(["plan", str(study)]) == 0
    assert "the same trial" not in capsys.readouterr().out
