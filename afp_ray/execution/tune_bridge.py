"""Between Ray Tune and the driver: Tune asks for a configuration and gets a job, Tune's completions become outcomes.

    Tune's loop          here                                  the driver, and what it writes
    suggest              LedgerSearcher, JobBridge.take ─────▶ next_job   PLANNED
    on_trial_start       the trial has its actor ────────────▶ started    RUNNING
    on_trial_complete    its outcome ────────────────────────▶ ended      DONE, PAUSED, FAILED
    on_trial_error       why its actor is gone ──────────────▶ ended      FAILED, or PLANNED once more
    on_step_begin        once a second: hung, starved, draining, a head that is silent

All of it runs in Tune's own thread, so that the ledger has one writer. What the driver raises meanwhile is held in
`JobBridge.error`, since Tune would swallow it, and raised by the executor once Tune has been left.
"""

import logging
import time
from collections import deque
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from afp_ray.config import RuntimeConfig
from afp_ray.errors import UnavailableError
from afp_ray.execution.base import JobQueue
from afp_ray.execution.outcome import Outcome, lost_worker
from afp_ray.execution.placement import free_leaked_groups, shortage
from afp_ray.execution.preemption import cluster_watch
from afp_ray.execution.ray_internals import node_of
from afp_ray.execution.stalls import TrialWatch
from afp_ray.execution.stop import StopNowError
from afp_ray.execution.trainable import OUTCOME, STARVED, WORK, LeavingError
from afp_ray.records import Failure, FailureClass, Job, WorkerGroup
from afp_ray.store import TrialPaths

logger = logging.getLogger(__name__)

_CHECK_S = 1.0
_SILENT_LOOKS = 3
"""Looks at a silent head node before it counts as gone: a machine that was suspended wakes up with an old answer."""
_MOST_ENDED = 50
"""Ended trials that Tune keeps in its list, which it walks through several times a step."""
_FREE_FOR_S = 30.0
"""After the loss of a worker group: its actors take a moment to die, and its placement group is freed after them."""


class LeaveTuneError(BaseException):
    """Passes every `except Exception` of Tune on its way out; the bridge's `error` says why."""


