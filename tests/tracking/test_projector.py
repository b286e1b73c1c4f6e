"""MLflow shows the ledger: one run per trial whatever happens, none left running, rebuilt from the files alone."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabricate import event, fabricate, leave_running, make_config, make_result, make_study

from afp_ray.config import StudyConfig
from afp_ray.errors import UnavailableError
from afp_ray.ledger import Ledger, replay
from afp_ray.records import Failure, FailureClass, TrialResult, Until
from afp_ray.redaction import redact
from afp_ray.store import StudyPaths, write_atomic, write_json
from afp_ray.tracking.location import default_uri, find_run, tracking_uri
from afp_ray.tracking.run_content import MAX_METRICS, params_of, run_content

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def study_of(paths: StudyPaths) -> StudyConfig:
    return StudyConfig.model_validate_json(paths.study.read_bytes())


def project(paths: StudyPaths, uri: str | None = None) -> int:
    from afp_ray.tracking.projector import MlflowProjector

    return MlflowProjector(study_of(paths), paths, uri or default_uri(paths.storage), verify=True).project()


def runs_of(paths: StudyPaths) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(paths.storage))
    experiment = client.get_experiment_by_name(paths.name)
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def shown(run: Any) -> tuple[Any, ...]:
    """What a rebuilt run must have in common with the first; ids and places of artifacts are the database's own."""
    tags = {key: value for key, value in run.data.tags.items() if key != "afp.digest"}
    return run.info.status, run.info.start_time, tags, run.data.params, run.data.metrics


