"""The one writer of a study: plans jobs in the ledger, adopts results, retries lost ones and closes the study."""

import logging
import math
import shutil
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from time import time
from typing import Any

from afp_ray.config import StudyConfig, TrainingRuntime, TrialConfig
from afp_ray.errors import AfpError, StorageError
from afp_ray.execution.adoption import adopt, remove_checkpoint, set_aside
from afp_ray.execution.base import RUN_TRIAL, Executor, JobSource
from afp_ray.execution.failpoints import failpoint
from afp_ray.execution.outcome import Outcome, failure_of
from afp_ray.execution.stop import StopNowError, StopRequest
from afp_ray.execution.stop_signs import claim
from afp_ray.ledger import Ledger
from afp_ray.models.hub import pins
from afp_ray.records import (
    CloseReason,
    Failure,
    FailureClass,
    Job,
    LedgerEvent,
    OnEvent,
    StudyState,
    TrialRecord,
    TrialResult,
    TrialStatus,
    Work,
)
from afp_ray.redaction import redact
from afp_ray.search import WAIT, Wait
from afp_ray.store import RESULT, find_damage, trial_digests, write_atomic

logger = logging.getLogger(__name__)

Measure = Callable[[TrialResult], tuple[float, Mapping[str, float]]]
"""The first objective of a study and its further metrics, on validation, from a result."""
_MAX_PREEMPTIONS = 100
"""Free retries of a trial in the life of a driver: beyond them something other than the market takes its machines."""


