"""Folds the events of a ledger into the state of its study, whole or onward from a snapshot.

A line counts once its newline is on disk, and once its writer still held the lease: events of a driver that another
one had replaced by then are passed over, however late they reached the file.
"""

import hashlib
import logging
import math
import os
import time
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from afp_ray.errors import DataError
from afp_ray.ledger import snapshot
from afp_ray.records import Failure, LedgerEvent, StudyState, TrialRecord, TrialStatus, Until
from afp_ray.store import write_atomic

logger = logging.getLogger(__name__)

OPENED, CLOSED = "OPENED", "CLOSED"
SETTLED_S = 2.0
"""A file that was changed within so many seconds may change again without its time showing it."""
_CHECK = b',"check":"'
_SEAL_BYTES = len(_CHECK) + 10
_STATUS = {str(status): status for status in TrialStatus}
_EMPTY = TrialRecord(
    trial_id="", arm="", seed=0, role="search", status=TrialStatus.PLANNED, attempt=1, config={}, planned_at=0.0
)
_NAMES = set(TrialRecord.model_fields)


def replay(path: Path) -> StudyState:
    """Read a ledger into the state of its study; takes no lock and passes over a torn tail.

    Args:
        path: `ledger.jsonl`; a missing file is a study without events.
    Raises: DataError when a line before the last cannot be read.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return read(path).state()
    if abs(time.time() - status.st_mtime) < SETTLED_S:
        return read(path).state()
    return _settled(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


def follow(path: Path, offset: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Events of a ledger from a byte on, as they stand there now; the one reader for whoever follows a driver.

    What comes after the last newline is still being written, and belongs to the next look. A missing file has no
    events.

    Yields: each event as the JSON of a `LedgerEvent`, and its line with the newline.
    Raises: ValueError for a line that is no JSON, or another than was written; `replay` names its number.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if line.endswith(b"\n"):
                    yield parse_line(line[:-1]), line
    except FileNotFoundError:
        return


@lru_cache(maxsize=4)
def _settled(path: Path, _identity: tuple[int, ...]) -> StudyState:
    """The state of a ledger that nobody has written for a while; questions that follow each other read it once."""
    return read(path).state()


class Replayer:
    """Folds events into records one at a time; unchanged records are shared between states.

    Attributes:
        name: the study's.
        study: fields of `StudyState` but for name and trials.
        trials: fields of every `TrialRecord` by id, in the order in which they were planned; replaced, never changed.
        driver: token of the driver that opened the study last; null before there were tokens.
        offset: bytes of the ledger that were applied.
        num_events, num_stale: lines in them, and those among them that came from a replaced driver.
        digest: SHA-256 of them.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.study: dict[str, Any] = {}
        self.trials: dict[str, dict[str, Any]] = {}
        self.driver: str | None = None
        self.offset, self.num_events, self.num_stale = 0, 0, 0
        self.digest = hashlib.sha256()
        self._indices: dict[str, int] = {}
        self._records: list[TrialRecord] = []
        self._changed: dict[str, None] = {}  # in the order of planning, where new

    def state(self) -> StudyState:
        """Everything applied so far."""
        self._refresh()
        return StudyState.model_construct(name=self.name, **self.study, trials=tuple(self._records))

    def trial(self, trial_id: str) -> TrialRecord | None:
        """One trial, or None."""
        if trial_id not in self.trials:
            return None
        self._refresh()
        return self._records[self._indices[trial_id]]

    def _refresh(self) -> None:
        """Make the records of trials that have changed; a driver that asks after every event makes one each time."""
        if not self._records:
            self._indices = {trial_id: index for index, trial_id in enumerate(self.trials)}
            self._records = [_record(trial) for trial in self.trials.values()]
            self._changed.clear()
        for trial_id in self._changed:
            record = _record(self.trials[trial_id])
            index = self._indices.setdefault(trial_id, len(self._records))
            self._records[index : index + 1] = [record]
        self._changed.clear()

    def count(self, line: bytes) -> None:
        """Note that `line` of the ledger, its newline included, has been applied."""
        self.offset += len(line)
        self.num_events += 1
        self.digest.update(line)

    def apply(self, event: dict[str, Any]) -> None:
        """Fold one event, given as the JSON of a `LedgerEvent`.

        Raises: ValueError, KeyError or TypeError for what is no event.
        """
        if event["state"] == OPENED and event.get("trial_id") is None:
            self.driver = event.get("driver")
        elif (writer := event.get("driver")) is not None and writer != self.driver:
            self.num_stale += 1
            return
        trial_id = event.get("trial_id")
        if trial_id is None:
            self._apply_to_study(event)
            return
        status = _STATUS.get(event["state"])
        if status is None:
            raise ValueError(f"{event['state']!r} is no state of a trial")
        if status is TrialStatus.PLANNED:
            self._plan(trial_id, event)
        elif trial_id in self.trials:
            self.trials[trial_id] = dict(self.trials[trial_id])  # a record may have the fields of before
            _advance(self.trials[trial_id], status, event)
        else:
            raise ValueError(f"trial {trial_id} is {status} but was never planned")
        self._changed[trial_id] = None

    def _apply_to_study(self, event: dict[str, Any]) -> None:
        if event["state"] == OPENED:
            self.study.setdefault("opened_at", event["time"])
            self.study |= {"driver_attempt": event["attempt"], "closed": None}
            self.study["study_hash"] = event.get("study_hash") or self.study.get("study_hash")
            if event.get("packages"):
                self.study["packages"] = event["packages"]
            if event.get("num_trials") is not None:
                self.study["num_trials"] = event["num_trials"]
        elif event["state"] == CLOSED:
            self.study["closed"] = event.get("note", "")
        else:
            raise ValueError(f"{event['state']!r} is no state of a study")

    def _plan(self, trial_id: str, event: dict[str, Any]) -> None:
        trial = self.trials.get(trial_id)
        if trial is not None and trial["status"] is TrialStatus.DONE and not event.get("is_afresh"):
            self.trials[trial_id] = trial | {"test_pending": True, "num_halvings": event.get("num_halvings") or 0}
            return
        first = trial or {"role": event["role"], "planned_at": event["time"]}
        self.trials[trial_id] = {
            "trial_id": trial_id,
            "arm": event["arm"],
            "seed": event["seed"],
            "role": first["role"],
            "status": TrialStatus.PLANNED,
            "attempt": event["attempt"],
            "config": event["config"],
            "params": event.get("params") or {},
            "planned_at": first["planned_at"],
            "until": _until(event),
            "num_halvings": event.get("num_halvings") or 0,
            **{name: first[name] for name in ("rungs", "gpu_hours", "values") if name in first},
        }


