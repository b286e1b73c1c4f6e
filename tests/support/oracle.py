"""What must hold after every fault: one function that asks everything of a study that was continued.

Every planned trial has ended; nothing that finished was trained again; the best configuration and every objective are
those of a run that nothing disturbed; MLflow shows each trial once and none as running; the ledger is whole; nothing
half-written, no process and no placement group is left.
"""

import json
import logging
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from executor_suite import no_fingerprint, num_trainings, run
from fault_driver import MARK

from afp_ray.config import StudyConfig
from afp_ray.execution import LocalExecutor
from afp_ray.ledger import holder, replay, study_hash
from afp_ray.records import LedgerEvent, StudyState, TrialResult, TrialStatus
from afp_ray.search import StudySearch
from afp_ray.store import LEDGER_SNAPSHOT, StudyPaths
from afp_ray.tracking.projector import sync

_RUN_STATUS = {"DONE": "FINISHED", "FAILED": "FAILED", "PRUNED": "KILLED", "CANCELLED": "KILLED"}
_GONE_S = 20.0


def run_here(study: StudyConfig, storage: Path) -> StudyState:
    """Run or continue a study of fake trials in this process."""
    return run(study, storage, LocalExecutor())


class Oracle:
    """Asks what must hold; keeps runs that nothing disturbed, and an empty MLflow database to copy.

    Args:
        folder: for both.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._undisturbed: dict[str, StudyState] = {}
        self._database: Path | None = None

    def __call__(
        self,
        study: StudyConfig,
        storage: Path,
        *,
        max_repeated: int,
        runner: Callable[[StudyConfig, Path], StudyState] = run_here,
        fingerprint: Callable[..., Mapping[str, str]] = no_fingerprint,
        undisturbed: StudyState | None = None,
        closed: str = "complete",
        clock_jumped: bool = False,
        database: Path | None = None,
        projects: bool = True,
        mark: str | None = None,
    ) -> StudyState:
        """Assert that a study which met faults and was continued to its end is as if nothing had happened.

        Args:
            study: what was run.
            storage: where.
            max_repeated: trainings beyond one per trial: trials that were running at a fault.
            runner: runs the study without a fault, for comparison; once per study and session.
            fingerprint: as the study's search has it.
            undisturbed: the state to compare with, where a run without a fault is no comparison.
            closed: how the study must have ended.
            clock_jumped: times of the ledger say nothing then.
            database: MLflow database that the study was projected into; null takes the one beside it, new if need be.
            projects: whether MLflow is asked at all, which takes a second for thirty trials.
            mark: value of `MARK` in the environment of the processes that the test started.
        Returns: the state.
        """
        paths = StudyPaths(storage, study.name)
        state = _whole_ledger(paths)
        assert state.closed == closed
        assert holder(paths) is None, "nobody drives it any more"
        for trial in state.trials:
            assert trial.status.is_terminal and not trial.test_pending, (trial.trial_id, trial.status)
        _assert_nothing_trained_again(paths, state, max_repeated=max_repeated, clock_jumped=clock_jumped)
        _assert_files_whole(paths, state)
        expected = undisturbed or self.undisturbed(study, runner)
        assert outcomes(state) == outcomes(expected)
        assert bests(study, state, fingerprint) == bests(study, expected, fingerprint)
        if projects:
            self._assert_projected(study, paths, state, database)
        assert_nothing_left(mark)
        return state

    def undisturbed(
        self, study: StudyConfig, runner: Callable[[StudyConfig, Path], StudyState] = run_here
    ) -> StudyState:
        """The study's state when nothing goes wrong."""
        key = f"{study_hash(study)} {runner.__name__}"
        if key not in self._undisturbed:
            self._undisturbed[key] = runner(study, self._folder / f"undisturbed-{len(self._undisturbed)}")
        return self._undisturbed[key]

    def empty_database(self, target: Path) -> Path:
        """Copy an MLflow database without a run to `target`; making the schema takes seconds."""
        if self._database is None:
            from mlflow import MlflowClient

            import afp_ray.tracking.projector  # noqa: F401

            self._database = self._folder / "schema.db"
            MlflowClient(tracking_uri=f"sqlite:///{self._database}").search_experiments()
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self._database, target)
        return target

    def _assert_projected(
        self, study: StudyConfig, paths: StudyPaths, state: StudyState, database: Path | None
    ) -> None:
        file = database or paths.storage / "mlflow.db"
        if not file.exists():
            self.empty_database(file)
        uri = f"sqlite:///{file}"
        shown = study.model_copy(update={"runtime": study.runtime.model_copy(update={"tracking_uri": uri})})
        sync(shown, paths)
        assert sync(shown, paths)[0] == 0, "projecting again changes nothing"
        assert_one_run_each(study.name, state, uri)


