"""Runs one job in whatever process it was sent to: JSON in, JSON out, every error classified on the way."""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from afp_ray.config import TrainingRuntime, TrialConfig
from afp_ray.execution.base import RunTrial
from afp_ray.execution.log_file import open_log
from afp_ray.execution.outcome import Outcome, WorkerFailedError, failure_of
from afp_ray.execution.progress import ProgressReporter
from afp_ray.execution.stop_signs import StopSigns
from afp_ray.models.hub import pin
from afp_ray.records import Job
from afp_ray.reporter import Reporter, SilentReporter
from afp_ray.store import TrialPaths, write_json

logger = logging.getLogger(__name__)


def run_job(
    work: dict[str, Any], *, rank: int = 0, num_workers: int = 1, notice: Callable[[], bool] = lambda: False
) -> str | None:
    """Run one job; whatever it raises becomes a failure of this trial alone.

    Args:
        work: what `JobQueue.work` gave.
        rank: place of this process in its worker group.
        num_workers: size of the group.
        notice: whether this machine is about to be taken away.
    Returns: an `Outcome` as JSON; None on workers other than the first.
    Raises: WorkerFailedError in a group of several, so that the peers are stopped; the failure is its text.
    """
    job = Job.model_validate(work["job"])
    trial = TrialPaths(Path(work["folder"]))
    try:
        if Path(work["cwd"]).is_dir():
            os.chdir(work["cwd"])
        trial.folder.mkdir(parents=True, exist_ok=True)
        pin(work["hub"])
        reporter: Reporter = SilentReporter()
        if rank == 0:
            reporter = ProgressReporter(trial.progress, attempt=job.attempt)
            if not trial.config.exists():
                write_json(trial.config, job.config)
        signs = StopSigns(trial.folder, attempt=job.attempt, token=work["token"], notice=notice)
        result = _find(work["run_trial"])(
            TrialConfig.model_validate(job.config),
            trial_id=job.trial_id,
            folder=trial.folder,
            splits=job.splits,
            reporter=reporter,
            device=work["device"],
            runtime=TrainingRuntime.model_validate(work["runtime"]),
            num_threads=work["num_threads"],
            stop=signs,
            until=job.until,
            fence=signs.require_current,
        )
        return Outcome(result=result).model_dump_json() if result is not None else None
    except Exception as error:
        failure = failure_of(error)
        if num_workers > 1:
            raise WorkerFailedError(failure.model_dump_json()) from error
        return Outcome(failure=failure).model_dump_json()


def _find(name: str) -> RunTrial:
    module, _, function = name.partition(":")
    found: RunTrial = getattr(importlib.import_module(module), function)
    return found


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send this process's Python output and log records to the end of `path` while the block runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    with open_log(path) as file, redirect_stdout(file), redirect_stderr(file):
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
        try:
            yield
        finally:
            root.removeHandler(handler)
            sys.stdout.flush()
            sys.stderr.flush()
