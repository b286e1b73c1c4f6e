"""The append-only event log of a study, the lease that keeps it to one writer, and its replay into state.

One event is one JSON line. A line counts once its newline is on disk: a torn last line is cut when the ledger is
opened for writing, and passed over when it is read, so reading needs no lock and may happen while a driver writes.
"""

import fcntl
import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError
from pydantic_core import from_json

from afp_ray.config import StudyConfig, canonical_json, flatten
from afp_ray.errors import DataError, StudyChangedError, StudyLockedError, UnavailableError
from afp_ray.records import Failure, LedgerEvent, StudyState, TrialRecord, TrialStatus
from afp_ray.store import StudyPaths, sync_folder, write_json

logger = logging.getLogger(__name__)

OPENED, CLOSED = "OPENED", "CLOSED"
_LOCK_TRIES = 5


class CloseReason(StrEnum):
    """First word of the note of a CLOSED event; a colon and a detail may follow."""

    COMPLETE = "complete"
    BUDGET = "budget"
    INTERRUPTED = "interrupted"
    ERROR = "error"


def study_hash(config: StudyConfig) -> str:
    """Content address of what a study asks, 16 hex digits; its runtime and description do not count."""
    return hashlib.sha256(canonical_json(_content(config)).encode()).hexdigest()[:16]


def _content(config: StudyConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"runtime", "description"})


