"""Runs one job through Ray Train: in this process where it has one worker, in a worker group where it has several."""

import os
import shutil
from typing import Any

from ray.train import (
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
    get_context,
)
from ray.train.torch import TorchConfig, TorchTrainer

from afp_ray.execution.base import RUN_TRIAL
from afp_ray.execution.cluster import WORKER_ENVIRONMENT, set_environment
from afp_ray.execution.outcome import Outcome, WorkerFailedError, failure_of, worst
from afp_ray.execution.preemption import is_announced
from afp_ray.execution.ray_internals import group_trainer
from afp_ray.execution.worker import output_to, run_job
from afp_ray.records import Failure, FailureClass, Work
from afp_ray.store import TrialPaths

_FOREVER_S = 10.0**9
_NO_ROOM = frozenset({"WorkerGroupStartupTimeoutError", "InsufficientClusterResourcesError"})


class StarvedError(Exception):
    """The workers of a group did not get their resources in time."""


def prepare(work: Work) -> None:
    """Import what the job will need in this process: all of a real trial, or nothing more where others train."""
    if work.num_workers == 1 and work.run_trial == RUN_TRIAL:
        from afp_ray.trial.run import import_libraries

        import_libraries()


def run_alone(work: Work) -> str:
    """A job of one worker, in this process."""
    with output_to(TrialPaths(work.folder).log):
        trainer = TorchTrainer(
            _in_process_loop,
            train_loop_config=work.model_dump(mode="json"),
            scaling_config=ScalingConfig(num_workers=0),
        )
        return str(trainer.fit().return_value)


def _in_process_loop(config: dict[str, Any]) -> str | None:
    return run_job(Work.model_validate(config), notice=is_announced)


def run_group(work: Work) -> str:
    """A job of several workers, each its own process; the first gives the outcome."""
    group = work.group
    assert group is not None, "only a cluster has groups"
    with_gpu = group.gpus_per_worker > 0
    resources = {"CPU": group.cpus_per_worker, **({"GPU": group.gpus_per_worker} if with_gpu else {})}
    scratch = work.folder / ".train"
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(group.start_s or _FOREVER_S)
    trainer = group_trainer(
        _group_loop,
        train_loop_config=work.model_dump(mode="json"),
        scaling_config=ScalingConfig(num_workers=group.num_workers, use_gpu=with_gpu, resources_per_worker=resources),
        torch_config=TorchConfig(backend="nccl" if with_gpu else "gloo"),
        run_config=RunConfig(
            name=f"attempt-{work.job.attempt}",
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
        ),
    )
    try:
        return str(trainer.fit().return_value)
    except TrainingFailedError as error:
        if type(getattr(error, "controller_failure", None)).__name__ in _NO_ROOM:
            raise StarvedError from error
        return Outcome(failure=_group_failure(error)).model_dump_json()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _group_failure(error: Exception) -> Failure:
    """The failure behind a group's error, whichever worker it came from."""
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        causes = list(error.worker_failures.values())
        failure = worst([failure_of(cause) for cause in causes])
        if any(getattr(cause, "preempted", False) for cause in causes):
            return failure.model_copy(update={"failure_class": FailureClass.PREEMPTED})
        return failure
    if isinstance(error, ControllerError):
        return failure_of(error.controller_failure)
    return failure_of(error)


def _group_loop(config: dict[str, Any]) -> str | None:
    """One worker of a group; its output goes to the trial's log."""
    work, rank = Work.model_validate(config), get_context().get_world_rank()
    set_environment(WORKER_ENVIRONMENT)
    with output_to(TrialPaths(work.folder).log):
        try:
            return run_job(work, rank=rank, notice=is_announced)
        except WorkerFailedError as error:
            raise error from None  # the cause is in its text, and need not be picklable
