"""Which MLflow run shows which trial, and what it is known to hold: found by tag, never more than one."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run, ViewType
from mlflow.exceptions import MlflowException

from afp_ray.redaction import redact
from afp_ray.store import StudyPaths
from afp_ray.tracking.location import read_runs, write_runs
from afp_ray.tracking.run_content import RUN_NAME
from afp_ray.tracking.study_content import KIND

logger = logging.getLogger(__name__)

PARENT = ""
"""Key of the study's own run; a trial's run has the id of the trial."""
DIGEST = "afp.digest"


@dataclass(slots=True)
class Written:
    """What a run is known to hold."""

    run_id: str
    params: set[str]
    metrics: dict[str, float]
    tags: dict[str, str]
    has_datasets: bool
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run) -> "Written":
        """What MLflow says of a run."""
        has_datasets = bool(run.inputs and run.inputs.dataset_inputs)
        data = run.data
        return cls(str(run.info.run_id), set(data.params), dict(data.metrics), dict(data.tags), has_datasets)


class RunBook:
    """The runs of one study in one experiment."""

    def __init__(self, client: MlflowClient, paths: StudyPaths, uri: str, experiment: str) -> None:
        self._client, self._paths, self._uri, self._experiment = client, paths, uri, experiment
        self._ids: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self._written: dict[str, Written] = {}
        self._stamp: tuple[int, int] | None = None
        self._is_changed = False
        self.lost: set[str] = set()
        """Keys of runs that were noted and that the last listing did not find."""

    def open(self, *, is_known: bool) -> bool:
        """Start from the runs that were noted.

        Args:
            is_known: nothing but this package has a reason to have changed them; every run is listed otherwise.
        Returns: whether what was noted is still there; if not, every trial has to be looked at.
        """
        noted = read_runs(self._paths)
        is_ours = (noted.get("tracking_uri"), noted.get("experiment_id")) == (redact(self._uri), self._experiment)
        self._ids = {**noted["runs"], PARENT: noted["parent"]} if is_ours else {}
        self._stamp = self._file_stamp()
        if is_known and is_ours and self._get(PARENT) is not None:
            return True
        self.list_all()
        return False

    def is_stale(self) -> bool:
        """Whether another process has written runs of this study in the meantime."""
        return self._stamp != self._file_stamp()

    def list_all(self) -> None:
        """Look at every run of the study; one too many, as a request that was sent twice leaves it, is deleted."""
        before, self._ids = self._ids, {}
        self._digests.clear()
        self._written.clear()
        spare: list[str] = []
        for run in self._search(""):
            key, run_id = run.data.tags.get("afp.trial_id", PARENT), run.info.run_id
            if key in self._ids:
                if run_id != before.get(key):
                    spare.append(run_id)
                    continue
                spare.append(self._ids[key])
            self._ids[key], self._digests[key] = run_id, run.data.tags.get(DIGEST, "")
        for run_id in spare:
            self._client.delete_run(run_id)
        self._is_changed = self._is_changed or before != self._ids
        self.lost = before.keys() - self._ids.keys()
        if self.lost:
            some = ", ".join(key or "its own" for key in sorted(self.lost)[:5]) + (" ..." if len(self.lost) > 5 else "")
            name, count = self._paths.name, len(self.lost)
            logger.warning("%d MLflow runs of study %s are gone and are written again: %s", count, name, some)

    def id_of(self, key: str) -> str | None:
        """The run that is noted under `key`."""
        return self._ids.get(key)

    def is_written(self, key: str, digest: str) -> bool:
        """Whether the run under `key` is known to show what `digest` stands for, without asking for it."""
        return self._digests.get(key) == digest

    def find(self, key: str) -> Written | None:
        """The one run under `key`; None when there is none."""
        if key in self._written:
            return self._written[key]
        run = self._get(key)
        if run is None:
            which = f"tags.`afp.trial_id` = '{key}'" if key else f"tags.`afp.kind` = '{KIND}'"
            runs = list(self._search(f" and {which}"))
            run = runs[0] if runs else None
            for spare in runs[1:]:
                self._client.delete_run(spare.info.run_id)
        if run is None:
            self._forget(key)
            return None
        return self._keep(key, Written.of(run))

    def create(self, key: str, tags: Mapping[str, str], *, started: int) -> Written:
        """A run under `key`, which has none; `started` in milliseconds."""
        return self._keep(key, Written.of(self._client.create_run(self._experiment, start_time=started, tags=tags)))

    def delete(self, key: str, run: Written) -> None:
        """Delete the run under `key`, to be created anew."""
        self._client.delete_run(run.run_id)
        self._written.pop(key, None)
        self._forget(key)

    def note(self, key: str, digest: str, *, is_over: bool) -> None:
        """Remember what the run under `key` shows now; one that is over is asked for again should it ever change."""
        self._digests[key] = digest
        if is_over and key != PARENT:
            self._written.pop(key, None)

    def save(self) -> None:
        """Note the runs beside the ledger, where they have changed."""
        if self._is_changed or not self._paths.mlflow.is_file():
            runs = {key: run_id for key, run_id in self._ids.items() if key}
            parent = self._ids.get(PARENT, "")
            write_runs(self._paths, self._uri, experiment_id=self._experiment, parent=parent, runs=runs)
            self._is_changed = False
        self._stamp = self._file_stamp()

    def _keep(self, key: str, written: Written) -> Written:
        self._is_changed = self._is_changed or self._ids.get(key) != written.run_id
        self._ids[key], self._written[key] = written.run_id, written
        return written

    def _forget(self, key: str) -> None:
        self._digests.pop(key, None)
        self._is_changed = self._ids.pop(key, None) is not None or self._is_changed

    def _get(self, key: str) -> Run | None:
        """The run that was noted under `key`, if it is still there and still what it was."""
        run_id = self._ids.get(key)
        if run_id is None:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        tags = run.data.tags if run is not None else {}
        is_it = tags.get("afp.study") == self._paths.name and tags.get("afp.trial_id", PARENT) == key
        if run is not None and is_it and run.info.lifecycle_stage == LifecycleStage.ACTIVE:
            return run
        logger.warning("MLflow run %s of %s was deleted, and is written again", run_id, key or self._paths.name)
        return None

    def _search(self, further: str) -> Iterable[Run]:
        """Active runs of the study, oldest first."""
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                filter_string=f"tags.`afp.study` = '{self._paths.name}'{further}",
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def _file_stamp(self) -> tuple[int, int] | None:
        try:
            status = self._paths.mlflow.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns


def renamed(written: Written, *names: str | None) -> str | None:
    """The name that somebody gave a run by hand; None where it has one of those that it is given here."""
    shown = written.tags.get(RUN_NAME)
    return shown if shown and names[0] and shown not in names else None


def added_by_hand(written: Written) -> dict[str, str]:
    """Tags that were put on a run by others than MLflow and us."""
    return {name: text for name, text in written.tags.items() if not name.startswith(("afp.", "mlflow."))}
