"""Tasks with languages of their own, through the command: checked, scored, and compared on what all arms share."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from staged import NoProjection

from services import cli

STUDY = """
name: own
objective: {{metric: xcopa}}
fixed:
  data: {{num_pairs: 8, num_instructions: 8}}
  training: {{max_steps: 1, batch_size: 4, max_length: 32}}
  evaluation: {{limit: 12, representation.num_pairs: 4}}
  evaluation.tasks: {tasks}
arms:
  untrained: {{method: base, data.languages: [zh, th]}}
  wide: {{method: mcl, data.languages: [zh, th]}}
  narrow: {{method: mcl, data.languages: [zh], evaluation.tasks: {{xcopa: [zh, sw], pawsx: [en]}}}}
runtime: {{executor: local, checkpoint_every_s: null}}
"""
TASKS = "{xcopa: [zh, th], pawsx: [en, zh]}"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFP_STORAGE", str(tmp_path / "runs"))
    monkeypatch.setattr("afp_ray.study.BackgroundProjector", NoProjection)
    path = tmp_path / "own.yaml"
    path.write_text(STUDY.format(tasks=TASKS))
    return path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.main([*arguments, "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def test_each_task_is_scored_in_its_languages_and_means_are_over_what_all_arms_share(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = answer(capsys, "plan", str(file))
    assert "arms are compared on what all are scored on; not compared: pawsx/zh, xcopa/sw, xcopa/th" in plan["checks"]
    first, second = (sorted((cell["task"], cell["language"]) for cell in report["cells"]) for report in plan["overlap"])
    assert first == sorted(2 * [("pawsx", "en"), ("pawsx", "zh"), ("xcopa", "th"), ("xcopa", "zh")])
    assert second == sorted(2 * [("pawsx", "en"), ("xcopa", "sw"), ("xcopa", "zh")])
    assert cli.main(["run", str(file)]) == 0
    capsys.readouterr()
    table = answer(capsys, "compare", "own")
    (warning,) = [text for text in table["warnings"] if "left out" in text]
    assert warning.endswith("left out: pawsx/zh, xcopa/sw, xcopa/th, retrieval/th")
    for row in table["arms"]:
        cells = {(cell["task"], cell["language"]): cell["mean"] for cell in row["cells"]}
        assert set(cells) == {("xcopa", "zh"), ("pawsx", "en")}
        assert math.isclose(row["mean"]["mean"], cells["xcopa", "zh"])
        assert math.isclose(row["pivot_mean"]["mean"], cells["pawsx", "en"])
        assert row["validation"] is not None
    assert {row["language"] for row in table["representation"]} == {"", "zh"}
    assert answer(capsys, "best", "own")["arm"] in ("untrained", "wide", "narrow")
    assert cli.main(["report", "own"]) == 0


def test_a_language_that_a_task_lacks_is_refused_with_those_that_it_has(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = cli.main(["plan", str(file), "--set", "evaluation.tasks={xcopa: [zh, de]}"])
    error = " ".join(capsys.readouterr().err.split())
    assert refused == 2
    assert "evaluation.tasks.xcopa xcopa has no embedded rows in 'de' allowed en, zh, es" in error
    overrides = ("arms={a: {method: base}}", "evaluation.tasks=[xcopa, pawsx]", "evaluation.languages=[zh, de]")
    listed = cli.main(["plan", str(file), *(word for text in overrides for word in ("--set", text))])
    error = " ".join(capsys.readouterr().err.split())
    assert listed == 2
    assert "give each task its own languages: evaluation.tasks: {xcopa: [en, zh, es, id, ...], ...}" in error


def test_arms_that_share_nothing_and_metrics_that_an_arm_lacks_are_refused(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(file), "--set", "evaluation.tasks={xcopa: [th], pawsx: [zh]}"]) == 2
    assert "there is no task and language that all arms are scored on" in capsys.readouterr().err
    assert cli.main(["plan", str(file), "--set", "objective.metric=pawsx/zh"]) == 2
    assert "metric 'pawsx/zh' is not among the scores of this study" in capsys.readouterr().err