class Driver:
    """Runs a study, or continues it after whatever stopped it: every change of a trial goes through here.

    An executor sees it as the queue of its jobs.

    Args:
        study: what to run.
        ledger: of the study, opened, so that nobody else drives it.
        search: decides what runs; fresh, it is brought up to date from the ledger.
        measure: what a result is worth to the study.
        run_trial: `module:function` of a `RunTrial`, importable where the trials run.
        on_event: called after every event is durable; one that raises gives a warning and stops nothing.
        stop: lets another thread ask to stop; SIGINT and SIGTERM are heard besides.
    """

    def __init__(
        self,
        study: StudyConfig,
        ledger: Ledger,
        *,
        search: JobSource,
        measure: Measure,
        run_trial: str = RUN_TRIAL,
        on_event: Sequence[OnEvent] = (),
        stop: StopRequest | None = None,
    ) -> None:
        self.stop = stop or StopRequest()
        self.num_workers = study.runtime.workers_per_trial
        self.runtime = study.runtime
        self._ledger, self._search, self._measured_by = ledger, search, measure
        self._run_trial = run_trial
        self._on_event = tuple(on_event)
        self._running: dict[str, Job] = {}
        self._retries: deque[Job] = deque()
        self._num_retries: Counter[tuple[str, FailureClass]] = Counter()
        self._tidied: set[str] = set()
        self._warned: set[int] = set()
        self._refused = ""
        """What the disk of a trial said when it refused; nothing is started any more then."""

    def run(self, executor: Executor) -> StudyState:
        """Go through the whole study and close it.

        Returns: the state when the driver ended; its `closed` begins with a `CloseReason`.
        Raises: StudyLockedError when another driver took the study over, UnavailableError, and what the executor
            refuses.
        """
        try:
            with self.stop.listening():
                self._begin()
                executor.run(self)
            note = self._why_ended()
        except StopNowError:
            self._cancel_running()
            note = f"{CloseReason.INTERRUPTED}: {self.stop.reason}"
        except BaseException as error:
            self._close_quietly(f"{CloseReason.ERROR}: {type(error).__name__}: {error}")
            raise
        self._ledger.close(note)
        self._tell(self._ledger.last_event)
        return self._ledger.state

    def _close_quietly(self, note: str) -> None:
        """Close while another error is on its way: a disk that is full must not hide what happened."""
        try:
            self._ledger.close(note)
        except AfpError as error:
            logger.warning("the study could not be closed: %s", error)

    def _begin(self) -> None:
        """Tell what OPENED, bring the search up to date and end trials that can no longer run."""
        self._tell(self._ledger.last_event)
        self._plan_lost()
        self._search.replay(self._ledger.state)
        for trial_id in self._search.stale:
            record = self._record(trial_id)
            is_failed = record.status is TrialStatus.FAILED
            note = "its model can be loaded now" if is_failed else "its model, data or rows have changed"
            self._append(TrialStatus.CANCELLED, trial_id, record.attempt, note=note)
        for record in self._ledger.state.trials:
            if record.status in (TrialStatus.DONE, TrialStatus.PRUNED):
                self._remove_states(record.trial_id)
        self._prune()
        for arm in dict.fromkeys(trial.arm for trial in self._ledger.state.trials):
            self._tidy(arm)

    def _plan_lost(self) -> None:
        """Plan finished trials again whose files are lost or altered; what is left of them is set aside."""
        for record in self._ledger.state.trials:
            if record.status is not TrialStatus.DONE or record.test_pending:
                continue  # a test job that was cut off may have written already, and is done again
            damage = find_damage(self._ledger.paths.trial(record.trial_id), record.files or {RESULT: ""})
            if not damage:
                continue
            logger.warning("trial %s is run again: %s", record.trial_id, damage)
            set_aside(self._ledger.paths.trial(record.trial_id))
            self._append(
                TrialStatus.PLANNED,
                record.trial_id,
                record.attempt + 1,
                role=record.role,
                arm=record.arm,
                seed=record.seed,
                config=record.config,
                params=record.params,
                is_afresh=True,
                note=damage,
            )

    # --- what an executor calls ---------------------------------------------------------------------------------

    def next_job(self) -> Job | Wait | None:
        """The next job that has to run; on the way results on disk are adopted, and trials of refused arms fail."""
        while True:
            if self.stop.is_requested or self._refused or (self._retries and self._search.stopped_by()):
                return WAIT if self._running else None
            job = self._retries.popleft() if self._retries else self._search.next_job()
            if not isinstance(job, Job):
                return job
            self._plan(job)
            adopted = adopt(self._ledger.paths, job)
            if adopted is not None:
                self._finish(job, Outcome(result=adopted[0]), note=adopted[1])
            elif job.arm in self._search.refused:
                self._finish(job, Outcome(failure=self._search.refused[job.arm]))
            else:
                self._running[job.trial_id] = job
                claim(self._ledger.paths.trial(job.trial_id), attempt=job.attempt, token=self._ledger.token)
                return job

    def started(self, job: Job) -> None:
        """Write RUNNING."""
        self._append(TrialStatus.RUNNING, job.trial_id, job.attempt, role=job.role)
        failpoint("after_running")

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Write what became of a job, and plan a fresh attempt where a failure was not the trial's own."""
        failpoint("after_result_before_commit")
        self._running.pop(job.trial_id, None)
        self._finish(job, outcome)

    def work(self, job: Job) -> Work:
        """The job as the process that runs it takes it."""
        return Work(
            run_trial=self._run_trial,
            job=job,
            folder=self._ledger.paths.trial(job.trial_id).folder,
            cwd=Path.cwd(),
            runtime=self._training_runtime(job),
            num_threads=max(1, int(self.runtime.cpus_per_worker)),
            token=self._ledger.token,
            hub=tuple(pins()),
        )

    def check(self) -> None:
        """Look whether the study is still this driver's.

        Raises: StudyLockedError when it is not.
        """
        self._ledger.check()

    # --- the end of a study -------------------------------------------------------------------------------------

    def _why_ended(self) -> str:
        """The note of CLOSED, once the executor has returned.

        Raises: StorageError when a trial found the disk full or refusing: what runs has ended, the rest can wait.
        """
        if self._refused:
            raise StorageError(self._refused)
        if not (self._retries or self._running or self._search.has_more()):
            return CloseReason.COMPLETE
        if self.stop.is_requested:
            return f"{CloseReason.INTERRUPTED}: {self.stop.reason}"
        return f"{CloseReason.BUDGET}: {self._search.stopped_by()}"

    def _cancel_running(self) -> None:
        """Write CANCELLED for what was running when everything was stopped at once."""
        for job in self._running.values():
            self._append(TrialStatus.CANCELLED, job.trial_id, job.attempt, role=job.role, note="stopped at once")
        self._running.clear()

    # --- events -------------------------------------------------------------------------------------------------

    def _plan(self, job: Job) -> None:
        record = self._ledger.trial(job.trial_id)
        is_planned = record is not None and (
            record.test_pending
            or (record.status, record.attempt, record.until) == (TrialStatus.PLANNED, job.attempt, job.until)
        )
        if not is_planned:
            whole: dict[str, Any] = {}
            if job.role != "test":
                whole = {"config": job.config, "params": job.params, "until": job.until}
                whole |= {"num_halvings": job.num_halvings} if job.num_halvings else {}
            self._append(
                TrialStatus.PLANNED, job.trial_id, job.attempt, role=job.role, arm=job.arm, seed=job.seed, **whole
            )
            failpoint("after_planned")

    def _finish(self, job: Job, outcome: Outcome, *, note: str = "") -> None:
        failure = outcome.failure
        if outcome.result is not None:
            measured = self._measure(outcome.result)
            if isinstance(measured, Failure):
                failure = measured
            else:
                objective, values = measured
                self._scored(job, outcome.result, objective=objective, values=values, note=note)
        elif failure is None:
            failure = Failure(failure_class=FailureClass.BUG, message="the trial gave neither a result nor a failure")
        if failure is not None:
            self._failed(job, failure)
        self._search.observe(self._record(job.trial_id))
        self._prune()
        self._tidy(job.arm)

    def _measure(self, result: TrialResult) -> tuple[float, dict[str, float]] | Failure:
        """The study's objective and further metrics, or why there is none; one that is not finite can win nothing."""
        try:
            objective, further = self._measured_by(result)
            value = float(objective)
            others = {name: other for name, other in further.items() if math.isfinite(other)}
        except Exception as error:  # the executor's edge: a result that cannot be judged fails its trial alone
            return failure_of(error)
        if not math.isfinite(value):
            return Failure(failure_class=FailureClass.DIVERGED, message=f"the objective is {value}")
        return value, others

    def _scored(
        self, job: Job, result: TrialResult, *, objective: float, values: Mapping[str, float], note: str
    ) -> None:
        """Write DONE, or PAUSED at a rung."""
        is_paused = result.status == "PAUSED"
        files = None if is_paused else trial_digests(self._ledger.paths.trial(job.trial_id))
        self._append(
            TrialStatus.PAUSED if is_paused else TrialStatus.DONE,
            job.trial_id,
            job.attempt,
            role=job.role,
            objective=objective,
            values=dict(values) or None,
            splits=None if is_paused else result.splits,
            files=files,
            until=result.until,
            gpu_hours=result.training.gpu_hours,
            note=note,
        )
        failpoint("after_paused" if is_paused else "after_done")
        if not is_paused:
            self._remove_states(job.trial_id)

    def _prune(self) -> None:
        """Write PRUNED for paused trials that nothing can promote any more, and remove what they would go on from."""
        for trial_id in self._search.pruned():
            record = self._record(trial_id)
            self._append(TrialStatus.PRUNED, trial_id, record.attempt, role=record.role)
            failpoint("after_pruned")
            self._search.observe(self._record(trial_id))
            self._remove_states(trial_id)

    def _remove_states(self, trial_id: str) -> None:
        """Remove what a trial would go on from: it never will, and its own process may have died before it did so."""
        shutil.rmtree(self._ledger.paths.trial(trial_id).states, ignore_errors=True)

    def _failed(self, job: Job, failure: Failure) -> None:
        """Write FAILED, its traceback beside it; a job that deserves a fresh attempt is planned again."""
        trial = self._ledger.paths.trial(job.trial_id)
        is_refused = failure.failure_class is FailureClass.STORAGE
        with suppress(StorageError) if is_refused else nullcontext():  # the disk that refused may refuse this too
            write_atomic(trial.failure(job.attempt), redact(failure.traceback or failure.message + "\n"))
        short = failure.model_copy(update={"traceback": ""})
        self._append(TrialStatus.FAILED, job.trial_id, job.attempt, role=job.role, failure=short)
        failpoint("after_failed")
        if is_refused:
            self._refused = failure.message
        again = self._attempt_after(job, failure.failure_class)
        if again is not None:
            self._plan(again)
            self._retries.append(again)

    def _attempt_after(self, job: Job, failure: FailureClass) -> Job | None:
        """A fresh attempt where the failure was not the trial's own; None where it would only fail again."""
        again = job.model_copy(update={"attempt": job.attempt + 1})
        if failure is FailureClass.OOM:
            return again.model_copy(update={"num_halvings": 1}) if job.num_halvings == 0 else None
        limits = {FailureClass.INFRA: self.runtime.max_retries, FailureClass.PREEMPTED: _MAX_PREEMPTIONS}
        count = self._num_retries[job.trial_id, failure]
        if count >= limits.get(failure, 0):
            return None
        self._num_retries[job.trial_id, failure] += 1
        return again

    def _training_runtime(self, job: Job) -> TrainingRuntime:
        """How the job's workers train: with smaller passes once memory has run out."""
        runtime = self.runtime.of_training
        if job.num_halvings == 0:
            return runtime
        training = TrialConfig.model_validate(job.config).training
        workers, parts = self.num_workers, 2**job.num_halvings
        rows = runtime.micro_batch_size or training.batch_size // workers
        pairs = runtime.pair_chunk_size or training.num_pairs_per_step // workers
        sizes = {"micro_batch_size": max(1, rows // parts), "pair_chunk_size": max(1, pairs // parts)}
        return runtime.model_copy(update=sizes)

    def _append(self, state: TrialStatus, trial_id: str, attempt: int, **fields: Any) -> None:
        event = LedgerEvent(time=time(), trial_id=trial_id, state=state, attempt=attempt, **fields)
        self._ledger.append(event)
        self._tell(self._ledger.last_event)

    def _tell(self, event: LedgerEvent) -> None:
        """Call everybody who listens; one that raises gives a warning, and stops nothing."""
        state = self._ledger.state  # one for all: it is a copy, and grows with the study
        for index, callback in enumerate(self._on_event):
            try:
                callback(event, state)
            except Exception as error:  # a projection that fails is drained later
                if index not in self._warned:
                    self._warned.add(index)
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