@pytest.fixture(scope="module")
def projected(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    paths = fabricate(tmp_path_factory.mktemp("runs"))
    assert project(paths) == 7  # the parent, five finished trials and a failed one
    return paths


def test_projecting_again_changes_nothing(projected: StudyPaths) -> None:
    before = sorted(run.info.run_id for run in runs_of(projected))
    assert project(projected) == 0
    assert sorted(run.info.run_id for run in runs_of(projected)) == before


def test_each_trial_has_exactly_one_run_and_none_is_running(projected: StudyPaths) -> None:
    runs, state = runs_of(projected), replay(projected.ledger)
    children = [run for run in runs if "afp.trial_id" in run.data.tags]
    parents = [run for run in runs if "afp.trial_id" not in run.data.tags]
    assert sorted(run.data.tags["afp.trial_id"] for run in children) == sorted(trial.trial_id for trial in state.trials)
    assert [run.data.tags["afp.kind"] for run in parents] == ["study"]
    assert {run.data.tags["afp.kind"] for run in children} == {"trial"}
    assert not any("mlflow.parentRunId" in run.data.tags for run in runs)  # nested runs are hidden at first
    assert sorted(run.info.status for run in runs) == ["FAILED", *["FINISHED"] * 6]


def test_a_run_shows_its_trial(projected: StudyPaths) -> None:
    state = replay(projected.ledger)
    trial = next(trial for trial in state.trials if trial.arm == "afp" and trial.seed == 1)
    run = next(run for run in runs_of(projected) if run.data.tags.get("afp.trial_id") == trial.trial_id)
    tags = run.data.tags
    assert (tags["afp.study"], tags["afp.arm"], tags["afp.seed"], tags["afp.status"], tags["afp.attempt"]) == (
        "demo", "afp", "1", "DONE", "1",
    )  # fmt: skip
    assert run.data.params["loss.temperature"] == "0.05"
    assert run.data.metrics["objective"] == 0.7
    assert run.data.metrics["retrieval_at_1/test"] == pytest.approx(0.7)
    assert len(run.data.metrics) <= MAX_METRICS
    assert {item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs} == {
        "embedded: en with zh sw": "d" * 16,
        "embedded: xcopa xnli in en zh sw": "e" * 16,
        "embedded: held-out pairs": "h" * 16,
    }
    assert (run.info.run_name, tags["afp.role"]) == (f"afp seed 1 {trial.trial_id[:4]}", "confirm")
    assert f"afp show {trial.trial_id}" in tags["mlflow.note.content"]
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(projected.storage / "mlartifacts")
    table = json.loads((folder / "scores.json").read_text())
    result = TrialResult.model_validate_json(projected.trial(trial.trial_id).result.read_bytes())
    assert len(table["data"]) == len(result.scores)
    assert json.loads((folder / "config.json").read_text()) == trial.config
    assert find_run(projected, trial.trial_id) == run.info.run_id


def test_a_deleted_database_is_rebuilt_the_same(tmp_path: Path, schema: Path) -> None:
    paths = fabricate(tmp_path, methods=("base", "afp"), seeds=(0,))
    shutil.copy(schema, tmp_path)
    project(paths)
    before = sorted(map(repr, map(shown, runs_of(paths))))
    (tmp_path / "mlflow.db").unlink()
    assert find_run(paths, replay(paths.ledger).trials[0].trial_id) is None
    shutil.copy(schema, tmp_path)
    project(paths)
    assert sorted(map(repr, map(shown, runs_of(paths)))) == before


def test_a_killed_driver_leaves_no_run_running_and_a_deleted_run_comes_back(tmp_path: Path, schema: Path) -> None:
    from mlflow import MlflowClient

    paths = fabricate(tmp_path, methods=("afp",), seeds=(0,), with_failure=False)
    shutil.copy(schema, tmp_path)
    lost = leave_running(paths)
    ledger = Ledger.open(paths, study_of(paths))  # a driver is at work
    project(paths)
    by_id = {run.data.tags.get("afp.trial_id"): run for run in runs_of(paths)}
    assert (by_id[lost].info.status, by_id[None].info.status) == ("RUNNING", "RUNNING")
    ledger.release()  # and dies
    project(paths)
    runs = runs_of(paths)
    assert {run.info.status for run in runs} == {"FINISHED", "KILLED"}
    MlflowClient(tracking_uri=default_uri(tmp_path)).delete_run(by_id[lost].info.run_id)
    project(paths)
    assert sorted(str(run.data.tags.get("afp.trial_id")) for run in runs_of(paths)) == sorted(
        str(run.data.tags.get("afp.trial_id")) for run in runs
    )


def history(paths: StudyPaths) -> dict[str, list[tuple[int, float]]]:
    """Every point of the objective, by trial."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(paths.storage))
    return {
        run.data.tags["afp.trial_id"]: sorted(
            (point.step, point.value) for point in client.get_metric_history(run.info.run_id, "objective")
        )
        for run in runs_of(paths)
        if "afp.trial_id" in run.data.tags
    }


def artifacts(paths: StudyPaths) -> dict[str, list[str]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(paths.storage))
    return {
        run.data.tags.get("afp.trial_id", ""): sorted(file.path for file in client.list_artifacts(run.info.run_id))
        for run in runs_of(paths)
    }


def halve(paths: StudyPaths, after_event: Callable[[], object]) -> tuple[str, str]:
    """A search over two rungs: one trial loses a worker, pauses and is promoted, the other is never promoted."""
    study = make_study(paths.name, methods=("afp",), seeds=(0,))
    config = make_config(study, "afp", 0)
    first, second = "b" * 16, "c" * 16
    lost = Failure(failure_class=FailureClass.INFRA, message="the worker died")
    rungs = [Until(rung=0, unit="steps", amount=2), Until(rung=1, unit="steps", amount=4)]

    def say(ledger: Ledger, state: str, trial_id: str, **fields: Any) -> None:
        event(ledger, state, next(clock), trial_id=trial_id, arm="afp", seed=0, role="search", **fields)
        after_event()

    def pause(ledger: Ledger, trial_id: str, until: Until, value: float) -> None:
        result = make_result(
            config, trial_id, paths.trial(trial_id).folder, accuracy=value, splits=("validation",)
        ).model_copy(update={"status": "PAUSED", "until": until})
        write_json(paths.trial(trial_id).rung(until.rung), result.model_dump(mode="json"))
        say(ledger, "PAUSED", trial_id, attempt=2, objective=value, until=until)

    clock = (1_700_000_000.0 + number for number in range(100))
    with Ledger.open(paths, study) as ledger:
        content = config.model_dump(mode="json")
        for attempt in (1, 2):
            say(ledger, "PLANNED", first, config=content, until=rungs[0], attempt=attempt)
            say(ledger, "RUNNING", first, attempt=attempt)
            if attempt == 1:
                write_atomic(paths.trial(first).failure(1), "Traceback of the first attempt")
                say(ledger, "FAILED", first, failure=lost)
        pause(ledger, first, rungs[0], 0.4)
        say(ledger, "PLANNED", second, config=content, until=rungs[0])
        say(ledger, "RUNNING", second)
        pause(ledger, second, rungs[0], 0.3)
        pause(ledger, first, rungs[1], 0.5)
        say(ledger, "RUNNING", first, attempt=2)
        make_result(config, first, paths.trial(first).folder, accuracy=0.7, splits=("validation",))
        say(ledger, "DONE", first, attempt=2, objective=0.7, splits=("validation",), gpu_hours=0.1)
        say(ledger, "PRUNED", second, attempt=2)
        ledger.close("complete")
        after_event()
    return first, second


def test_what_was_written_event_by_event_is_what_an_empty_database_gets(tmp_path: Path, schema: Path) -> None:
    from afp_ray.tracking.projector import MlflowProjector

    study = make_study(methods=("afp",), seeds=(0,))
    paths = StudyPaths(tmp_path, study.name)
    shutil.copy(schema, tmp_path)
    projector = MlflowProjector(study, paths, default_uri(tmp_path))
    statuses: list[set[str]] = []

    def after_event() -> None:
        projector.project()
        statuses.append({run.info.status for run in runs_of(paths)})

    first, second = halve(paths, after_event)
    assert all("RUNNING" in found for found in statuses[:-1])
    assert statuses[-1] == {"FINISHED", "KILLED"}
    assert history(paths) == {first: [(2, 0.4), (4, 0.5), (5, 0.7)], second: [(2, 0.3)]}
    by_id = {run.data.tags.get("afp.trial_id"): run for run in runs_of(paths)}
    assert by_id[first].data.metrics["objective"] == 0.7  # MLflow shows the value at the last step
    assert "afp.failure" not in by_id[first].data.tags
    assert by_id[second].data.tags["afp.status"] == "PRUNED"
    before = sorted(map(repr, map(shown, runs_of(paths)))), history(paths), artifacts(paths)
    (tmp_path / "mlflow.db").unlink()
    shutil.copy(schema, tmp_path)
    project(paths)
    assert (sorted(map(repr, map(shown, runs_of(paths)))), history(paths), artifacts(paths)) == before


def test_a_restarted_driver_asks_only_for_what_changed(
    tmp_path: Path, schema: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    from afp_ray.tracking.projector import MlflowProjector

    paths = fabricate(tmp_path, methods=("base", "afp"), seeds=(0, 1))
    shutil.copy(schema, tmp_path)
    project(paths)
    asked: list[str] = []
    get_run, search = MlflowClient.get_run, MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "get_run", lambda self, run_id: asked.append(run_id) or get_run(self, run_id))
    monkeypatch.setattr(
        MlflowClient, "search_runs", lambda self, *args, **named: asked.append("search") or search(self, *args, **named)
    )
    assert MlflowProjector(study_of(paths), paths, default_uri(tmp_path)).project() == 0
    assert len(set(asked)) == 1  # the parent
    leave_running(paths)
    asked.clear()
    assert MlflowProjector(study_of(paths), paths, default_uri(tmp_path)).project() == 2  # the parent and the new one
    assert asked.count("search") == 1
    assert len(runs_of(paths)) == 6


def test_a_run_too_many_is_deleted(tmp_path: Path, schema: Path) -> None:
    from mlflow import MlflowClient

    paths = fabricate(tmp_path, methods=("afp",), seeds=(0,), with_failure=False)
    shutil.copy(schema, tmp_path)
    project(paths)
    run = next(run for run in runs_of(paths) if "afp.trial_id" in run.data.tags)
    tags = {key: run.data.tags[key] for key in ("afp.trial_id", "afp.study")}
    MlflowClient(tracking_uri=default_uri(tmp_path)).create_run(run.info.experiment_id, tags=tags)
    project(paths)
    assert len(runs_of(paths)) == 2


def test_a_broken_database_is_said_to_be_away(tmp_path: Path) -> None:
    paths = fabricate(tmp_path, methods=("afp",), seeds=(0,))
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(UnavailableError, match="MLflow at sqlite"):
        project(paths)


def test_urls_lose_their_password_and_long_params_go_to_the_file() -> None:
    assert redact("see https://me:secret@host/x") == "see https://***@host/x"
    params = params_of({"a": {"b": "x" * 501, "c": 1.5}, "d": None})
    assert params == {"a.b": "long: see config.json", "a.c": "1.5", "d": "null"}


def test_what_is_not_finite_is_left_out_and_named(tmp_path: Path) -> None:
    paths = fabricate(tmp_path, methods=("afp",), seeds=(0,), with_failure=False)
    record = replay(paths.ledger).trials[0].model_copy(update={"objective": float("inf")})
    content = run_content("demo", record, None, is_driven=False)
    assert "objective" not in content.metrics
    assert content.tags["afp.not_finite"] == "objective"


def test_the_uri_is_the_studys_then_the_environments_then_beside_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri(None, tmp_path) == "http://127.0.0.1:5000"
    assert tracking_uri("sqlite:////x.db", tmp_path) == "sqlite:////x.db"


def test_telemetry_is_off() -> None:
    import afp_ray.tracking.projector  # noqa: F401

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