def _record(fields: dict[str, Any]) -> TrialRecord:
    """A record of fields that are valid already, by the protocol of pickling: half of what a copy of a model costs.

    It takes `fields` themselves where all are there, so that nobody may change them any more.
    """
    record = TrialRecord.__new__(TrialRecord)
    values = fields if len(fields) == len(_NAMES) else {**_EMPTY.__dict__, **fields}
    rest = {"__pydantic_fields_set__": _NAMES, "__pydantic_extra__": None, "__pydantic_private__": None}
    record.__setstate__({"__dict__": values, **rest})
    return record


def _until(event: dict[str, Any]) -> Until | None:
    return Until.model_validate(event["until"]) if event.get("until") else None


def _advance(trial: dict[str, Any], status: TrialStatus, event: dict[str, Any]) -> None:
    """Move a planned trial on; a scored trial stays DONE whatever becomes of its test job."""
    is_scored = trial["status"] is TrialStatus.DONE
    if status is TrialStatus.RUNNING:
        if not is_scored:
            trial["status"], trial["attempt"], trial["started_at"] = status, event["attempt"], event["time"]
        return
    failure = event.get("failure")
    trial["test_pending"] = False
    trial["failure"] = Failure.model_validate(failure) if failure else None
    if event.get("note"):
        trial["note"] = event["note"]
    if status is TrialStatus.DONE:
        splits = dict.fromkeys((*trial.get("splits", ()), *(event.get("splits") or ())))
        trial["status"], trial["splits"], trial["ended_at"] = status, tuple(splits), event["time"]
        trial |= {key: event[key] for key in ("objective", "gpu_hours", "values") if key in event}
        if event.get("files"):
            trial["files"] = {**trial.get("files", {}), **event["files"]}
        trial["until"] = None
    elif status is TrialStatus.PAUSED and not is_scored:
        until = _until(event)
        if until is None:
            raise ValueError("a paused trial says at which rung")
        trial["status"], trial["until"] = status, until
        trial["rungs"] = (*trial.get("rungs", ())[: until.rung], event["objective"])
        trial |= {key: event[key] for key in ("gpu_hours", "values") if key in event}
    elif not is_scored:
        trial["status"], trial["attempt"], trial["ended_at"] = status, event["attempt"], event["time"]


