"""The one writer of a study: plans jobs in the ledger, adopts results, retries lost ones and closes the study."""

import logging
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from time import time
from typing import Any

from afp_ray.config import StudyConfig
from afp_ray.errors import AfpError
from afp_ray.execution.base import RUN_TRIAL, Executor, JobSource
from afp_ray.execution.durable import adopt, remove_checkpoint
from afp_ray.execution.failpoints import failpoint
from afp_ray.execution.outcome import Outcome, failure_of
from afp_ray.execution.stop import StopNowError, StopRequest
from afp_ray.ledger import CloseReason, Ledger
from afp_ray.records import Failure, FailureClass, Job, LedgerEvent, StudyState, TrialRecord, TrialResult, TrialStatus
from afp_ray.search import WAIT, Wait
from afp_ray.store import StudyPaths, write_atomic

logger = logging.getLogger(__name__)

OnEvent = Callable[[LedgerEvent, StudyState], None]
Objective = Callable[[TrialResult], float]


def run_study(
    study: StudyConfig,
    paths: StudyPaths,
    *,
    search: JobSource,
    executor: Executor,
    objective: Objective,
    run_trial: str = RUN_TRIAL,
    on_event: Sequence[OnEvent] = (),
    stop: StopRequest | None = None,
    allow_drift: bool = False,
) -> StudyState:
    """Run a study, or continue it after whatever stopped it.

    Args:
        study: what to run.
        paths: where it lives.
        search: decides what runs; fresh, it is brought up to date from the ledger here.
        executor: runs the jobs.
        objective: the study's objective on the validation split, from a result.
        run_trial: `module:function` of a `RunTrial`, importable where the trials run.
        on_event: called after every event is durable; one that raises gives a warning and stops nothing.
        stop: lets another thread ask to stop; SIGINT and SIGTERM are heard besides.
        allow_drift: go on although the study differs from what ran before.
    Returns: the state when the driver ended; its `closed` begins with a `CloseReason`.
    Raises: StudyLockedError, StudyChangedError, UnavailableError, and what the executor refuses.
    """
    stop = stop or StopRequest()
    with Ledger.open(paths, study, allow_drift=allow_drift) as ledger:
        driver = Driver(study, ledger, search=search, objective=objective, run_trial=run_trial, stop=stop)
        driver.on_event = list(on_event)
        try:
            with stop.listening():
                driver.begin()
                executor.run(driver)
            note = driver.why_ended()
        except StopNowError:
            driver.cancel_running()
            note = f"{CloseReason.INTERRUPTED}: {stop.reason}"
        except BaseException as error:
            _close_quietly(ledger, f"{CloseReason.ERROR}: {type(error).__name__}: {error}")
            raise
        ledger.close(note)
        driver.tell(ledger.last_event)
        return ledger.state


def _close_quietly(ledger: Ledger, note: str) -> None:
    """Close while another error is on its way: a disk that is full must not hide what happened."""
    try:
        ledger.close(note)
    except AfpError as error:
        logger.warning("the study could not be closed: %s", error)


