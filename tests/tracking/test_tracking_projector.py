"""MLflow shows the ledger: one run per trial whatever happens, none left running, rebuilt from the files alone."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate, leave_running

from afp_ray.config import StudyConfig
from afp_ray.errors import UnavailableError
from afp_ray.ledger import Ledger, replay
from afp_ray.records import StudyState, TrialResult
from afp_ray.store import StudyPaths
from afp_ray.tracking.background import BackgroundProjector
from afp_ray.tracking.content import MAX_METRICS, params_of, redact, run_content
from afp_ray.tracking.location import default_uri, find_run, tracking_uri

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

    return MlflowProjector(study_of(paths), paths, uri or default_uri(paths.storage)).project(replay(paths.ledger))


def runs_of(paths: StudyPaths) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(paths.storage))
    experiment = client.get_experiment_by_name(paths.name)
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def shown(run: Any) -> tuple[Any, ...]:
    """What a rebuilt run must have in common with the first; ids and places of artifacts are the database's own."""
    own = ("mlflow.parentRunId", "afp.digest")
    tags = {key: value for key, value in run.data.tags.items() if key not in own}
    return run.info.status, run.info.start_time, tags, run.data.params, run.data.metrics


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without a run; making one takes seconds."""
    from mlflow import MlflowClient

    import afp_ray.tracking.projector  # noqa: F401

    file = tmp_path_factory.mktemp("schema") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


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
    assert len(parents) == 1
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
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
    assert {item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs}["evaluation"] == "e" * 16
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


class Recorder:
    """A projector that notes what it was shown, and fails or waits as told."""

    def __init__(self, *, fail: Callable[[], bool] = lambda: False, gate: threading.Event | None = None) -> None:
        self.seen: list[str] = []
        self.fail, self.gate = fail, gate
        self.entered = threading.Event()

    def project(self, state: StudyState) -> int:
        self.entered.set()
        if self.gate is not None:
            self.gate.wait(10)
        if self.fail():
            raise UnavailableError("the server is away")
        self.seen.append(state.name)
        return 1


def test_states_in_between_are_skipped_and_the_last_is_shown() -> None:
    gate = threading.Event()
    recorder = Recorder(gate=gate)
    projector = BackgroundProjector(lambda: recorder, study="demo", interval_s=0)
    projector.submit(StudyState(name="0"))
    assert recorder.entered.wait(10)
    for number in range(1, 50):
        projector.submit(StudyState(name=str(number)))  # returns at once, though the first still waits
    gate.set()
    assert projector.close(10)
    assert recorder.seen == ["0", "49"]


def test_a_failure_gives_one_warning_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    down = [True]
    recorder = Recorder(fail=lambda: down[0])
    projector = BackgroundProjector(lambda: recorder, study="demo", interval_s=0)
    projector.submit(StudyState(name="first"))
    assert recorder.entered.wait(10)
    down[0] = False
    projector.submit(StudyState(name="last"))
    assert projector.close(10)
    assert recorder.seen[-1] == "last"
    assert len([record for record in caplog.records if "afp sync demo" in record.getMessage()]) == 1


def test_close_keeps_its_deadline_when_the_server_hangs(caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()
    recorder = Recorder(gate=gate)
    projector = BackgroundProjector(lambda: recorder, study="demo", interval_s=0)
    projector.submit(StudyState(name="0"))
    assert recorder.entered.wait(10)
    assert projector.close(0.05) is False
    assert "afp sync demo" in caplog.text
    gate.set()
