"""What an arm costs is its training: base costs nothing, restarts are not counted twice, and the rest stands apart."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from fabricate import fabricate, make_study

from afp_ray.config import RuntimeConfig
from afp_ray.store import StudyPaths
from services.cli import main

NUM_HOURS = pytest.approx(0.2)
"""Of the training of every trained arm of the fabricated study."""


def change(paths: StudyPaths, **fields: Any) -> None:
    """What the training of every trained trial says of itself."""
    for file in paths.trials.glob("*/result.json"):
        result = json.loads(file.read_text())
        if result["config"]["method"] != "base":
            result["training"] |= fields
            file.write_text(json.dumps(result))


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a verb says in JSON."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a verb says, in one line."""
    assert main([*arguments]) == 0
    return " ".join(capsys.readouterr().out.replace("┃", " ").replace("│", " ").split())


def report(storage: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["report", "demo", "--storage", str(storage)]) == 0
    capsys.readouterr()
    return (storage / "demo" / "report.html").read_text("utf-8")


def test_base_costs_nothing_however_long_it_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fabricate(tmp_path)
    where = ("--storage", str(tmp_path))
    table, found = answer(capsys, "compare", "demo", *where), answer(capsys, "best", "demo", *where)
    assert {arm["arm"]: arm["gpu_hours"] for arm in table["arms"]} == {"base": 0.0, "mcl": NUM_HOURS, "afp": NUM_HOURS}
    assert table["arms"][0]["hours"] == {"training": 0.0, "evaluation": 0.25, "startup": None}
    assert (found["arm"], found["gpu_hours"], found["cost_note"]) == ("afp", NUM_HOURS, "")
    assert found["hours"] == {"training": NUM_HOURS, "evaluation": pytest.approx(0.05), "startup": None}
    for points in (table["pareto"], found["pareto"]):
        assert (points[0]["arm"], points[0]["is_on_front"]) == ("base", True)
        assert points[0]["gpu_hours"] == 0 < points[-1]["gpu_hours"]
    shown = said(capsys, "best", "demo", "--pareto", *where)
    assert "device-hours of one trial: training 0.2; evaluation and start-up 0.05" in shown
    assert "budget.gpu_hours counts both" in shown and "GPU-hours" not in shown
    page = report(tmp_path, capsys)
    assert "training, device-hours" in page and "GPU-hours" not in page


@pytest.mark.parametrize(("executor", "workers"), [("local", 1), ("ray", 4)])
def test_a_restarted_trial_costs_its_training_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], executor: Literal["local", "ray"], workers: int
) -> None:
    runtime = RuntimeConfig(executor=executor, workers_per_trial=4)
    paths = fabricate(tmp_path, study=make_study().model_copy(update={"runtime": runtime}))
    # Two attempts: 720 s of steps together, of which the second one did 72 s in a wall time of 100 s.
    change(paths, resumed_from_step=4, gpu_hours=workers * (648 + 100) / 3600)
    for arm in answer(capsys, "compare", "demo", "--storage", str(tmp_path))["arms"][1:]:
        assert arm["gpu_hours"] == pytest.approx(workers * 0.2)
        assert arm["hours"]["evaluation"] == pytest.approx(workers * 28 / 3600)


OWN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "all": (
        {"training_hours": 0.3, "evaluation_hours": 0.5, "workers": 8, "gpu_hours": 1.0},
        {"training": 0.3, "evaluation": 0.5, "startup": pytest.approx(0.2)},
    ),
    "workers alone": (
        {"workers": 2, "gpu_hours": 1.0},
        {"training": 2 * 0.2, "evaluation": pytest.approx(0.6), "startup": None},
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_what_a_result_says_itself_counts_before_the_runtime_of_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    runtime = RuntimeConfig(executor="ray", workers_per_trial=4)
    paths = fabricate(tmp_path, study=make_study().model_copy(update={"runtime": runtime}))
    fields, hours = OWN[name]
    change(paths, **fields)
    found = answer(capsys, "best", "demo", "--storage", str(tmp_path))
    assert (found["hours"], found["gpu_hours"]) == (hours, hours["training"])


def test_trainings_below_a_minute_are_not_called_cheap_or_dear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = fabricate(tmp_path)
    change(paths, seconds=59.0)
    where = ("--storage", str(tmp_path))
    note = "the longest training took 59 s, and below 60 s the noise of the machine decides"
    table, found = answer(capsys, "compare", "demo", *where), answer(capsys, "best", "demo", *where)
    assert note in table["cost_note"] and note in found["cost_note"]
    assert found["cheapest"] is None
    assert {point["is_on_front"] for point in (*table["pareto"], *found["pareto"])} == {None}
    assert table["pareto"][0]["arm"] == "base" and table["pareto"][0]["gpu_hours"] == 0
    shown = said(capsys, "best", "demo", "--pareto", *where)
    assert note in shown and "cheapest not significantly worse" not in shown and "on the front nothing" not in shown
    assert note in said(capsys, "compare", "demo", *where)
    assert note in report(tmp_path, capsys)
    change(paths, seconds=60.0)
    assert answer(capsys, "best", "demo", *where)["cheapest"]["arm"] == "afp"


@pytest.mark.parametrize(
    ("limit", "arm", "value"),
    [
        ("gpu_hours=0.2", "afp", NUM_HOURS),
        ("gpu_hours=0.19", "base", 0.0),
        ("gpu_hours=0", "base", 0.0),
        ("seconds=720", "afp", 720.0),
        ("seconds=719", "base", 0.0),
    ],
)
def test_a_limit_is_one_on_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: str, arm: str, value: float
) -> None:
    fabricate(tmp_path)
    found = answer(capsys, "best", "demo", "--under", limit, "--storage", str(tmp_path))
    assert (found["arm"], found["constraints"][limit.partition("=")[0]]["value"]) == (arm, value)


def test_models_that_were_there_before_all_cost_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fabricate(tmp_path, methods=("base",), seeds=(0,), with_failure=False)
    found = answer(capsys, "best", "demo", "--storage", str(tmp_path))
    assert (found["gpu_hours"], found["cost_note"], found["cheapest"]["verdict"]) == (0.0, "", "no arm is cheaper")
