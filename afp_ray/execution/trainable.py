"""The Tune trainable: a warm actor that runs one job after another through Ray Train; only JSON comes and goes."""

import json
import logging
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError
from ray.tune import Trainable

from afp_ray.execution.cluster import WORKER_ENVIRONMENT, set_environment
from afp_ray.execution.outcome import Outcome, WorkerFailedError, failure_of, worst
from afp_ray.execution.worker import output_to, run_job
from afp_ray.store import TrialPaths

WORK, OUTCOME = "work", "outcome"


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
        outcome = run_alone(work) if work["num_workers"] == 1 else run_group(work)
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
    return run_job(config[WORK])


def run_group(work: dict[str, Any]) -> str:
    """A job of several workers, each its own process; the first gives the outcome."""
    with_gpu = work["gpus_per_worker"] > 0
    resources = {"CPU": work["cpus_per_worker"], **({"GPU": work["gpus_per_worker"]} if with_gpu else {})}
    folder = TrialPaths(Path(work["folder"])).folder
    trainer = TorchTrainer(
        _group_loop,
        train_loop_config={WORK: work},
        scaling_config=ScalingConfig(num_workers=work["num_workers"], use_gpu=with_gpu, resources_per_worker=resources),
        torch_config=TorchConfig(backend="nccl" if with_gpu else "gloo"),
        run_config=RunConfig(
            name=f"attempt-{work['job']['attempt']}",
            storage_path=str(folder / ".train"),
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    try:
        return str(trainer.fit().return_value)
    except TrainingFailedError as error:
        return Outcome(failure=_group_failure(error)).model_dump_json()
    finally:
        shutil.rmtree(folder / ".train", ignore_errors=True)


def _group_failure(error: Exception) -> Any:
    """The failure behind a group's error, whichever worker it came from."""
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        causes = [getattr(cause, "_base_exc", cause) for cause in error.worker_failures.values()]
        return worst([failure_of(cause) for cause in causes])
    if isinstance(error, ControllerError):
        return failure_of(error.controller_failure)
    return failure_of(error)


def _group_loop(config: dict[str, Any]) -> str | None:
    """One worker of a group; its output goes to the trial's log."""
    work, rank = config[WORK], get_context().get_world_rank()
    set_environment(WORKER_ENVIRONMENT)
    with output_to(TrialPaths(Path(work["folder"])).log):
        try:
            return run_job(work, rank=rank, num_workers=work["num_workers"])
        except WorkerFailedError as error:
            raise error from None  # the cause is in its text, and need not be picklable
