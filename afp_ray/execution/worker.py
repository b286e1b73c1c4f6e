"""Runs one job in whatever process it was sent to: `Work` in, an `Outcome` as JSON out, every error classified."""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from afp_ray.config import TrialConfig
from afp_ray.execution.base import RunTrial
from afp_ray.execution.log_file import open_log
from afp_ray.execution.outcome import Outcome, WorkerFailedError, failure_of
from afp_ray.execution.progress import ProgressReporter
from afp_ray.execution.stop_signs import StopSigns
from afp_ray.models.hub import pin
from afp_ray.records import Host, TrialRequest, Work
from afp_ray.reporter import SilentReporter
from afp_ray.store import TrialPaths, write_json

logger = logging.getLogger(__name__)


def run_job(work: Work, *, rank: int = 0, notice: Callable[[], bool] = lambda: False) -> str | None:
    """Run one job; whatever it raises becomes a failure of this trial alone.

    Args:
        work: what `JobQueue.work` gave.
        rank: of this process in its worker group.
        notice: whether this machine is about to be taken away.
    Returns: an `Outcome` as JSON; None on workers other than the first.
    Raises: WorkerFailedError in a group of several, so that the peers are stopped; the failure is its text.
    """
    job, trial = work.job, TrialPaths(work.folder)
    try:
        if work.cwd.is_dir():
            os.chdir(work.cwd)
        trial.folder.mkdir(parents=True, exist_ok=True)
        pin(work.hub)
        if rank == 0 and not trial.config.exists():
            write_json(trial.config, job.config)
        request = TrialRequest(
            config=TrialConfig.model_validate(job.config), trial_id=job.trial_id, splits=job.splits, until=job.until
        )
        result = _import_trial(work.run_trial)(request, trial.folder, _host(work, rank=rank, notice=notice))
        return Outcome(result=result).model_dump_json() if result is not None else None
    except Exception as error:
        failure = failure_of(error)
        if work.num_workers > 1:
            raise WorkerFailedError(failure.model_dump_json()) from error
        return Outcome(failure=failure).model_dump_json()


def _host(work: Work, *, rank: int, notice: Callable[[], bool]) -> Host:
    """What the trial is told of its process: the first worker writes progress, and all of them hear when to stop."""
    trial, attempt = TrialPaths(work.folder), work.job.attempt
    signs = StopSigns(trial.folder, attempt=attempt, token=work.token, notice=notice)
    return Host(
        reporter=ProgressReporter(trial.progress, attempt=attempt) if rank == 0 else SilentReporter(),
        device=work.device,
        runtime=work.runtime,
        num_threads=work.num_threads,
        stop=signs,
        fence=signs.require_current,
    )


def _import_trial(name: str) -> RunTrial:
    module, _, function = name.partition(":")
    run_trial: RunTrial = getattr(importlib.import_module(module), function)
    return run_trial


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
