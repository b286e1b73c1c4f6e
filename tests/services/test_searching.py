"""A search as the command line shows it: fronts, limits that nothing keeps, warm starts and the file for Optuna."""

import json
from pathlib import Path
from typing import Any

import pytest
from fabricate import event, fabricate, make_study
from search_cases import Played
from search_cases import make_study as make_searched

from afp_ray.config import StudyConfig, load
from afp_ray.errors import ConfigError, DataError
from afp_ray.ledger import Ledger, replay
from afp_ray.planning.check import check_study
from afp_ray.records import Score, TrainingSummary, TrialResult, TrialStatus
from afp_ray.search import measure_of, prior_studies
from afp_ray.store import StudyPaths
from services import cli
from services.answers import best_answer
from services.status import status_answer

TUNE = {"loss.layer": {"low": 0, "high": 6, "int": True}}
GUARD = [{"metric": "pivot_mean", "min": 0.6}]


def write_trials(paths: StudyPaths, study: StudyConfig, rows: list[tuple[int, float, float]]) -> None:
    """Search trials of the arm `afp`, each a layer, its `mean` and its `pivot_mean`, into the ledger."""
    ledger = Ledger.open(paths, study)
    for layer, mean, pivot_mean in rows:
        common = {"trial_id": f"{layer:016x}", "arm": "afp", "seed": 0, "role": "search"}
        event(ledger, TrialStatus.PLANNED, 1_700_000_900.0, **common, config={}, params={"loss.layer": layer})
        event(ledger, TrialStatus.RUNNING, 1_700_000_901.0, **common)
        done = {"objective": mean, "values": {"pivot_mean": pivot_mean}, "splits": ("validation",), "gpu_hours": 0.1}
        event(ledger, TrialStatus.DONE, 1_700_000_905.0, **common, **done)
    ledger.close("complete")


def searched(
    storage: Path, *, rows: list[tuple[int, float, float]], confirmed: bool = True, **fields: Any
) -> StudyPaths:
    content = {**make_study().model_dump(), "tune": TUNE, "objective": {"also": [{"metric": "pivot_mean"}]}, **fields}
    study = StudyConfig.model_validate(content)
    methods = ("base", "mcl", "afp") if confirmed else ()
    paths = fabricate(storage, study=study, methods=methods, with_failure=False)
    write_trials(paths, study, rows)
    return paths


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFP_STORAGE", str(tmp_path))
    return tmp_path


