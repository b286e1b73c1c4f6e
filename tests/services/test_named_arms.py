"""Named arms through the command: their names are the rows of every answer, and a new name keeps the trials."""

import csv
import io
import json
from pathlib import Path

import pytest
from staged import NoProjection

from afp_ray.ledger import replay
from afp_ray.store import StudyPaths
from services import cli

STUDY = """
name: {name}
fixed:
  data: {{languages: [zh], num_pairs: 8, num_instructions: 8}}
  training: {{max_steps: 1, batch_size: 4, max_length: 32}}
  evaluation: {{tasks: [xcopa], limit: 4, representation: null}}
arms:
  untrained: {{method: base}}
  {full}: {{method: afp}}
  mean_pool: {{method: afp, loss.pooling: mean}}
tune: {{loss.temperature: {{low: 0.02, high: 0.2}}}}
budget: {{trials: 1}}
constraints: [{{metric: pivot_mean, max_drop: 1}}]
runtime: {{executor: local, checkpoint_every_s: null}}
"""


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFP_STORAGE", str(tmp_path / "runs"))
    monkeypatch.setattr("afp_ray.study.BackgroundProjector", NoProjection)
    return tmp_path


def test_names_are_the_rows_everywhere_and_a_new_name_reuses_every_trial(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*arguments: str) -> str:
        assert cli.main(list(arguments)) == 0
        return capsys.readouterr().out

    file = storage / "study.yaml"
    file.write_text(STUDY.format(name="named", full="full"))
    names = ["untrained", "full", "mean_pool"]
    assert [arm["arm"] for arm in json.loads(answer("plan", str(file), "--json"))["arms"]] == names
    answer("run", str(file))
    table = json.loads(answer("compare", "named", "--json"))
    assert (sorted(row["arm"] for row in table["arms"]), table["base"]) == (sorted(names), "untrained")
    assert [row["arm"] for row in table["arms"] if row["is_base"]] == ["untrained"]
    rows = list(csv.DictReader(io.StringIO(answer("compare", "named", "--format", "csv"))))
    assert {row["arm"] for row in rows} - {"majority"} == set(names)
    assert r"mean\_pool &" in answer("compare", "named", "--format", "tex")
    assert "mean_pool" in (storage / "runs" / "named" / "report.html").read_text()
    assert {row["arm"] for row in json.loads(answer("status", "named", "--json"))["arms"]} == set(names)
    assert cli.main(["compare", "named", "--require", "mean_pool > untrained"]) == 7
    assert "not met: mean_pool > untrained" in capsys.readouterr().err

    file.write_text(STUDY.format(name="renamed", full="everything"))
    answer("run", str(file))
    trials = {name: replay(StudyPaths(storage / "runs", name).ledger).trials for name in ("named", "renamed")}
    assert [trial.trial_id for trial in trials["renamed"]] == [trial.trial_id for trial in trials["named"]]
    assert all(trial.adopted_from == "named" for trial in trials["renamed"])