def assert_one_run_each(name: str, state: StudyState, uri: str, *, parent: str = "FINISHED") -> None:
    """Assert that MLflow at `uri` has one run per trial, each as it ended, and one of the study that is `parent`."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id], max_results=10_000))
    found = {run.data.tags.get("afp.trial_id", ""): run.info.status for run in runs}
    assert len(found) == len(runs), "a trial has two runs"
    assert "RUNNING" not in found.values()
    assert found.pop("") == parent
    assert found == {trial.trial_id: _RUN_STATUS[trial.status] for trial in state.trials}


def outcomes(state: StudyState) -> dict[str, tuple[Any, ...]]:
    """What is the same whatever happened on the way: status, scores and splits of every trial."""
    return {
        trial.trial_id: (trial.status, trial.objective, trial.rungs, frozenset(trial.splits), trial.params)
        for trial in state.trials
    }


def bests(study: StudyConfig, state: StudyState, fingerprint: Callable[..., Mapping[str, str]]) -> dict[str, Any]:
    """The best configuration of every arm that is searched."""
    search = StudySearch(study, fingerprint)
    search.replay(state)
    found = {arm.name: search.best(arm.name) for arm in search.arms if arm.is_searched}
    return {name: None if best is None else (best.trial_id, best.objective) for name, best in found.items()}


def _whole_ledger(paths: StudyPaths) -> StudyState:
    content = paths.ledger.read_bytes()
    assert content.endswith(b"\n"), "the last line is torn"
    for line in content.splitlines():
        LedgerEvent.model_validate_json(line)
    with _log_of("afp_ray") as records:
        state = replay(paths.ledger)
    assert not records, [record.getMessage() for record in records]
    return state


@contextmanager
def _log_of(name: str) -> Iterator[list[logging.LogRecord]]:
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign,assignment]
    logging.getLogger(name).addHandler(handler)
    try:
        yield records
    finally:
        logging.getLogger(name).removeHandler(handler)


def _assert_nothing_trained_again(
    paths: StudyPaths, state: StudyState, *, max_repeated: int, clock_jumped: bool
) -> None:
    """No training began once its trial was DONE, and no more of them than there were attempts and rungs."""
    trainings = num_trainings(paths.storage, paths.name)
    rungs = {trial.trial_id: len(trial.rungs) for trial in state.trials}
    attempts = {trial.trial_id: trial.attempt for trial in state.trials}
    for trial_id, count in trainings.items():
        assert count <= attempts[trial_id] + rungs[trial_id], f"{trial_id} was trained {count} times"
    assert sum(trainings.values()) <= len(trainings) + sum(rungs.values()) + max_repeated, trainings
    events = [LedgerEvent.model_validate_json(line) for line in paths.ledger.read_bytes().splitlines()]
    planned = Counter(
        (event.trial_id, event.attempt, event.role, event.until) for event in events if event.state == "PLANNED"
    )
    assert max(planned.values(), default=1) == 1, "the same attempt was planned twice"
    done = {event.trial_id: event.time for event in reversed(events) if event.state == TrialStatus.DONE}
    for file in paths.trials.glob("*/training_calls.jsonl"):
        for line in file.read_text().splitlines():
            began, ended = json.loads(line)["time"], done.get(file.parent.name)
            assert clock_jumped or ended is None or began <= ended, f"{file.parent.name} was trained when it was DONE"


def _assert_files_whole(paths: StudyPaths, state: StudyState) -> None:
    """Every JSON file is whole, every finished trial has its result, and nothing that nobody can use stays."""
    for file in paths.folder.rglob("*.json"):
        if file.name != LEDGER_SNAPSHOT:  # sealed with a hash, and passed over when it does not hold
            json.loads(file.read_bytes())
    for trial in state.trials:
        trial_paths = paths.trial(trial.trial_id)
        assert not trial_paths.states.exists(), f"{trial.status} {trial.trial_id} keeps states"
        if trial.status is TrialStatus.DONE:
            result = TrialResult.model_validate_json(trial_paths.result.read_bytes())
            assert result.trial_id == trial.trial_id
            assert set(trial.splits) <= set(result.splits)
            assert (result.checkpoint is not None) == trial_paths.checkpoint.is_dir()
    if json.loads(paths.study.read_bytes())["runtime"]["keep_checkpoints"] == "confirmed":
        kept = {trial.trial_id for trial in state.trials if paths.trial(trial.trial_id).checkpoint.exists()}
        assert kept <= {trial.trial_id for trial in state.trials if "test" in trial.splits}


def assert_nothing_left(mark: str | None) -> None:
    """Assert that no process of this test lives on, and that Ray, where it runs, holds no placement group.

    What was told to end has a moment to do so.
    """
    until = time.monotonic() + _GONE_S
    while left := [*(_processes(mark) if mark else []), *_placement_groups()]:
        assert time.monotonic() < until, f"still there: {left}"
        time.sleep(0.1)


def _processes(mark: str) -> list[str]:
    """Command lines of other processes that have `mark` in their environment."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # another user's, or gone
    return [text for text in found if text]  # a zombie has no command line


def _placement_groups() -> list[str]:
    if "ray" not in sys.modules:
        return []
    import ray

    if not ray.is_initialized():
        return []
    groups = ray.util.placement_group_table()
    return [str(name) for name, group in groups.items() if group["state"] != "REMOVED"]
