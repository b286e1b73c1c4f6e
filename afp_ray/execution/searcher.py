"""Between Ray Tune and the driver: Tune asks for a configuration and gets a job, Tune's completions become outcomes."""

import json
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from afp_ray.execution.base import JobQueue
from afp_ray.execution.outcome import Outcome, lost_worker
from afp_ray.execution.stop import StopNowError
from afp_ray.execution.trainable import OUTCOME, WORK
from afp_ray.records import Job


class JobBridge(Callback):  # type: ignore[misc]  # Ray's class is untyped
    """Follows Tune's trials and speaks to the driver's queue for them.

    Args:
        queue: the driver.
        first: a job that was taken before the cluster was there.
        extras: what every job's work says of workers and device.
    """

    def __init__(self, queue: JobQueue, first: Job, *, extras: dict[str, Any]) -> None:
        self._queue, self._extras = queue, extras
        self._first: Job | None = first
        self._jobs: dict[str, Job] = {}
        self._actors: dict[str, Any] = {}
        self.error: BaseException | None = None
        """What the driver raised while it took an outcome; Tune would swallow it."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks into a snapshot that is never read, and the driver cannot be pickled."""
        return {}

    def take(self, tune_id: str) -> dict[str, Any] | str | None:
        """The configuration of Tune's next trial, `Searcher.FINISHED`, or None to be asked again."""
        if self.error is not None:
            return str(Searcher.FINISHED)
        job, self._first = self._first or self._queue.next_job(), None
        if job is None:
            return str(Searcher.FINISHED)
        if not isinstance(job, Job):
            return None
        self._jobs[tune_id] = job
        return {WORK: json.dumps({**self._queue.work(job), **self._extras})}

    def on_step_begin(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        """Leave Tune's loop when the study is stopped at once."""
        if self._queue.stop.is_now:
            raise StopNowError

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """The trial has its resources."""
        self._actors[trial.trial_id] = trial.temporary_state.ray_actor
        self._queue.started(self._jobs[trial.trial_id])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """The trial gave an outcome."""
        text = trial.last_result.get(OUTCOME)
        if text is not None:
            self._end(trial, Outcome.model_validate_json(text))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """The trial's actor is gone."""
        self._end(trial, Outcome(failure=lost_worker(_error_text(trial))))

    def _end(self, trial: Trial, outcome: Outcome) -> None:
        self._actors.pop(trial.trial_id, None)
        job = self._jobs.pop(trial.trial_id, None)
        if job is None:
            return
        try:
            self._queue.ended(job, outcome)
        except BaseException as error:
            self.error = self.error or error

    def kill_actors(self) -> None:
        """End every actor that runs a job."""
        for actor in self._actors.values():
            ray.kill(actor)


class LedgerSearcher(Searcher):  # type: ignore[misc]  # Ray's class is untyped
    """A Tune searcher without a mind of its own."""

    def __init__(self, bridge: JobBridge) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next job as a configuration."""
        return self._bridge.take(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the bridge hears of it as Tune's callback, with the error's text."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the search is rebuilt from the ledger."""


def _error_text(trial: Trial) -> str:
    try:
        with open(trial.error_file, encoding="utf-8") as file:
            return "".join(line for line in file if not line.startswith("Failure #"))
    except (OSError, TypeError):
        return "the worker died"
