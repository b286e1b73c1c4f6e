"""The Tune trainable: a warm actor that runs one job after another through Ray Train; only JSON comes and goes."""

import json
import logging
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError
from ray.tune import Trainable

from afp_ray.execution.cluster import WORKER_ENVIRONMENT, set_environment
from afp_ray.execution.outcome import Outcome, WorkerFailedError, failure_of, worst
from afp_ray.execution.preemption import is_announced
from afp_ray.execution.worker import output_to, run_job
from afp_ray.records import Failure, FailureClass
from afp_ray.store import TrialPaths

WORK, OUTCOME, STARVED = "work", "outcome", "starved"
_FOREVER_S = 10.0**9
_NO_ROOM = frozenset({"WorkerGroupStartupTimeoutError", "InsufficientClusterResourcesError"})


class LeavingError(Exception):
    """Ends an actor whose machine is about to be taken away, so that no further job goes there; its text is the
    outcome of the last one.
    """


class StarvedError(Exception):
    """The workers of a group did not get their resources in time."""


class JobTrainable(Trainable):  # type: ignore[misc]  # Ray's class is untyped
    """Keeps its process, and with it imports, data and caches, from job to job."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first job."""
        set_environment(WORKER_ENVIRONMENT)
        logging.getLogger("ray.train").setLevel(logging.WARNING)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which drains
        self._work = config[WORK]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next job."""
        self._work = new_config[WORK]
        return True

    def step(self) -> dict[str, Any]:
        """Run the job to its end; whatever happens is an outcome, so that the actor stays."""
        work = json.loads(self._work)
        try:
            outcome = run_alone(work) if work["num_workers"] == 1 else run_group(work)
        except StarvedError:
            return {STARVED: True, "done": True}
        failure = Outcome.model_validate_json(outcome).failure
        if is_announced() or (failure is not None and failure.failure_class is FailureClass.PREEMPTED):
            raise LeavingError(outcome)
        return {OUTCOME: outcome, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: trials keep their own checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""


def run_alone(work: dict[str, Any]) -> str:
    """A job of one worker, in this process."""
    with output_to(TrialPaths(Path(work["folder"])).log):
        trainer = TorchTrainer(
            _in_process_loop, train_loop_config={WORK: work}, scaling_config=ScalingConfig(num_workers=0)
        )
        return str(trainer.fit().return_value)


def _in_process_loop(config: dict[str, Any]) -> str | None:
    return run_job(config[WORK], notice=is_announced)


class _GroupTrainer(TorchTrainer):  # type: ignore[misc]  # Ray's class is untyped
    """Leaves out Ray's watcher over placement groups, which finds a dead group only where there is a dashboard and
    stays as a process where there is none (`placement.free_leaked_groups` frees them), and its handling of datasets.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [one for one in callbacks if not isinstance(one, PlacementGroupCleanerCallback | DatasetsCallback)]


def run_group(work: dict[str, Any]) -> str:
    """A job of several workers, each its own process; the first gives the outcome."""
    with_gpu = work["gpus_per_worker"] > 0
    resources = {"CPU": work["cpus_per_worker"], **({"GPU": work["gpus_per_worker"]} if with_gpu else {})}
    folder = TrialPaths(Path(work["folder"])).folder
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(work["start_s"] or _FOREVER_S)
    trainer = _GroupTrainer(
        _group_loop,
        train_loop_config={WORK: work},
        scaling_config=ScalingConfig(num_workers=work["num_workers"], use_gpu=with_gpu, resources_per_worker=resources),
        torch_config=TorchConfig(backend="nccl" if with_gpu else "gloo"),
        run_config=RunConfig(
            name=f"attempt-{work['job']['attempt']}",
            storage_path=str(folder / ".train"),
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
        shutil.rmtree(folder / ".train", ignore_errors=True)


def _group_failure(error: Exception) -> Failure:
    """The failure behind a group's error, whichever worker it came from."""
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        causes = [getattr(cause, "_base_exc", cause) for cause in error.worker_failures.values()]
        failure = worst([failure_of(cause) for cause in causes])
        if any(getattr(cause, "preempted", False) for cause in causes):
            return failure.model_copy(update={"failure_class": FailureClass.PREEMPTED})
        return failure
    if isinstance(error, ControllerError):
        return failure_of(error.controller_failure)
    return failure_of(error)


def _group_loop(config: dict[str, Any]) -> str | None:
    """One worker of a group; its output goes to the trial's log."""
    work, rank = config[WORK], get_context().get_world_rank()
    set_environment(WORKER_ENVIRONMENT)
    with output_to(TrialPaths(Path(work["folder"])).log):
        try:
            return run_job(work, rank=rank, num_workers=work["num_workers"], notice=is_announced)
        except WorkerFailedError as error:
            raise error from None  # the cause is in its text, and need not be picklable
