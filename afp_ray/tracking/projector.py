"""Writes a study's state into MLflow: one experiment, one parent run, exactly one child run per trial."""

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Set before mlflow is imported: it reports its use by default, and waits minutes for a server that is away.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_name, _value)

from filelock import FileLock  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

from afp_ray.config import StudyConfig  # noqa: E402
from afp_ray.errors import UnavailableError  # noqa: E402
from afp_ray.ledger import holder  # noqa: E402
from afp_ray.records import StudyState, TrialRecord, TrialResult, TrialStatus  # noqa: E402
from afp_ray.store import StudyPaths  # noqa: E402
from afp_ray.tracking.content import RunContent, params_of, redact, run_content  # noqa: E402
from afp_ray.tracking.location import ARTIFACTS, default_uri, sqlite_file, write_runs  # noqa: E402

_PARENT, _DIGEST, _CHILD_OF = "study", "afp.digest", "mlflow.parentRunId"


class MlflowProjector:
    """The one writer of a study's MLflow runs; calling it twice changes nothing."""

    def __init__(self, study: StudyConfig, paths: StudyPaths, tracking_uri: str) -> None:
        self.study, self.paths, self.uri = study, paths, tracking_uri
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._runs: dict[str, _Written] | None = None  # by trial id, the parent under ""; None: ask MLflow
        self._seen: dict[str, str] = {}  # record of a trial -> digest of its run, to skip what cannot have changed

    def project(self, state: StudyState) -> int:
        """Make MLflow show `state`.

        Args:
            state: replayed from the ledger; results are read from the study's folder.
        Returns: runs that were created or changed.
        Raises: UnavailableError when MLflow cannot be reached or written.
        """
        try:
            return self._project(state)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self._runs = None
            raise UnavailableError(f"MLflow at {self.uri}: {str(error).splitlines()[0]}") from error

    def _project(self, state: StudyState) -> int:
        client = self._connect()
        if self._runs is None:
            self._runs = _existing(client, self._experiment, self.study.name)
        runs = self._runs
        is_driven = state.closed is None and holder(self.paths) is not None
        content = self._study_content(state, is_driven=is_driven)
        changed = self._write(client, "", content, started=state.opened_at, ended=None)
        parent = runs[""].run_id
        for trial in state.trials:
            run = runs.get(trial.trial_id)
            if run is None and trial.status is TrialStatus.PLANNED:
                continue  # a run appears when its trial starts
            record = f"{trial.trial_id} {trial.attempt} {trial.status} {trial.splits} {trial.test_pending} {is_driven}"
            if run is not None and run.tags.get(_DIGEST) == self._seen.get(record, ""):
                continue
            child = self._trial_content(trial, parent, is_driven=is_driven)
            started = trial.started_at or trial.planned_at
            changed += self._write(client, trial.trial_id, child, started=started, ended=trial.ended_at)
            self._seen[record] = child.digest
        if changed or not self.paths.mlflow.is_file():
            known = {trial_id: run.run_id for trial_id, run in runs.items() if trial_id}
            write_runs(self.paths, self.uri, experiment_id=self._experiment, parent=parent, runs=known)
        return changed

    def _connect(self) -> MlflowClient:
        """The client, once schema and experiment exist; the first process makes them, under a lock."""
        if self._client is not None:
            return self._client
        client = MlflowClient(tracking_uri=self.uri)
        file = sqlite_file(self.uri)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.lock", timeout=120):
                self._experiment = self._open_experiment(client)
        else:
            self._experiment = self._open_experiment(client)
        self._client = client
        return client

    def _open_experiment(self, client: MlflowClient) -> str:
        experiment = client.get_experiment_by_name(self.study.name)
        if experiment is None:
            is_ours = self.uri == default_uri(self.paths.storage)
            folder = (self.paths.storage / ARTIFACTS / self.study.name).as_uri() if is_ours else None
            return str(client.create_experiment(self.study.name, artifact_location=folder))
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _study_content(self, state: StudyState, *, is_driven: bool) -> RunContent:
        """The parent run: what was asked, how far it is, and the report."""
        counts = {str(status): 0 for status in TrialStatus}
        for trial in state.trials:
            counts[str(trial.status)] += 1
        reason = (state.closed or "").partition(":")[0]
        finished = {"complete": "FINISHED", "budget": "FINISHED", "error": "FAILED"}.get(reason, "KILLED")
        study = self.study.model_dump(mode="json")
        files = {"study.json": json.dumps(study, indent=1, ensure_ascii=False)}
        for file in (self.paths.report, *(self.paths.comparison(suffix) for suffix in ("md", "tex", "csv", "json"))):
            if file.is_file():
                files[file.name] = file.read_text("utf-8", errors="replace")
        return RunContent(
            status="RUNNING" if is_driven else finished,
            tags={
                "afp.study": self.study.name,
                "afp.kind": _PARENT,
                "afp.status": state.closed or ("RUNNING" if is_driven else "INTERRUPTED"),
                "mlflow.runName": self.study.name,
                "mlflow.note.content": self.study.description,
            },
            params=params_of({key: study[key] for key in ("objective", "seeds", "sampler", "budget")}),
            metrics={f"trials/{name.lower()}": float(count) for name, count in counts.items()},
            files=files,
        )

    def _trial_content(self, trial: TrialRecord, parent: str, *, is_driven: bool) -> RunContent:
        result = _read_result(self.paths.trial(trial.trial_id).result) if trial.status is TrialStatus.DONE else None
        content = run_content(self.study.name, trial, result, is_driven=is_driven)
        content.tags[_CHILD_OF] = parent
        failure = self.paths.trial(trial.trial_id).failure(trial.attempt)
        if trial.failure is not None and failure.is_file():
            content.files["failure.txt"] = redact(failure.read_text("utf-8", errors="replace"))
        return content

    def _write(
        self, client: MlflowClient, key: str, content: RunContent, *, started: float | None, ended: float | None
    ) -> int:
        """Create or change the run under `key`; returns whether anything was written.

        The digest is written last: a kill in between leaves a run that the next projection writes again.
        """
        assert self._runs is not None
        run = self._runs.get(key)
        if run is not None and run.tags.get(_DIGEST) == content.digest:
            return 0
        if run is None:
            start = int((started or time.time()) * 1000)
            run = _Written.of(client.create_run(self._experiment, start_time=start, tags=content.tags))
            self._runs[key] = run
        stamp = int((ended or time.time()) * 1000)
        # Params are write-once, and what was written before cannot differ: the trial id is a hash of them.
        params = [Param(name, text) for name, text in content.params.items() if name not in run.params]
        changed = {name: value for name, value in content.metrics.items() if run.metrics.get(name) != value}
        tags = {name: text for name, text in content.tags.items() if run.tags.get(name) != text}
        tags[_DIGEST] = content.digest
        for batch in _chunks(params[100:], 100):
            client.log_batch(run.run_id, params=batch)
        metrics = [Metric(name, value, stamp, 0) for name, value in changed.items()]
        client.log_batch(run.run_id, metrics=metrics, params=params[:100])
        for name, text in content.files.items():
            if run.files.get(name) != text:
                client.log_text(run.run_id, text, name)
        if content.datasets and not run.has_datasets:
            client.log_inputs(run.run_id, datasets=[_dataset(*item) for item in content.datasets.items()])
        if content.status == "RUNNING":
            client.update_run(run.run_id, status=content.status)
        else:
            client.set_terminated(run.run_id, status=content.status, end_time=stamp)
        client.log_batch(run.run_id, tags=[RunTag(name, text) for name, text in tags.items()])
        run.params |= set(content.params)
        run.metrics |= changed
        run.tags |= tags
        run.files = {} if key else content.files  # the parent alone is written again and again
        run.has_datasets = run.has_datasets or bool(content.datasets)
        return 1