class Driver:
    """The queue that an executor sees; every change of a trial goes through here into the ledger."""

    def __init__(
        self,
        study: StudyConfig,
        ledger: Ledger,
        *,
        search: JobSource,
        objective: Objective,
        run_trial: str,
        stop: StopRequest,
    ) -> None:
        self.stop = stop
        self.num_workers = study.runtime.workers_per_trial
        self.runtime = study.runtime
        self.on_event: list[OnEvent] = []
        self._ledger, self._search, self._objective = ledger, search, objective
        self._run_trial = run_trial
        self._running: dict[str, Job] = {}
        self._retries: deque[Job] = deque()
        self._num_retries: Counter[str] = Counter()
        self._tidied: set[str] = set()
        self._warned: set[int] = set()

    def begin(self) -> None:
        """Tell what OPENED, bring the search up to date and end trials that can no longer run."""
        self.tell(self._ledger.last_event)
        self._search.replay(self._ledger.state)
        for trial_id in self._search.stale:
            record = self._record(trial_id)
            note = "its model, data or rows have changed"
            self._append(TrialStatus.CANCELLED, trial_id, record.attempt, note=note)
        for arm in dict.fromkeys(trial.arm for trial in self._ledger.state.trials):
            self._tidy(arm)

    # --- what an executor calls ---------------------------------------------------------------------------------

    def next_job(self) -> Job | Wait | None:
        """The next job that has to run; results that are on disk already are adopted on the way."""
        while True:
            if self.stop.is_requested or (self._retries and self._search.stopped_by()):
                return WAIT if self._running else None
            job = self._retries.popleft() if self._retries else self._search.next_job()
            if not isinstance(job, Job):
                return job
            self._plan(job)
            adopted = adopt(self._ledger.paths, job)
            if adopted is None:
                self._running[job.trial_id] = job
                return job
            self._finish(job, Outcome(result=adopted[0]), note=adopted[1])

    def started(self, job: Job) -> None:
        """Write RUNNING."""
        self._append(TrialStatus.RUNNING, job.trial_id, job.attempt, role=job.role)
        failpoint("after_running")

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Write DONE or FAILED, and plan a fresh attempt where the failure was not the trial's own."""
        failpoint("after_result_before_commit")
        self._running.pop(job.trial_id, None)
        self._finish(job, outcome)

    def work(self, job: Job) -> dict[str, Any]:
        """The job as JSON for the process that runs it."""
        return {
            "run_trial": self._run_trial,
            "job": job.model_dump(mode="json"),
            "folder": str(self._ledger.paths.trial(job.trial_id).folder),
            "cwd": os.getcwd(),
            "device": "auto",
            "runtime": self.runtime.of_training.model_dump(mode="json"),
            "num_threads": max(1, int(self.runtime.cpus_per_worker)),
        }

    # --- the end of a study -------------------------------------------------------------------------------------

    def why_ended(self) -> str:
        """The note of CLOSED, once the executor has returned."""
        if not (self._retries or self._running or self._search.has_more()):
            return CloseReason.COMPLETE
        if self.stop.is_requested:
            return f"{CloseReason.INTERRUPTED}: {self.stop.reason}"
        return f"{CloseReason.BUDGET}: {self._search.stopped_by()}"

    def cancel_running(self) -> None:
        """Write CANCELLED for what was running when everything was stopped at once."""
        for job in self._running.values():
            self._append(TrialStatus.CANCELLED, job.trial_id, job.attempt, role=job.role, note="stopped at once")
        self._running.clear()

    # --- events -------------------------------------------------------------------------------------------------

    def _plan(self, job: Job) -> None:
        record = self._ledger.trial(job.trial_id)
        is_planned = record is not None and (
            record.test_pending or (record.status is TrialStatus.PLANNED and record.attempt == job.attempt)
        )
        if not is_planned:
            whole = {"config": job.config, "params": job.params} if job.role != "test" else {}
            self._append(
                TrialStatus.PLANNED, job.trial_id, job.attempt, role=job.role, arm=job.arm, seed=job.seed, **whole
            )
            failpoint("after_planned")

    def _finish(self, job: Job, outcome: Outcome, *, note: str = "") -> None:
        failure = outcome.failure
        if outcome.result is not None:
            value = self._value(outcome.result)
            if isinstance(value, Failure):
                failure = value
            else:
                self._done(job, outcome.result, objective=value, note=note)
        elif failure is None:
            failure = Failure(failure_class=FailureClass.BUG, message="the trial gave neither a result nor a failure")
        if failure is not None:
            self._failed(job, failure)
        self._search.observe(self._record(job.trial_id))
        self._tidy(job.arm)

    def _value(self, result: TrialResult) -> float | Failure:
        """The study's objective, or why there is none; one that is not finite can win nothing."""
        try:
            value = float(self._objective(result))
        except Exception as error:  # the executor's edge: a result that cannot be judged fails its trial alone
            return failure_of(error)
        if not math.isfinite(value):
            return Failure(failure_class=FailureClass.DIVERGED, message=f"the objective is {value}")
        return value

    def _done(self, job: Job, result: TrialResult, *, objective: float, note: str) -> None:
        self._append(
            TrialStatus.DONE,
            job.trial_id,
            job.attempt,
            role=job.role,
            objective=objective,
            splits=result.splits,
            gpu_hours=result.training.gpu_hours,
            note=note,
        )
        failpoint("after_done")

    def _failed(self, job: Job, failure: Failure) -> None:
        """Write FAILED, its traceback beside it; a job whose worker was lost is planned again."""
        trial = self._ledger.paths.trial(job.trial_id)
        write_atomic(trial.failure(job.attempt), failure.traceback or failure.message + "\n")
        short = failure.model_copy(update={"traceback": ""})
        self._append(TrialStatus.FAILED, job.trial_id, job.attempt, role=job.role, failure=short)
        failpoint("after_failed")
        is_lost = failure.failure_class is FailureClass.INFRA
        if is_lost and self._num_retries[job.trial_id] < self.runtime.max_retries:
            self._num_retries[job.trial_id] += 1
            again = job.model_copy(update={"attempt": job.attempt + 1})
            self._plan(again)
            self._retries.append(again)

    def _append(self, state: TrialStatus, trial_id: str, attempt: int, **fields: Any) -> None:
        event = LedgerEvent(time=time(), trial_id=trial_id, state=state, attempt=attempt, **fields)
        self._ledger.append(event)
        self.tell(self._ledger.last_event)

    def tell(self, event: LedgerEvent) -> None:
        """Call everybody who listens; one that raises gives a warning, and stops nothing."""
        for place, callback in enumerate(self.on_event):
            try:
                callback(event, self._ledger.state)
            except Exception as error:  # a projection that fails is drained later
                if place not in self._warned:
                    self._warned.add(place)
                    logger.warning("a listener failed and will be called again: %s: %s", type(error).__name__, error)

    def _record(self, trial_id: str) -> TrialRecord:
        record = self._ledger.trial(trial_id)
        if record is None:
            raise KeyError(f"trial {trial_id} is not in the ledger")
        return record

    def _tidy(self, arm: str) -> None:
        """Delete checkpoints that nothing can ask for any more, once the arm is decided."""
        keep = self.runtime.keep_checkpoints
        if keep == "all" or arm in self._tidied:
            return
        confirmed = self._search.decided(arm)
        if confirmed is None:
            return
        failpoint("after_confirmed_before_cleanup")
        self._tidied.add(arm)
        for record in self._ledger.state.trials:
            if record.arm == arm and (keep == "none" or record.trial_id not in confirmed):
                remove_checkpoint(self._ledger.paths.trial(record.trial_id))
