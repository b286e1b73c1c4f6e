"""Writes what the outbox of a study holds into MLflow: one experiment, a run of the study and one run per trial."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

# Set before mlflow is imported: it reports its use by default, and waits minutes for a server that is away. A request
# is sent once: what failed is done again as a whole, after a look at what arrived.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_name, _value)

from filelock import FileLock  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from pydantic import ValidationError  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

from afp_ray.config import StudyConfig  # noqa: E402
from afp_ray.errors import UnavailableError  # noqa: E402
from afp_ray.ledger import holder  # noqa: E402
from afp_ray.records import Comparison, TrialRecord, TrialStatus, Until  # noqa: E402
from afp_ray.redaction import redact  # noqa: E402
from afp_ray.store import StudyPaths, find_result, read_curve, read_incomplete  # noqa: E402
from afp_ray.tracking.connection import connect  # noqa: E402
from afp_ray.tracking.location import tracking_uri  # noqa: E402
from afp_ray.tracking.outbox import Outbox, note_failure  # noqa: E402
from afp_ray.tracking.run_content import DESCRIPTION, FORM, RUN_NAME, Rows, RunContent, run_content  # noqa: E402
from afp_ray.tracking.run_content import earlier_name as earlier_trial_name  # noqa: E402
from afp_ray.tracking.runs import DIGEST, PARENT, RunBook, Written, added_by_hand, renamed  # noqa: E402
from afp_ray.tracking.study_content import (  # noqa: E402
    EDITED,
    description_hash,
    earlier_name,
    experiment_tags,
    is_edited,
    study_content,
)

logger = logging.getLogger(__name__)
# It writes a traceback for every lock of a database, which is told in one line here.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

WRITE_LOCK_S = 20.0
MAX_BATCH = 900
"""Metrics of one request; with 100 params it holds all that MLflow takes."""
_CURVE_IS_WHOLE = frozenset({TrialStatus.DONE, TrialStatus.FAILED, TrialStatus.PRUNED, TrialStatus.CANCELLED})
"""States in which nothing is added to the curve of a trial, unless it is tried again."""


class MlflowProjector:
    """Writes a study's MLflow runs, one process at a time; calling it twice changes nothing."""

    def __init__(
        self,
        study: StudyConfig,
        paths: StudyPaths,
        tracking_uri: str,
        *,
        outbox: Outbox | None = None,
        verify: bool = False,
    ) -> None:
        """`verify` looks at every run, where the position of the outbox would be trusted otherwise."""
        self.study, self.paths, self.uri = study, paths, tracking_uri
        self.outbox = outbox or Outbox(paths, tracking_uri)
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._book: RunBook | None = None
        self._verify = verify
        self._is_in_doubt = False
        self._is_table_missed = False
        self._was_driven: bool | None = None
        self._shown: dict[str, str] | None = None

    @property
    def num_left(self) -> int:
        """Trials that the last projection left for the next."""
        return len(self.outbox.pending)

    def project(self, *, enough: Callable[[], bool] = lambda: False) -> int:
        """Make MLflow show the ledger.

        Args:
            enough: asked after every trial; true leaves the rest, which is `outbox.pending`, for the next call.
        Returns: runs that were created or changed.
        Raises: UnavailableError when MLflow cannot be reached or written; DataError when the ledger cannot be read.
        """
        try:
            with FileLock(self.paths.mlflow_lock, timeout=WRITE_LOCK_S):
                return self._project(enough)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            # What was sent may have arrived all the same, or may yet.
            self._book, self._shown, self._is_in_doubt = None, None, True
            first = redact(str(error).splitlines()[0] if str(error) else type(error).__name__)
            raise UnavailableError(f"MLflow at {redact(self.uri)}: {first}") from error

    def _project(self, enough: Callable[[], bool]) -> int:
        client = self._connect()
        state = self.outbox.read()
        book = self._open_book(client)
        is_driven = state.closed is None and holder(self.paths) is not None
        if self._was_driven not in (None, is_driven):
            self.outbox.expect_at_work()
        self._was_driven = is_driven
        comparison = self._comparison()
        content = study_content(
            self.study, state, is_driven=is_driven, comparison=comparison, files=self._study_files()
        )
        ends = [trial.ended_at for trial in state.trials if trial.ended_at is not None]
        ended = None if is_driven else max(ends, default=None)
        changed = self._write(client, book, PARENT, content, started=state.opened_at, ended=ended)
        self._show_experiment(client, experiment_tags(self.study, comparison))
        for trial_id in list(self.outbox.pending):
            if enough():
                break
            changed += self._show(client, book, trial_id, is_driven=is_driven)
            del self.outbox.pending[trial_id]
        if self._is_in_doubt and not self.outbox.pending:
            book.list_all()
            self._is_in_doubt = False
            self.outbox.pending |= dict.fromkeys(book.lost - {PARENT})
        book.save()
        self.outbox.settle(is_driven=is_driven)
        return changed

    def _show(self, client: MlflowClient, book: RunBook, trial_id: str, *, is_driven: bool) -> int:
        trial = self.outbox.trial(trial_id)
        if trial is None or (trial.status is TrialStatus.PLANNED and book.find(trial_id) is None):
            return 0  # a run appears when its trial starts
        content = self._trial_content(trial, is_driven=is_driven)
        # When it was planned first is the same however often it starts, so that a rebuilt run begins then too.
        return self._write(client, book, trial_id, content, started=trial.planned_at, ended=trial.ended_at)

    def _open_book(self, client: MlflowClient) -> RunBook:
        """The runs as they were left; all of them are looked at when that cannot be trusted."""
        book = self._book
        if book is None or book.is_stale():
            book = RunBook(client, self.paths, self.uri, self._experiment)
            is_known = self.outbox.is_known and not self._verify and not self._is_in_doubt
            if not book.open(is_known=is_known) and not self._is_in_doubt:
                self.outbox.expect_all()
            self.outbox.pending |= dict.fromkeys(book.lost - {PARENT})
            self._book, self._verify = book, False
        return book

    def _connect(self) -> MlflowClient:
        """The client, once schema and experiment exist."""
        if self._client is None:
            self._client, self._experiment = connect(self.paths, self.uri)
        return self._client

    def _comparison(self) -> Comparison | None:
        """The table of the study as it lies beside its report; None while there is none."""
        file = self.paths.comparison("json")
        try:
            return Comparison.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            if not self._is_table_missed:
                reason = error.strerror if isinstance(error, OSError) else "it is of another version"
                again = f"afp report {self.study.name} && afp sync {self.study.name}"
                logger.warning("MLflow shows no scores of arms: %s: %s; to write it anew: %s", file, reason, again)
            self._is_table_missed = True
            return None

    def _study_files(self) -> dict[str, str]:
        """Report and tables, by name."""
        files = (self.paths.report, *(self.paths.comparison(suffix) for suffix in ("md", "tex", "csv", "json")))
        return {file.name: file.read_text("utf-8", errors="replace") for file in files if file.is_file()}

    def _show_experiment(self, client: MlflowClient, tags: dict[str, str]) -> None:
        """Write what differs on the experiment; a description that was written by hand is kept."""
        if self._shown is None:
            self._shown = dict(client.get_experiment(self._experiment).tags)
        if is_edited(self._shown):
            tags = {name: text for name, text in tags.items() if name != DESCRIPTION}
        else:
            tags = {**tags, EDITED: description_hash(tags[DESCRIPTION])}
        for name, text in tags.items():
            if self._shown.get(name) != text:
                client.set_experiment_tag(self._experiment, name, text)
                self._shown[name] = text

    def _trial_content(self, trial: TrialRecord, *, is_driven: bool) -> RunContent:
        paths = self.paths.trial(trial.trial_id)
        result = find_result(paths.result) if trial.status is TrialStatus.DONE else None
        files = [paths.failure(attempt) for attempt in range(1, trial.attempt + 1)]
        return run_content(
            self.study.name,
            trial,
            result,
            is_driven=is_driven,
            rungs=self._rungs(trial),
            incomplete=read_incomplete(paths) if trial.status is TrialStatus.FAILED else None,
            failures={file.name: file.read_text("utf-8", errors="replace") for file in files if file.is_file()},
            curve=read_curve(paths.curve) if trial.status in _CURVE_IS_WHOLE else (),
        )

    def _rungs(self, trial: TrialRecord) -> list[Until]:
        """Where a trial was measured on the way, as its results of then say."""
        rungs: list[Until] = []
        for number in range(len(trial.rungs)):
            result = find_result(self.paths.trial(trial.trial_id).rung(number))
            until = result.until if result else None
            if until is None and trial.until is not None and trial.until.rung == number:
                until = trial.until
            rungs.append(until or Until(rung=number, unit="steps", amount=number))
        return rungs

    def _write(
        self,
        client: MlflowClient,
        book: RunBook,
        key: str,
        content: RunContent,
        *,
        started: float | None,
        ended: float | None,
    ) -> int:
        """Create or change the run under `key`; returns whether anything was written.

        The digest is written last: a kill in between leaves a run that the next projection writes again.
        """
        digest, is_over = content.digest, content.status != "RUNNING"
        if key != PARENT and book.is_written(key, digest):
            return 0
        start = int((started or time.time()) * 1000)
        run = book.find(key)
        if run is not None and run.tags.get(DIGEST) == digest:
            book.note(key, digest, is_over=is_over)
            return 0
        tags = dict(content.tags)
        if run is not None and (name := renamed(run, tags.get(RUN_NAME), self._earlier_name(key))):
            logger.warning("MLflow run %s was renamed to %s: the name is kept", run.run_id, name)
            tags[RUN_NAME] = name
        if run is not None and run.tags.get(FORM) != content.tags[FORM]:
            # Metrics and data sets cannot be taken off a run, so one of an earlier form is written anew.
            book.delete(key, run)
            tags, run = {**added_by_hand(run), **tags}, None
        if run is None:
            run = book.create(key, tags, started=start)
        stamp = int(ended * 1000) if ended else int(time.time() * 1000)
        _log_numbers(client, run, content, start=start, stamp=stamp)
        for name, text in content.files.items():
            if run.files.get(name) != text:
                client.log_text(run.run_id, text, name)
        if content.datasets and not run.has_datasets:
            client.log_inputs(run.run_id, datasets=[_dataset(rows) for rows in content.datasets])
        if is_over:
            client.set_terminated(run.run_id, status=content.status, end_time=stamp)
        else:
            client.update_run(run.run_id, status=content.status)
        _log_tags(client, run, {**tags, DIGEST: digest})
        run.params |= set(content.params)
        run.metrics |= content.metrics | {name: value for name, _, value in content.curves}
        run.files = {} if key else content.files  # the study's own run alone is written again and again
        run.has_datasets = run.has_datasets or bool(content.datasets)
        book.note(key, digest, is_over=is_over)
        return 1

    def _earlier_name(self, key: str) -> str | None:
        if key == PARENT:
            return earlier_name(self.study)
        trial = self.outbox.trial(key)
        return earlier_trial_name(trial) if trial is not None else None


