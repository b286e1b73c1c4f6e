"""What MLflow shows of a study as a whole, beside its trials: scores of arms, verdicts, the view of its link."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate

from afp_ray.records import Comparison
from afp_ray.redaction import redact
from afp_ray.store import StudyPaths, read_study
from afp_ray.tracking.location import default_uri, runs_link
from afp_ray.tracking.run_content import MAX_TAG
from afp_ray.tracking.view import VIEW_TAG, view_state
from services.reports import write_reports

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
CURVE = "".join(
    json.dumps({"step": step, "contrastive_loss": 2 / step, "gradient_norm": 1.0}) + "\n" for step in range(1, 6)
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, schema: Path) -> StudyPaths:
    """A finished study with its report, and curves of its trained trials."""
    paths = fabricate(tmp_path_factory.mktemp("runs"), methods=("base", "afp"), seeds=(0, 1))
    for folder in paths.trials.iterdir():
        if json.loads((folder / "config.json").read_text())["training"]["max_steps"]:
            (folder / "training.jsonl").write_text(CURVE)
    write_reports(paths)
    shutil.copy(schema, paths.storage)
    sync(paths)
    return paths


def sync(paths: StudyPaths) -> int:
    from afp_ray.tracking.projector import sync as sync_study

    return sync_study(read_study(paths), paths)[0]


def client_of(paths: StudyPaths) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=default_uri(paths.storage))


def experiment_of(paths: StudyPaths) -> Any:
    return client_of(paths).get_experiment_by_name(paths.name)


def runs_of(paths: StudyPaths) -> dict[str, Any]:
    """By trial; the study's own under "study"."""
    runs = client_of(paths).search_runs([experiment_of(paths).experiment_id])
    return {run.data.tags.get("afp.trial_id", "study"): run for run in runs}


def test_the_studys_run_has_every_arms_score_difference_and_verdict(study: StudyPaths) -> None:
    table = Comparison.model_validate_json(study.comparison("json").read_bytes())
    own = runs_of(study)["study"]
    assert own.info.run_name == "study demo"
    for arm in table.arms:
        assert arm.mean is not None
        assert own.data.metrics[f"arm_mean/{arm.arm}"] == arm.mean.mean
        assert own.data.metrics[f"arm_validation/{arm.arm}"] == arm.validation
        delta = arm.mean.vs_base
        assert own.data.metrics.get(f"arm_mean_delta/{arm.arm}") == (None if delta is None else delta.delta)
        assert own.data.tags.get(f"afp.verdict/{arm.arm}") == (None if arm.is_base else arm.verdict)
    assert not any(name.startswith("trials/") for name in own.data.metrics)
    assert own.data.tags["afp.trials"] == "3 DONE, 1 FAILED"


def test_the_experiment_says_what_came_of_the_study(study: StudyPaths) -> None:
    table = Comparison.model_validate_json(study.comparison("json").read_bytes())
    said = experiment_of(study).tags["mlflow.note.content"]
    assert table.headline is not None and said.startswith(f"**{table.headline.text}**")
    assert read_study(study).description in said
    assert json.loads(experiment_of(study).tags[VIEW_TAG])["orderByKey"] == "metrics.`objective`"