class JobBridge(Callback):  # type: ignore[misc]  # Ray's class is untyped
    """Follows Tune's trials and speaks to the driver's queue for them.

    Args:
        queue: the driver.
        first: a job that was taken before the cluster was there.
        runtime: workers, deadlines.
        group: the processes of every job.
        patience_s: how long a head node that does not answer is waited for.
    """

    def __init__(
        self, queue: JobQueue, first: Job, *, runtime: RuntimeConfig, group: WorkerGroup, patience_s: float
    ) -> None:
        self._queue, self._group, self._runtime, self._patience_s = queue, group, runtime, patience_s
        self._num_silent_looks = 0
        self._given_back: deque[Job] = deque([first])
        self._jobs: dict[str, Job] = {}
        self._folders: dict[str, TrialPaths] = {}
        self._actors: dict[str, Any] = {}
        self._doomed: dict[str, Failure] = {}
        self._told: set[tuple[str, int]] = set()
        self._watch = TrialWatch(runtime)
        self._checked_at = self._free_until = time.monotonic()
        self.error: BaseException | None = None
        """What the driver raised while it took an outcome, or why Tune had to be left; Tune would swallow it."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks into a snapshot that is never read, and the driver cannot be pickled."""
        return {}

    # --- what Tune calls ----------------------------------------------------------------------------------------

    def take(self, tune_id: str) -> dict[str, Any] | str | None:
        """The configuration of Tune's next trial, `Searcher.FINISHED`, or None to be asked again."""
        is_stopping = self._queue.stop.is_requested
        if self.error is not None or (is_stopping and not self._jobs):
            return str(Searcher.FINISHED)
        job = self._given_back.popleft() if self._given_back and not is_stopping else self._queue.next_job()
        if job is None:
            return str(Searcher.FINISHED)
        if not isinstance(job, Job):
            return None
        work = self._queue.work(job).model_copy(update={"group": self._group})
        self._jobs[tune_id], self._folders[tune_id] = job, TrialPaths(work.folder)
        self._watch.handed_over(tune_id)
        return {WORK: work.to_json()}

    def on_step_begin(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        """Leave Tune's loop when the study is stopped at once; look after what runs, once a second."""
        if self._queue.stop.is_now:
            raise StopNowError
        now = time.monotonic()
        if now - self._checked_at < _CHECK_S:
            return
        self._checked_at = now
        try:
            self._check(now)
        except Exception as error:
            self.error = self.error or error
            raise LeaveTuneError from None

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        """Take ended trials out of Tune's own list, so that the thousandth costs what the first did."""
        if len(trials) > _MOST_ENDED + len(self._jobs):
            trials[:] = [trial for trial in trials if not trial.is_finished()]

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """The trial has its process."""
        job = self._jobs[trial.trial_id]
        self._actors[trial.trial_id] = trial.temporary_state.ray_actor
        self._watch.started(trial.trial_id, self._folders[trial.trial_id].progress, attempt=job.attempt)
        if (job.trial_id, job.attempt) not in self._told:  # one that was given back has been told of
            self._told.add((job.trial_id, job.attempt))
            self._queue.started(job)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """The trial gave an outcome, or its workers could not be placed."""
        if trial.last_result.get(STARVED):
            self._give_back(trial)
        elif (text := trial.last_result.get(OUTCOME)) is not None:
            self._end(trial, Outcome.model_validate_json(text))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """The trial's actor is gone, by itself or because it was ended here."""
        self._free_until = time.monotonic() + _FREE_FOR_S
        doom = self._doomed.pop(trial.trial_id, None)
        self._end(trial, Outcome(failure=doom) if doom is not None else _outcome_of_error(trial))

    # --- once a second ------------------------------------------------------------------------------------------

    def _check(self, now: float) -> None:
        silent_s = cluster_watch().silent_s
        self._num_silent_looks = self._num_silent_looks + 1 if silent_s > self._patience_s else 0
        if self._num_silent_looks >= _SILENT_LOOKS:
            raise UnavailableError(
                f"the head node of the Ray cluster has not answered for {silent_s:.0f} s; the study's state is kept: "
                "resume it when there is a cluster again"
            )
        self._queue.check()
        for tune_id, idle_s in self._watch.hung().items():
            self._kill(tune_id, FailureClass.INFRA, f"no progress for {idle_s:.0f} s: the worker was taken for hung")
        self._end_what_outstays_its_notice()
        if self._runtime.workers_per_trial > 1 and now < self._free_until:
            free_leaked_groups()
        starved_s = self._watch.starved_s()
        if starved_s is not None:
            raise UnavailableError(shortage(self._runtime, starved_s))

    def _end_what_outstays_its_notice(self) -> None:
        draining, grace_s = cluster_watch().draining, self._runtime.grace_s
        late = {node for node, since_s in draining.items() if since_s > grace_s}
        for tune_id, actor in list(self._actors.items()) if late else ():
            if node_of(actor) in late:
                message = f"its machine is being taken away, and it had not saved its state after {grace_s:g} s"
                self._kill(tune_id, FailureClass.PREEMPTED, message)

    def _kill(self, tune_id: str, failure_class: FailureClass, message: str) -> None:
        """End a trial's actor; Tune hears of it as of any loss, and the driver the reason."""
        if tune_id not in self._doomed and tune_id in self._actors:
            self._doomed[tune_id] = Failure(failure_class=failure_class, message=message)
            ray.kill(self._actors[tune_id])

    # --- how a trial ends ---------------------------------------------------------------------------------------

    def _forget(self, trial: Trial) -> Job | None:
        self._watch.ended(trial.trial_id)
        self._actors.pop(trial.trial_id, None)
        self._folders.pop(trial.trial_id, None)
        return self._jobs.pop(trial.trial_id, None)

    def _give_back(self, trial: Trial) -> None:
        """Let a trial wait for its turn again, unless it waits for nothing that would end."""
        is_alone = self._watch.is_alone(trial.trial_id)
        job = self._forget(trial)
        if job is None:
            return
        reason = shortage(self._runtime, self._runtime.start_s or 0.0)
        if is_alone:
            self.error = self.error or UnavailableError(reason)
            return
        logger.warning("trial %s is tried again later: %s", job.trial_id, reason)
        self._given_back.append(job)

    def _end(self, trial: Trial, outcome: Outcome) -> None:
        job = self._forget(trial)
        if job is None:
            return
        self._told.discard((job.trial_id, job.attempt))
        try:
            self._queue.ended(job, outcome)
        except BaseException as error:
            self.error = self.error or error

    @property
    def is_head_silent(self) -> bool:
        """Whether the head node did not answer when it was last looked at; every request to it would wait for ever."""
        return self._num_silent_looks > 0

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


def _outcome_of_error(trial: Trial) -> Outcome:
    """What became of a job whose actor has gone, as far as the actor or Ray could say."""
    error = _stored_error(trial)
    if isinstance(error, RayTaskError) and isinstance(error.cause, LeavingError):
        return Outcome.model_validate_json(str(error.cause))
    failure = lost_worker(_error_text(trial))
    if isinstance(error, RayActorError) and error.preempted:
        failure = failure.model_copy(update={"failure_class": FailureClass.PREEMPTED})
    return Outcome(failure=failure)


def _stored_error(trial: Trial) -> Exception | None:
    try:
        with open(trial.pickled_error_file, "rb") as file:  # Ray's own, in the folder of this process
            error = ray.cloudpickle.load(file)
    except (OSError, TypeError):
        return None
    return error if isinstance(error, Exception) else None


def _error_text(trial: Trial) -> str:
    try:
        with open(trial.error_file, encoding="utf-8") as file:
            return "".join(line for line in file if not line.startswith("Failure #"))
    except (OSError, TypeError):
        return "the worker died"