def sync(study: StudyConfig, paths: StudyPaths) -> tuple[int, str]:
    """Make MLflow show the ledger, every run of it; returns the number of runs changed and the tracking URI.

    Raises: UnavailableError when MLflow cannot be reached; the outbox then says why.
    """
    uri = tracking_uri(study.runtime.tracking_uri, paths.storage)
    projector = MlflowProjector(study, paths, uri, verify=True)
    try:
        return projector.project(), redact(uri)
    except ModuleNotFoundError as error:
        reason = f"MLflow at {redact(uri)} needs the Python package {error.name}; pip install {error.name}"
        note_failure(projector.outbox, reason)
        raise UnavailableError(reason) from error
    except UnavailableError as error:
        note_failure(projector.outbox, str(error))
        raise


def _log_numbers(client: MlflowClient, run: Written, content: RunContent, *, start: int, stamp: int) -> None:
    """Params and metrics that the run lacks, in one request where they fit one.

    Params are write-once, and what was written before cannot differ: the trial id is a hash of them. A point of a
    series or a curve has a time that its step decides, so that the same point twice is one point.
    """
    params = [Param(name, text) for name, text in content.params.items() if name not in run.params]
    points = [Metric(name, value, start + index, step) for index, (name, step, value) in enumerate(content.series)]
    last = {name: value for name, _, value in content.curves}
    points += [
        Metric(name, value, start + step, step)
        for name, step, value in content.curves
        if run.metrics.get(name) != last[name]
    ]
    finals = [
        Metric(name, value, stamp, content.step)
        for name, value in content.metrics.items()
        if run.metrics.get(name) != value or any(name == other for other, _, _ in content.series)
    ]
    for batch in _chunks(params[100:], 100):
        client.log_batch(run.run_id, params=batch)
    metrics = [*points, *finals]
    client.log_batch(run.run_id, metrics=metrics[:MAX_BATCH], params=params[:100])
    for batch in _chunks(metrics[MAX_BATCH:], MAX_BATCH):
        client.log_batch(run.run_id, metrics=batch)


def _log_tags(client: MlflowClient, run: Written, tags: dict[str, str]) -> None:
    """Tags that differ, the digest last; those of an earlier attempt that no longer hold are taken away."""
    for name in [name for name in run.tags if name.startswith("afp.") and name not in tags]:
        client.delete_tag(run.run_id, name)
        del run.tags[name]
    changed = [RunTag(name, text) for name, text in tags.items() if run.tags.get(name) != text]
    for batch in _chunks(changed, 100):
        client.log_batch(run.run_id, tags=batch)
    run.tags |= tags


def _dataset(rows: Rows) -> DatasetInput:
    source = json.dumps({"fingerprint": rows.digest})
    dataset = Dataset(name=rows.name, digest=rows.digest[:36], source_type="afp", source=source)
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", rows.context)])


def _chunks(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
