"""The one writer of a study's ledger: every event is on disk before anybody acts on it."""

import json
import os
import time
from contextlib import suppress
from typing import Any, Self

from afp_ray.config import StudyConfig
from afp_ray.errors import StorageError
from afp_ray.ledger import snapshot
from afp_ray.ledger.agreement import adopt_study, package_versions, require_versions, study_hash
from afp_ray.ledger.lease import Lease
from afp_ray.ledger.state import (
    CLOSED,
    OPENED,
    Replayer,
    cut_torn_tail,
    follow,
    read,
    repair,
    sealed,
)
from afp_ray.records import CloseReason, LedgerEvent, StudyState, TrialRecord
from afp_ray.redaction import redact
from afp_ray.store import StudyPaths, sync_folder

SNAPSHOT_EVENTS = 4_000
"""A ledger of fewer events is read at once, and gets no snapshot."""


class Ledger:
    """The one writer of a study's ledger; use `Ledger.open` in a `with` statement."""

    def __init__(self, paths: StudyPaths, lease: Lease) -> None:
        self.paths = paths
        self._lease = lease
        self._is_open = True
        self._sections = snapshot.Sections()
        self._num_kept = 0
        self._file = os.open(paths.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        sync_folder(paths.folder)
        self._replayer: Replayer = read(paths.ledger)
        self.last_event: LedgerEvent = _event(OPENED, attempt=1)

    @classmethod
    def open(
        cls,
        paths: StudyPaths,
        study: StudyConfig | None = None,
        *,
        allow_drift: bool = False,
        num_trials: int | None = None,
    ) -> Self:
        """Take the study's lease, mend a torn tail and write OPENED.

        Args:
            paths: where the study lives; its folder is made when it is new.
            study: what is about to run; kept as `study.json` and compared with what ran before. None skips both.
            allow_drift: go on with a study that differs from the one that ran before, and note the difference.
            num_trials: that the study plans at most, for whoever asks how far it is.
        Raises:
            StudyLockedError: a live driver holds the study; its pid and host are in the text.
            StudyChangedError: `study` differs from what ran before, or the packages do; the fields are in the text.
            StorageError: the folder cannot be written.
        """
        try:
            paths.trials.mkdir(parents=True, exist_ok=True)
            lease = Lease.take(paths)
            try:
                cut_torn_tail(paths.ledger)
                note = adopt_study(paths, study, allow_drift=allow_drift) if study else ""
                ledger = cls(paths, lease)
            except BaseException:
                lease.release()
                raise
        except OSError as error:
            raise StorageError(f"cannot open the study folder {paths.folder}: {error}") from error
        try:
            attempt = ledger.state.driver_attempt + 1
            digest, versions = ledger.state.study_hash, None
            if study is not None:
                digest, versions = study_hash(study), package_versions(study)
                drift = require_versions(paths, ledger.state.packages, versions, allow_drift=allow_drift)
                note = "; ".join(part for part in (note, drift) if part)
            told = {"packages": versions, "note": note, "num_trials": num_trials}
            ledger.append(_event(OPENED, attempt=attempt, study_hash=digest, **told))
        except BaseException:
            ledger.release()
            raise
        return ledger

    @property
    def state(self) -> StudyState:
        """The study as of the last event; a snapshot."""
        return self._replayer.state()

    def trial(self, trial_id: str) -> TrialRecord | None:
        """The trial of that id as of the last event, or None."""
        return self._replayer.trial(trial_id)

    @property
    def token(self) -> str:
        """Of this driver: no two have the same."""
        return self._lease.token

    @property
    def is_ours(self) -> bool:
        """Whether this driver may still write: it has not lost its lease."""
        return self._is_open and self._lease.is_ours

    def check(self) -> None:
        """Nothing while this driver may still write.

        Raises: StudyLockedError when another driver took the study, with who has it now.
        """
        self._lease.check()

    def append(self, event: LedgerEvent) -> None:
        """Make one event durable, signed with the token of this driver; `last_event` is what was written.

        Raises:
            StudyLockedError: another driver took the study while this one was away; nothing was written.
            StorageError: the disk refuses; a torn line is then cut at the next opening.
        """
        event = _without_secrets(event).model_copy(update={"driver": self._lease.token})
        content = {"time": event.time, "trial_id": event.trial_id, **event.model_dump(mode="json", exclude_none=True)}
        if event.config is not None:
            content["config"] = self._sections.share(content["config"])
        line = sealed(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()) + b"\n"
        self._lease.check()
        try:
            self._catch_up()
            self._write(line)
        except OSError as error:
            raise StorageError(f"cannot append to {self.paths.ledger}: {error}") from error
        self._replayer.apply(content)
        self._replayer.count(line)
        self.last_event = event
        # A fixed share of the whole, so that a long study pays the same for every event.
        if self._replayer.num_events - self._num_kept >= max(SNAPSHOT_EVENTS, self._replayer.num_events // 4):
            self._keep_snapshot()

    def _write(self, line: bytes) -> None:
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes fitted")
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):  # what fitted must not stand before the next event
                os.ftruncate(self._file, self._replayer.offset)
            raise

    def _catch_up(self) -> None:
        """Pass what others wrote since our last event, as a driver does that was replaced in the midst of a write.

        Raises: StudyLockedError when another driver has opened the study; OSError when the file is gone.
        """
        status = os.fstat(self._file)
        if status.st_nlink == 0:
            raise OSError("it was removed")
        if status.st_size == self._replayer.offset:
            return
        try:
            appended = list(follow(self.paths.ledger, self._replayer.offset))
            is_whole = self._replayer.offset + sum(len(line) for _, line in appended) >= status.st_size
            if not appended or not is_whole or any(event["state"] == OPENED for event, _ in appended):
                raise self._lease.lost()
            for event, line in appended:
                self._replayer.apply(event)
                self._replayer.count(line)
        except (ValueError, KeyError, TypeError) as error:
            raise self._lease.lost() from error

    def _keep_snapshot(self) -> None:
        snapshot.save(self._replayer, snapshot.path_of(self.paths.ledger), self._sections)
        self._num_kept = self._replayer.num_events

    def close(self, note: str) -> None:
        """Write CLOSED with the reason and give the lease back.

        Args:
            note: a `CloseReason`, with a detail after a colon where there is one.
        """
        try:
            self.append(_event(CLOSED, attempt=max(1, self.state.driver_attempt), note=note))
            if self._replayer.num_events >= SNAPSHOT_EVENTS:
                self._keep_snapshot()
        finally:
            self.release()

    def release(self) -> None:
        """Give the lease back without a CLOSED event, as a kill would."""
        if self._is_open:
            self._is_open = False
            os.close(self._file)
            self._lease.release()

    def __enter__(self) -> Self:
        """The ledger itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lease back, if `close` did not."""
        self.release()


def mend(paths: StudyPaths) -> int:
    """Set lines of a ledger aside that are no events; the ledger as it was stays beside it.

    Returns: how many; 0 where there was nothing to mend.
    Raises: StudyLockedError while a driver holds the study; StorageError when the disk refuses.
    """
    try:
        lease = Lease.take(paths)
        try:
            return repair(paths.ledger)
        finally:
            lease.release()
    except OSError as error:
        raise StorageError(f"cannot mend {paths.ledger}: {error}") from error


def _without_secrets(event: LedgerEvent) -> LedgerEvent:
    """An event whose words anybody may read; the first word of a closing note says how the study goes on, and stays."""
    failure, (first, colon, rest) = event.failure, event.note.partition(":")
    if failure is not None:
        failure = failure.model_copy(update={"message": redact(failure.message)})
    is_reason = event.state == CLOSED and first in set(map(str, CloseReason))
    note = f"{first}{colon}{redact(rest)}" if is_reason else redact(event.note)
    return event.model_copy(update={"note": note, "failure": failure})


def _event(state: str, **fields: Any) -> LedgerEvent:
    return LedgerEvent(time=time.time(), trial_id=None, state=state, **fields)