class Ledger:
    """The one writer of a study's ledger; use `Ledger.open` in a `with` statement."""

    def __init__(self, paths: StudyPaths, lease: int, replayer: "Replayer") -> None:
        self.paths = paths
        self._lease = lease
        self._replayer = replayer
        self.last_event: LedgerEvent = _event(OPENED, attempt=1)
        self._file = os.open(paths.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        sync_folder(paths.folder)

    @classmethod
    def open(cls, paths: StudyPaths, study: StudyConfig | None = None, *, allow_drift: bool = False) -> Self:
        """Take the study's lease, mend a torn tail and write OPENED.

        Args:
            paths: where the study lives; its folder is made when it is new.
            study: what is about to run; kept as `study.json` and compared with what ran before. None skips both.
            allow_drift: go on with a study that differs from the one that ran before, and note the difference.
        Raises:
            StudyLockedError: a live driver holds the study; its pid and host are in the text.
            StudyChangedError: `study` differs from what ran before; the fields are in the text.
            UnavailableError: the folder cannot be written.
        """
        try:
            paths.trials.mkdir(parents=True, exist_ok=True)
            lease = _take_lease(paths)
            try:
                _cut_torn_tail(paths.ledger)
                note = _adopt_study(paths, study, allow_drift=allow_drift) if study else ""
                ledger = cls(paths, lease, _read(paths.ledger))
            except BaseException:
                os.close(lease)
                raise
        except OSError as error:
            raise UnavailableError(f"cannot open the study folder {paths.folder}: {error}") from error
        attempt = ledger.state.driver_attempt + 1
        digest = study_hash(study) if study else ledger.state.study_hash
        ledger.append(_event(OPENED, attempt=attempt, study_hash=digest, note=note))
        return ledger

    @property
    def state(self) -> StudyState:
        """The study as of the last event; a snapshot."""
        return self._replayer.state()

    def trial(self, trial_id: str) -> TrialRecord | None:
        """The trial of that id as of the last event, or None."""
        return self._replayer.trial(trial_id)

    def append(self, event: LedgerEvent) -> None:
        """Make one event durable.

        Raises: UnavailableError when the disk refuses; a torn line is then cut at the next opening.
        """
        content = {"time": event.time, "trial_id": event.trial_id, **event.model_dump(mode="json", exclude_none=True)}
        line = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(f"only {written} of {len(line)} bytes fitted")
            os.fsync(self._file)
        except OSError as error:
            raise UnavailableError(f"cannot append to {self.paths.ledger}: {error}") from error
        self._replayer.apply(content)
        self.last_event = event

    def close(self, note: str) -> None:
        """Write CLOSED with the reason and give the lease back.

        Args:
            note: a `CloseReason`, with a detail after a colon where there is one.
        """
        try:
            self.append(_event(CLOSED, attempt=max(1, self.state.driver_attempt), note=note))
        finally:
            self.release()

    def release(self) -> None:
        """Give the lease back without a CLOSED event, as a kill would."""
        if self._lease >= 0:
            os.close(self._file)
            os.close(self._lease)
            self._lease = -1

    def __enter__(self) -> Self:
        """The ledger itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lease back, if `close` did not."""
        self.release()


def replay(path: Path) -> StudyState:
    """Read a ledger into the state of its study; takes no lock and passes over a torn tail.

    Args:
        path: `ledger.jsonl`; a missing file is a study without events.
    Raises: DataError when a line before the last cannot be read.
    """
    return _read(path).state()


def holder(paths: StudyPaths) -> dict[str, Any] | None:
    """Who drives the study now: pid, host and time of its lease; None when nobody does."""
    try:
        handle = os.open(paths.lease, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _lease_content(handle)
    finally:
        os.close(handle)
    return None


class Replayer:
    """Folds events into records one at a time; unchanged records are shared between snapshots."""

    def __init__(self, name: str) -> None:
        self._study: dict[str, Any] = {"name": name}
        self._trials: dict[str, dict[str, Any]] = {}
        self._records: dict[str, TrialRecord] = {}
        self._state: StudyState | None = None

    def state(self) -> StudyState:
        """Everything applied so far."""
        if self._state is None:
            trials = tuple(self._record(trial_id) for trial_id in self._trials)
            self._state = StudyState.model_construct(**self._study, trials=trials)
        return self._state

    def trial(self, trial_id: str) -> TrialRecord | None:
        """One trial, or None."""
        return self._record(trial_id) if trial_id in self._trials else None

    def _record(self, trial_id: str) -> TrialRecord:
        if trial_id not in self._records:
            self._records[trial_id] = TrialRecord.model_construct(**self._trials[trial_id])
        return self._records[trial_id]

    def apply(self, event: dict[str, Any]) -> None:
        """Fold one event, given as the JSON of a `LedgerEvent`."""
        self._state = None
        if event.get("trial_id") is None:
            self._apply_to_study(event)
            return
        trial_id, status = event["trial_id"], TrialStatus(event["state"])
        self._records.pop(trial_id, None)
        if status is TrialStatus.PLANNED:
            self._plan(trial_id, event)
        elif trial_id in self._trials:
            _advance(self._trials[trial_id], status, event)
        else:
            raise ValueError(f"trial {trial_id} is {status} but was never planned")

    def _apply_to_study(self, event: dict[str, Any]) -> None:
        if event["state"] == OPENED:
            self._study.setdefault("opened_at", event["time"])
            self._study |= {"driver_attempt": event["attempt"], "closed": None}
            self._study["study_hash"] = event.get("study_hash") or self._study.get("study_hash")
        elif event["state"] == CLOSED:
            self._study["closed"] = event.get("note", "")
        else:
            raise ValueError(f"{event['state']!r} is no state of a study")

    def _plan(self, trial_id: str, event: dict[str, Any]) -> None:
        trial = self._trials.get(trial_id)
        if trial is not None and trial["status"] is TrialStatus.DONE:
            trial["test_pending"] = True
            return
        first = trial or {"role": event["role"], "planned_at": event["time"]}
        self._trials[trial_id] = {
            "trial_id": trial_id,
            "arm": event["arm"],
            "seed": event["seed"],
            "role": first["role"],
            "status": TrialStatus.PLANNED,
            "attempt": event["attempt"],
            "config": event["config"],
            "params": event.get("params") or {},
            "planned_at": first["planned_at"],
        }


def _advance(trial: dict[str, Any], status: TrialStatus, event: dict[str, Any]) -> None:
    """Move a planned trial on; a scored trial stays DONE whatever becomes of its test job."""
    failure = event.get("failure")
    is_scored = trial["status"] is TrialStatus.DONE
    if status is TrialStatus.RUNNING:
        if not is_scored:
            trial |= {"status": status, "attempt": event["attempt"], "started_at": event["time"]}
        return
    trial["test_pending"] = False
    trial["failure"] = Failure.model_validate(failure) if failure else None
    if event.get("note"):
        trial["note"] = event["note"]
    if status is TrialStatus.DONE:
        splits = dict.fromkeys((*trial.get("splits", ()), *(event.get("splits") or ())))
        trial |= {"status": status, "splits": tuple(splits), "ended_at": event["time"]}
        trial |= {key: event[key] for key in ("objective", "gpu_hours") if key in event}
    elif not is_scored:
        trial |= {"status": status, "attempt": event["attempt"], "ended_at": event["time"]}


def _event(state: str, **fields: Any) -> LedgerEvent:
    return LedgerEvent(time=time.time(), trial_id=None, state=state, **fields)


def _read(path: Path) -> Replayer:
    replayer = Replayer(path.parent.name)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return replayer
    lines = content.split(b"\n")[:-1]  # what follows the last newline is torn, or nothing
    for number, line in enumerate(lines, start=1):
        try:
            replayer.apply(from_json(line, cache_strings="keys"))
        except (ValueError, KeyError, TypeError) as error:
            if not any(_is_event(later) for later in lines[number:]):
                break  # a tail that a power cut garbled
            raise DataError(f"line is no ledger event: {error}", where=f"{path}:{number}") from error
    return replayer


def _is_event(line: bytes) -> bool:
    try:
        LedgerEvent.model_validate_json(line)
    except ValidationError:
        return False
    return True


def _cut_torn_tail(path: Path) -> None:
    """Truncate `path` after its last whole event."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    while end and not _is_event(content[content.rfind(b"\n", 0, end - 1) + 1 : end - 1]):
        end = content.rfind(b"\n", 0, end - 1) + 1
    if end != len(content):
        logger.warning("cut %d bytes of a torn last line from %s", len(content) - end, path)
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())


def _take_lease(paths: StudyPaths) -> int:
    """Lock `driver.lease`; the lock ends with its process, so that a dead driver's lease is free.

    The lock is the truth, and the content only tells others who holds it.
    """
    handle = os.open(paths.lease, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if not _lock(handle):
        held = _lease_content(handle)
        os.close(handle)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(held["time"])) if "time" in held else "a moment ago"
        raise StudyLockedError(
            f"study {paths.name} is already being driven by pid {held.get('pid', '?')} on {held.get('host', '?')} "
            f"since {since}"
        )
    content = canonical_json({"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}).encode()
    os.ftruncate(handle, 0)
    os.pwrite(handle, content + b"\n", 0)
    os.fsync(handle)
    return handle


def _lock(handle: int) -> bool:
    """Lock for good; a few tries, since `holder` takes the lock for an instant to see whether it is free."""
    for attempt in range(_LOCK_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.01 * attempt)
    return False


def _lease_content(handle: int) -> dict[str, Any]:
    try:
        content = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _adopt_study(paths: StudyPaths, study: StudyConfig, *, allow_drift: bool) -> str:
    """Keep `study` as study.json, or compare it with what is kept; returns a note on a drift that was allowed."""
    if not paths.study.exists():
        write_json(paths.study, study.model_dump(mode="json"))
        return ""
    try:
        kept = StudyConfig.model_validate_json(paths.study.read_bytes())
    except ValidationError as error:
        raise DataError(f"the kept study cannot be read: {error}", where=str(paths.study)) from error
    if study_hash(kept) == study_hash(study):
        return ""
    changes = list(_differences(kept, study))
    if not allow_drift:
        raise StudyChangedError(
            "the study differs from the one that was run:\n  " + "\n  ".join(changes),
            where=str(paths.study),
            fix=f"rename the new study, undo the change, or allow the drift (was {study_hash(kept)})",
        )
    write_json(paths.study, study.model_dump(mode="json"))
    return "drift: " + "; ".join(changes)


def _differences(kept: StudyConfig, study: StudyConfig) -> Iterator[str]:
    """Lines like `tune.loss.layer.high: 6 -> 8`, one per field that differs."""
    old, new = (
        {field: json.dumps(value, ensure_ascii=False) for field, value in flatten(_content(config)).items()}
        for config in (kept, study)
    )
    for field in sorted(old.keys() | new.keys()):
        before, after = old.get(field, "(not there)"), new.get(field, "(not there)")
        if before != after:
            yield f"{field}: {before} -> {after}"