def read(path: Path, *, quiet: bool = False) -> Replayer:
    """Fold a ledger, onward from its snapshot where that is of this ledger.

    Args:
        path: `ledger.jsonl`.
        quiet: say nothing of events that were passed over.
    Raises: DataError when a line before the last cannot be read.
    """
    replayer = Replayer(path.parent.name)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return replayer
    snapshot.restore(replayer, snapshot.path_of(path), content)
    _apply_lines(replayer, path, content)
    replayer._refresh()
    if replayer.num_stale and not quiet:
        logger.warning("passed over %d events of a driver that had lost its lease, in %s", replayer.num_stale, path)
    return replayer


def _apply_lines(replayer: Replayer, path: Path, content: bytes) -> None:
    start = replayer.offset
    lines = content[start:].split(b"\n")[:-1]  # what follows the last newline is torn, or nothing
    end = start
    for number, line in enumerate(lines, start=1):
        try:
            replayer.apply(parse_line(line))
        except (ValueError, KeyError, TypeError) as error:
            if not any(_is_event(later) for later in lines[number:]):
                break  # a tail that a power cut garbled
            where = f"{path}:{replayer.num_events + number}"
            raise DataError(
                f"line is no ledger event: {error}",
                where=where,
                fix=f"afp resume {path.parent.name} --repair sets such lines aside; results on disk are taken over",
            ) from error
        end += len(line) + 1
    else:
        number = len(lines) + 1
    replayer.offset, replayer.num_events = end, replayer.num_events + number - 1
    replayer.digest.update(memoryview(content)[start:end])


def sealed(line: bytes) -> bytes:
    """A line of JSON, an object without its newline, with the checksum of it as its last field."""
    return line[:-1] + _CHECK + b"%08x" % zlib.crc32(line) + b'"}'


def parse_line(line: bytes) -> dict[str, Any]:
    """The event of a line, without its newline.

    Raises: ValueError when it is no JSON, its time is no number, or it is not the line that was written.
    """
    event: dict[str, Any] = from_json(line, cache_strings="keys")
    if line[-_SEAL_BYTES : -_SEAL_BYTES + len(_CHECK)] == _CHECK:
        if b"%08x" % zlib.crc32(line[:-_SEAL_BYTES] + b"}") != line[-10:-2]:
            raise ValueError("its checksum is another one: the line was altered")
        del event["check"]
    if not math.isfinite(event["time"]):
        raise ValueError(f"its time is {event['time']}")
    return event


def _is_event(line: bytes) -> bool:
    try:
        LedgerEvent.model_validate(parse_line(line))
    except (ValidationError, ValueError, KeyError, TypeError):
        return False
    return True


def repair(path: Path) -> int:
    """Take lines that are no events out of a ledger, which is kept beside it as it was.

    What such a line told is told again by the files on disk: a result whose DONE is gone is taken over by the next
    driver, and a trial whose PLANNED is gone is planned again.

    Args:
        path: `ledger.jsonl`, which nobody writes now.
    Returns: lines that were set aside; 0 where there was nothing to mend.
    """
    if not path.exists():
        return 0
    content = path.read_bytes()
    replayer = Replayer(path.parent.name)
    whole: list[bytes] = []
    lines = content.split(b"\n")[:-1]
    for line in lines:
        try:
            replayer.apply(parse_line(line))
        except (ValueError, KeyError, TypeError):
            continue
        whole.append(line + b"\n")
    if len(whole) < len(lines):
        write_atomic(path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"), content)
        write_atomic(path, b"".join(whole))
        snapshot.path_of(path).unlink(missing_ok=True)
    return len(lines) - len(whole)


def cut_torn_tail(path: Path) -> None:
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