def test_the_front_stands_in_the_answer_and_on_the_screen(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searched(storage, rows=[(1, 0.5, 0.9), (2, 0.7, 0.7), (3, 0.6, 0.6), (4, 0.4, 0.95)])
    fronts = {front.arm: front for front in best_answer(storage, "demo").fronts}
    assert [point.params["loss.layer"] for point in fronts["afp"].points] == [2, 1, 4]
    assert fronts["afp"].points[0].is_chosen
    assert cli.main(["best", "demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fronts"][-1]["points"][0]["values"] == {"mean": 0.7, "pivot_mean": 0.7}
    assert cli.main(["best", "demo", "--pareto"]) == 0
    shown = capsys.readouterr().out
    assert "afp: front of the search on validation (maximize mean, maximize pivot_mean)" in shown
    assert f"{2:016x}" in shown and f"{3:016x}" not in shown
    assert cli.main(["report", "demo"]) == 0
    assert "afp: front of the search on validation" in (storage / "demo" / "report.html").read_text("utf-8")


def test_a_plain_search_has_no_front_to_tell(storage: Path) -> None:
    fabricate(storage)
    assert best_answer(storage, "demo").fronts == ()
    assert status_answer(storage, "demo").notes == ()


def test_limits_that_nothing_keeps_are_told_wherever_one_asks(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched(storage, rows=[(1, 0.5, 0.55), (2, 0.7, 0.3)], confirmed=False, constraints=GUARD)
    (note,) = status_answer(storage, "demo").notes
    assert note.startswith("afp: none of 2 scored trials keeps the limits, so nothing of afp is confirmed")
    assert "passes pivot_mean >= 0.6 by 0.05" in note
    assert cli.main(["status", "demo"]) == 0
    assert note in capsys.readouterr().out
    with pytest.raises(DataError) as caught:
        best_answer(storage, "demo")
    assert "none of 2 scored trials keeps the limits" in caught.value.problem
    assert "loosen the constraint" in caught.value.fix


def test_a_result_is_measured_for_everything_that_the_study_asks() -> None:
    study = make_searched(objective={"also": [{"metric": "xcopa"}]}, constraints=[{"metric": "pivot_mean", "min": 0.1}])
    cells = {("xcopa", "th"): 0.5, ("xcopa", "zh"): 0.7, ("xnli", "en"): 0.25, ("xcopa", "en"): 0.75}
    result = TrialResult(
        trial_id="a",
        config={"data": {"pivot": "en"}},
        splits=("validation",),
        scores=tuple(
            Score(task=task, language=code, split="validation", metric="accuracy", value=value, n=4)
            for (task, code), value in cells.items()
        ),
        training=TrainingSummary(steps=1),
    )
    assert measure_of(study)(result)[1] == {"xcopa": pytest.approx(0.6), "pivot_mean": pytest.approx(0.5)}
    assert measure_of(make_searched())(result)[1] == {}


@pytest.mark.parametrize(
    ("fields", "where", "text"),
    [
        ({"objective": {"also": [{"metric": "xcopa"}]}}, "objective.also", "'xcopa' is not among the scores"),
        ({"constraints": [{"metric": "alignment", "max": 1.0}]}, "constraints", "'alignment' is not among the scores"),
        (
            {"constraints": [{"metric": "mean", "max_drop": 0.1}], "compare": {"method": ["afp"]}},
            "constraints.max_drop",
            "no such arm",
        ),
    ],
)
def test_what_no_trial_would_have_is_refused_before_anything_starts(
    fields: dict[str, Any], where: str, text: str
) -> None:
    fixed = {"model.name": "embedded", "evaluation.tasks": ["xnli"], "evaluation.representation": None}
    with pytest.raises(ConfigError) as caught:
        check_study(make_searched(fixed=fixed, tune={}, **fields))
    assert text in caught.value.problem
    assert caught.value.where == where


def test_the_studies_of_a_warm_start_are_found_or_named(storage: Path) -> None:
    searched(storage, rows=[(1, 0.5, 0.9), (2, 0.7, 0.7)])
    study = make_searched(name="next", warm_start=["demo"], tune=TUNE, fixed=make_study().fixed)
    (prior,) = prior_studies(study, storage)
    assert prior.config.name == "demo"
    assert len(prior.trials) == len(replay(StudyPaths(storage, "demo").ledger).trials)
    assert prior_studies(make_searched(), storage) == ()
    with pytest.raises(ConfigError) as caught:
        prior_studies(study.model_copy(update={"warm_start": ("demmo",)}), storage)
    assert (caught.value.where, caught.value.allowed) == ("warm_start", "demo")


def test_export_writes_once_and_says_how_to_look(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searched(storage, rows=[(1, 0.5, 0.9), (2, 0.7, 0.7)])
    file = storage / "for optuna.log"
    answers = []
    for _ in range(2):
        assert cli.main(["export", "demo", "--optuna", str(file), "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    # The confirmed trials of this study were made up without values of the searched field: they are no point of it.
    assert (answers[0]["changed"], answers[0]["trials"], answers[0]["left_out"]) == (3, 3, 4)
    assert answers[0]["studies"] == ["demo/base", "demo/mcl", "demo/afp"]
    assert answers[1] == {**answers[0], "changed": 0}
    assert answers[0]["open_with"] == f"optuna-dashboard '{file.resolve()}' --host 127.0.0.1"
    assert cli.main(["export", "demo", "--optuna", str(storage / "demo" / "study.json")]) == 2
    assert "no journal of Optuna" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("objective: {also: [{metric: pivotmean}]}", "objective.also.0.metric = 'pivotmean' is not known"),
        ("constraints: [{metric: xcopa/xx, min: 0.1}]", "language 'xx' is unknown"),
    ],
)
def test_a_metric_that_is_none_is_refused_at_its_line(tmp_path: Path, line: str, text: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"name: s\n{line}\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        load.load_study(file, [])
    assert text in str(caught.value)
    assert caught.value.where.startswith(f"{file}:2:")


def test_a_study_file_can_ask_for_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "guarded.yaml"
    file.write_text(
        """
name: guarded
objective: {metric: mean, also: [{metric: pivot_mean}]}
constraints: [{metric: pivot_mean, max_drop: 0.02}]
compare: {method: [base, afp]}
sampler: {name: nsga2, population: 6}
warm_start: [earlier]
tune:
  loss.pooling: {choices: [last, mean]}
  loss.layer: {low: 1, high: 3, int: true, when: {loss.pooling: mean}}
""",
        "utf-8",
    )
    study = load.load_study(file, [])
    assert study.tune["loss.layer"].when == {"loss.pooling": ("mean",)}
    assert [goal.metric for goal in study.objective.goals] == ["mean", "pivot_mean"]
    assert len(Played(study.model_copy(update={"warm_start": ()})).run().of("search")) == 4
    assert StudyConfig.model_validate_json(study.model_dump_json()) == study