@dataclass(slots=True)
class _Written:
    """What a run is known to hold."""

    run_id: str
    params: set[str]
    metrics: dict[str, float]
    tags: dict[str, str]
    has_datasets: bool
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run) -> "_Written":
        has_datasets = bool(run.inputs and run.inputs.dataset_inputs)
        data = run.data
        return cls(str(run.info.run_id), set(data.params), dict(data.metrics), dict(data.tags), has_datasets)


def _existing(client: MlflowClient, experiment: str, study: str) -> dict[str, _Written]:
    """The run of each trial, the parent under ""; a run too many, which a race can leave, is deleted."""
    runs: dict[str, _Written] = {}
    for run in _search(client, experiment, study):
        key = run.data.tags.get("afp.trial_id", "")
        if key in runs:
            client.delete_run(run.info.run_id)
        else:
            runs[key] = _Written.of(run)
    return runs


def _search(client: MlflowClient, experiment: str, study: str) -> Iterable[Run]:
    """Active runs of the study, oldest first."""
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment],
            filter_string=f"tags.`afp.study` = '{study}'",
            run_view_type=ViewType.ACTIVE_ONLY,
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _dataset(name: str, digest: str) -> DatasetInput:
    source = json.dumps({"fingerprint": digest})
    dataset = Dataset(name=name, digest=digest[:36] or "none", source_type="afp", source=source)
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", name)])


def _read_result(path: Path) -> TrialResult | None:
    try:
        return TrialResult.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def _chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