def test_the_view_shows_columns_and_charts_of_what_runs_have(study: StudyPaths) -> None:
    text = view_state(read_study(study))
    assert len(text) < MAX_TAG  # what MLflow keeps of a tag
    view = json.loads(text)
    runs = runs_of(study).values()
    there = {f"tags.`{name}`" for run in runs for name in run.data.tags}
    there |= {f"metrics.`{name}`" for run in runs for name in run.data.metrics}
    there |= {f"params.`{name}`" for run in runs for name in run.data.params}
    assert set(view["selectedColumns"]) - there == {"metrics.`training/training_hours`"}  # made-up results lack it
    shown = {chart["metricKey"] for chart in view["compareRunCharts"] if "metricKey" in chart}
    idle = {"curve/instruction_loss", "curve/gradient_cosine"}
    assert {f"metrics.`{name}`" for name in shown - idle} <= there
    sections = {section["uuid"] for section in view["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == sections


def test_the_link_leads_to_the_runs_of_the_study(study: StudyPaths, tmp_path: Path) -> None:
    identity = experiment_of(study).experiment_id
    link = runs_link(default_uri(study.storage), study)
    assert link == f"http://127.0.0.1:5000/#/experiments/{identity}/runs?viewStateShareKey=afp"
    assert redact(link) == link and "***" in redact(link.replace("=afp", "=secret"))
    assert runs_link("http://elsewhere:1", study) == ""  # nothing is noted of that server
    assert runs_link(default_uri(tmp_path), StudyPaths(tmp_path, "none")) == ""


def test_curves_are_stepped_and_the_same_in_another_database(study: StudyPaths, tmp_path: Path, schema: Path) -> None:
    def history(paths: StudyPaths) -> dict[str, list[tuple[int, int, float]]]:
        return {
            key: [
                (point.step, point.timestamp, point.value)
                for point in client_of(paths).get_metric_history(run.info.run_id, "curve/contrastive_loss")
            ]
            for key, run in runs_of(paths).items()
        }

    first = history(study)
    assert sorted(len(points) for points in first.values()) == [0, 0, 0, 5, 5]  # study, base and what failed have none
    curve = [2 / step for step in range(1, 6)]
    assert all([value for *_, value in points] == curve for points in first.values() if points)
    other = StudyPaths(tmp_path, study.name)
    shutil.copytree(study.folder, other.folder, ignore=shutil.ignore_patterns("mlflow.json", "outbox.json"))
    shutil.copy(schema, tmp_path)
    sync(other)
    assert history(other) == first


def test_runs_of_an_earlier_form_are_written_anew_once(study: StudyPaths) -> None:
    """Nested runs whose names have six digits, one of them renamed and one tagged by hand."""
    sync(study)
    client, runs = client_of(study), runs_of(study)
    own = runs.pop("study")
    client.set_tag(own.info.run_id, "mlflow.runName", "demo")
    client.log_metric(own.info.run_id, "trials/paused", 0.0)
    for trial_id, run in runs.items():
        client.set_tag(run.info.run_id, "mlflow.parentRunId", own.info.run_id)
        client.set_tag(
            run.info.run_id,
            "mlflow.runName",
            f"{run.data.tags['afp.arm']} seed {run.data.tags['afp.seed']} {trial_id[:6]}",
        )
    for run in (own, *runs.values()):
        client.delete_tag(run.info.run_id, "afp.form")
        client.set_tag(run.info.run_id, "afp.digest", "of another form")
    tagged, named = sorted(runs)[:2]
    client.set_tag(runs[tagged].info.run_id, "mine", "yes")
    client.set_tag(runs[named].info.run_id, "mlflow.runName", "the one for the talk")
    assert sync(study) == 5
    again = runs_of(study)
    assert len(client.search_runs([own.info.experiment_id])) == len(again) == 5
    assert not any("mlflow.parentRunId" in run.data.tags for run in again.values())
    assert not any(name.startswith("trials/") for name in again["study"].data.metrics)
    assert again["study"].info.run_name == "study demo" and again[named].info.run_name == "the one for the talk"
    assert again[tagged].data.tags["mine"] == "yes" and again[tagged].info.run_name.endswith(tagged[:4])
    assert sync(study) == 0


def test_a_description_that_was_written_by_hand_stays(study: StudyPaths) -> None:
    sync(study)
    client, experiment = client_of(study), experiment_of(study)
    client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", "see my notes")
    client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, "{}")
    sync(study)
    tags = experiment_of(study).tags
    assert tags["mlflow.note.content"] == "see my notes" and tags[VIEW_TAG] != "{}"


def test_a_table_of_another_version_is_told_once(study: StudyPaths, caplog: pytest.LogCaptureFixture) -> None:
    whole = study.comparison("json").read_text()
    study.comparison("json").write_text('{"from": "elsewhere"}')
    try:
        sync(study)
        assert "afp report demo && afp sync demo" in caplog.text
        assert not any(name.startswith("arm_") for name in runs_of(study)["study"].data.tags)
    finally:
        study.comparison("json").write_text(whole)
