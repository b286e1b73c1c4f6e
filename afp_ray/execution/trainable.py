"""The Tune trainable: a warm actor that runs one job after another; only JSON comes and goes.

The driver imports this module to hand the class to Tune, so that it knows nothing of torch: what runs a job
(`train_job`) is imported by the actors alone.
"""

import gc
import logging
import signal
import threading
from typing import Any

from ray.tune import Trainable

from afp_ray.execution.cluster import WORKER_ENVIRONMENT, set_environment
from afp_ray.execution.outcome import Outcome
from afp_ray.execution.preemption import is_announced
from afp_ray.records import FailureClass, Work

WORK, OUTCOME, STARVED = "work", "outcome", "starved"
"""Keys of what comes and goes: a `Work` and an `Outcome`, each as JSON, and whether a group found no room."""


class LeavingError(Exception):
    """Ends an actor whose machine is about to be taken away, so that no further job goes there; its text is the
    outcome of the last one.
    """


class JobTrainable(Trainable):  # type: ignore[misc]  # Ray's class is untyped
    """Keeps its process, and with it imports, data and caches, from job to job."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first job."""
        set_environment(WORKER_ENVIRONMENT)
        logging.getLogger("ray.train").setLevel(logging.WARNING)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which drains
        self._work = Work.from_json(config[WORK])
        # Before the trial counts as running: its time is watched from then on. What is imported stays, so the collector
        # need not look at torch and transformers while they come, a second of seven, nor later, 0.2 s a time.
        gc.disable()
        from afp_ray.execution.train_job import prepare

        prepare(self._work)
        gc.freeze()
        gc.enable()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next job."""
        self._work = Work.from_json(new_config[WORK])
        return True

    def step(self) -> dict[str, Any]:
        """Run the job to its end; whatever happens is an outcome, so that the actor stays."""
        from afp_ray.execution.train_job import StarvedError, run_alone, run_group

        try:
            outcome = run_alone(self._work) if self._work.num_workers == 1 else run_group(self._work)
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
