"""What a ledger says: its events, the trials and the state of the study that are replayed from them."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import Field

from afp_ray.config.base import StrictModel
from afp_ray.records.trials import Failure, Role, TrialStatus, Until

ADOPTED_FROM = "adopted from "
"""Begins the note of a trial whose result another study had; its name follows."""


class CloseReason(StrEnum):
    """First word of the note of a CLOSED event; a colon and a detail may follow."""

    COMPLETE = "complete"
    BUDGET = "budget"
    INTERRUPTED = "interrupted"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Closed:
    """Why a driver closed its study."""

    reason: CloseReason
    detail: str
    """The limit that was reached, the signal, or the error; empty where there is nothing more to say."""


class LedgerEvent(StrictModel):
    """One line of `ledger.jsonl`."""

    time: float
    """Seconds since the epoch, UTC."""
    trial_id: str | None
    """Null for events of the whole study."""
    state: str
    """A `TrialStatus`, or `OPENED` / `CLOSED` for the study."""
    attempt: int
    """1-based attempt of the trial, or of the driver."""
    role: Role | None = None
    arm: str | None = None
    seed: int | None = None
    config: dict[str, Any] | None = None
    """With PLANNED only."""
    params: dict[str, Any] | None = None
    """With PLANNED only."""
    objective: float | None = None
    """With DONE and PAUSED: the study's objective on the validation split."""
    values: dict[str, float] | None = None
    """With DONE and PAUSED: further metrics that the study asks for, on the validation split."""
    until: Until | None = None
    """With PLANNED, of a trial that is to pause at a rung, and with PAUSED."""
    num_halvings: int | None = None
    """With PLANNED, where an attempt before ran out of memory: how often the micro-batch is halved."""
    splits: tuple[str, ...] | None = None
    """With DONE."""
    gpu_hours: float | None = None
    """With DONE."""
    files: dict[str, str] | None = None
    """With DONE: digests of the result and the predictions, by their names in the trial's folder."""
    is_afresh: bool | None = None
    """With PLANNED, of a finished trial whose files are lost or were altered: it is finished no longer."""
    failure: Failure | None = None
    """With FAILED."""
    note: str = ""
    """`adopted` when the result was found on disk, the study that it came from, or why a study was closed."""
    study_hash: str | None = None
    """With OPENED: hash of the study without its runtime."""
    packages: dict[str, str] | None = None
    """With OPENED: versions of the packages that scores depend on, where the driver runs."""
    num_trials: int | None = None
    """With OPENED: trials that the study plans at most; null in ledgers of before it was kept."""
    driver: str | None = None
    """Token of the driver that wrote it; null in ledgers of before there were tokens."""
    check: str | None = None
    """CRC-32 of the line without this field, which stands last; null in ledgers of before there were checks."""


class TrialRecord(StrictModel):
    """A trial as replayed from the ledger."""

    trial_id: str
    arm: str
    seed: int
    role: Role
    """Role it was planned for first."""
    status: TrialStatus
    attempt: int
    config: dict[str, Any]
    params: dict[str, Any] = {}
    objective: float | None = None
    values: dict[str, float] = {}
    """Further objectives and constrained metrics on validation, by name."""
    until: Until | None = None
    """The rung that it was planned for last; null where that is the whole training."""
    num_halvings: int = 0
    """How often its micro-batch was halved because an attempt ran out of memory."""
    rungs: tuple[float, ...] = ()
    """The study's objective at every rung that it reached."""
    splits: tuple[str, ...] = ()
    files: dict[str, str] = {}
    """Digests of the result and the predictions; empty where the ledger is of before they were kept."""
    gpu_hours: float = 0.0
    failure: Failure | None = None
    note: str = ""
    planned_at: float
    started_at: float | None = None
    ended_at: float | None = None
    test_pending: bool = False
    """A test job was planned and has not ended."""

    @property
    def adopted_from(self) -> str | None:
        """The study whose result it has; None where it ran in this one."""
        return self.note.removeprefix(ADOPTED_FROM) if self.note.startswith(ADOPTED_FROM) else None


class StudyState(StrictModel):
    """A study as replayed from its ledger."""

    name: str
    study_hash: str | None = None
    opened_at: float | None = None
    closed: str | None = None
    """Why the last driver closed the study; null while one is driving or after a kill."""
    driver_attempt: int = 0
    packages: dict[str, str] = {}
    """Versions that the last driver had; empty in ledgers of before they were kept."""
    num_trials: int | None = None
    """Trials that the last driver was to run at most; null in ledgers of before it was kept."""
    trials: tuple[TrialRecord, ...] = Field(default=())
    """In the order in which they were planned."""

    @property
    def expected(self) -> int:
        """Trials of the whole study: those that there are, once it is complete, and until then as many as may come."""
        return len(self.trials) if self.is_complete else max(self.num_trials or 0, len(self.trials))

    @property
    def ended(self) -> Closed | None:
        """`closed` in its parts; None while a driver is at work, and after a kill."""
        reason, _, detail = (self.closed or "").partition(":")
        return Closed(CloseReason(reason), detail.strip()) if reason in set(CloseReason) else None

    @property
    def is_complete(self) -> bool:
        """Whether the last driver had nothing left to run."""
        return self.ended is not None and self.ended.reason is CloseReason.COMPLETE

    def trial(self, trial_id: str) -> TrialRecord | None:
        """The trial of that id, or None."""
        return next((trial for trial in self.trials if trial.trial_id == trial_id), None)


OnEvent = Callable[[LedgerEvent, StudyState], None]
"""Told each event of a ledger, and the state after it."""
