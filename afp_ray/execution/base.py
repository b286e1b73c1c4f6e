"""The protocols of this room: where jobs come from, who runs them, and the function that is one trial."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from afp_ray.records import Failure, Host, Job, StudyState, TrialRecord, TrialRequest, TrialResult, Work
from afp_ray.search import Wait

if TYPE_CHECKING:
    from afp_ray.execution.outcome import Outcome
    from afp_ray.execution.stop import StopRequest

RUN_TRIAL = "afp_ray.trial.run:run_trial"
"""The `RunTrial` of real studies, as `module:function`: workers import it, nothing pickled crosses to them."""

RunTrial = Callable[[TrialRequest, Path, Host], TrialResult | None]
"""Trains and scores one trial, or only the splits that its folder lacks; durable there before it returns.

Gives None on workers other than the first. It asks `Host.stop` all along, and calls `Host.fence` before it writes a
result or checkpoint: what they raise ends it. At a rung (`TrialRequest.until`) the result is PAUSED.
"""


class JobSource(Protocol):
    """Decides what runs next; `search.StudySearch` is one."""

    stale: tuple[str, ...]
    refused: Mapping[str, Failure]
    """By arm, why none of its trials can run: they fail with it and are given to no worker."""

    def replay(self, state: StudyState) -> None:
        """Start from what the ledger holds."""
        ...

    def next_job(self) -> Job | Wait | None:
        """A job, WAIT, or None when nothing is left."""
        ...

    def observe(self, record: TrialRecord) -> None:
        """Take note of a trial whose record changed."""
        ...

    def stopped_by(self) -> str | None:
        """The budget that is used up; None while there is some left."""
        ...

    def has_more(self) -> bool:
        """Whether a job would follow if the budget allowed it."""
        ...

    def pruned(self) -> tuple[str, ...]:
        """Paused trials that nothing can promote any more and that no PRUNED event has ended yet."""
        ...

    def decided(self, arm: str) -> frozenset[str] | None:
        """Trials that confirm `arm`; None before all of them have ended."""
        ...


class JobQueue(Protocol):
    """What an executor sees of the driver."""

    num_workers: int
    stop: "StopRequest"

    def next_job(self) -> Job | Wait | None:
        """The next job, planned in the ledger; WAIT while running ones decide; None at the end."""
        ...

    def started(self, job: Job) -> None:
        """Say that a job has got its resources."""
        ...

    def ended(self, job: Job, outcome: "Outcome") -> None:
        """Hand over what became of a job."""
        ...

    def work(self, job: Job) -> Work:
        """The job as the process that runs it takes it."""
        ...

    def check(self) -> None:
        """Look whether the study is still this driver's; executors call it every second or so.

        Raises: StudyLockedError when another driver has taken the study over: what runs has to be ended.
        """
        ...


class Executor(Protocol):
    """Runs jobs until the queue gives None; knows nothing of search, retries or the ledger."""

    def run(self, queue: JobQueue) -> None:
        """Run every job of `queue`.

        Raises: ConfigError when no trial can ever fit, UnavailableError when there is no cluster.
        """
        ...
