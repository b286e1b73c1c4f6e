"""What MLflow has yet to show: the ledger beyond a durable position; knows no MLflow, so that it answers at once.

The ledger itself is the outbox. `outbox.json` says how many of its bytes are shown, and why the rest is not.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from afp_ray.errors import UnavailableError
from afp_ray.ledger import Replayer, follow
from afp_ray.ledger.snapshot import Sections
from afp_ray.ledger.state import read
from afp_ray.records import StudyState, TrialRecord, TrialStatus
from afp_ray.redaction import redact
from afp_ray.store import StudyPaths, write_json
from afp_ray.tracking.run_content import PROJECTION_VERSION

_AT_WORK = frozenset({TrialStatus.PLANNED, TrialStatus.RUNNING, TrialStatus.PAUSED})


class Outbox:
    """Follows the ledger of a study and remembers how much of it is shown.

    Attributes:
        pending: ids of trials whose runs are to be looked at, in the order in which they changed.
        is_known: what was shown before is known; otherwise every run has to be looked at.
    """

    def __init__(self, paths: StudyPaths, uri: str) -> None:
        self.paths, self.uri = paths, redact(uri)
        self.pending: dict[str, None] = {}
        self.is_known = True
        self._replayer: Replayer | None = None
        self._inode = 0
        self._sections = Sections()
        self._shown: dict[str, Any] = {}
        self._written: dict[str, Any] = {}
        self._failing_since: float | None = None

    def read(self) -> StudyState:
        """The study as its ledger has it now; trials that changed since the last call join `pending`.

        Raises: DataError when a line of the ledger cannot be read.
        """
        try:
            status = os.stat(self.paths.ledger)
        except FileNotFoundError:
            return StudyState(name=self.paths.name)
        replayer = self._replayer
        is_same = replayer is not None and (status.st_ino, True) == (self._inode, status.st_size >= replayer.offset)
        if replayer is None or not is_same or not self._follow(replayer):
            replayer = self._begin(status.st_ino)
        return replayer.state()

    def trial(self, trial_id: str) -> TrialRecord | None:
        """One trial as of the last `read`."""
        return self._replayer.trial(trial_id) if self._replayer else None

    def expect_all(self) -> None:
        """Have every run looked at, whatever was shown before."""
        if self._replayer is not None:
            self.pending = dict.fromkeys(self._replayer.trials)
        self.is_known = False

    def expect_at_work(self) -> None:
        """Have those runs looked at that show differently once nobody drives the study."""
        if self._replayer is not None:
            for trial_id, trial in self._replayer.trials.items():
                if trial["status"] in _AT_WORK:
                    self.pending[trial_id] = None

    def settle(self, *, is_driven: bool) -> None:
        """Note durably how much is shown now: everything that was read, but for `pending`."""
        if self._replayer is None:
            return
        if not self.pending:
            self.is_known = True
            self._shown = {
                "offset": self._replayer.offset,
                "events": self._replayer.num_events,
                "sha256": self._replayer.digest.hexdigest(),
            }
        self._failing_since = None
        self._write({**self._shown, "is_driven": is_driven, "left": len(self.pending)})

    def fail(self, reason: str) -> None:
        """Note durably why nothing more can be shown for now."""
        stored = _load(self.paths.outbox)
        self._failing_since = self._failing_since or stored.get("failing_since") or time.time()
        names = ("offset", "events", "sha256", "is_driven", "left")
        last: dict[str, Any] = {name: stored[name] for name in names if name in stored}
        self._write({**last, "failing_since": self._failing_since, "failure": redact(reason)})

    def _write(self, content: dict[str, Any]) -> None:
        if content == self._written:
            return
        whole = {"version": PROJECTION_VERSION, "tracking_uri": self.uri, "time": time.time(), **content}
        write_json(self.paths.outbox, whole)
        self._written = content

    def _begin(self, inode: int) -> Replayer:
        """Read the whole ledger; what the stored position covers need not be looked at again."""
        replayer = read(self.paths.ledger, quiet=True)
        for trial in replayer.trials.values():
            trial["config"] = self._sections.share(trial["config"])
        self._replayer, self._inode = replayer, inode
        tail = self._beyond_stored(replayer)
        if tail is None:
            self.expect_all()
        else:
            self.pending |= {trial_id: None for trial_id in _trials_in(tail) if trial_id in replayer.trials}
        return replayer

    def _beyond_stored(self, replayer: Replayer) -> bytes | None:
        """What the ledger holds beyond the stored position; None when that is not a position in this ledger."""
        stored = _load(self.paths.outbox)
        if (stored.get("version"), stored.get("tracking_uri")) != (PROJECTION_VERSION, self.uri):
            return None
        offset, digest = stored.get("offset"), stored.get("sha256")
        if not isinstance(offset, int) or not 0 < offset <= replayer.offset:
            return None
        content = self.paths.ledger.read_bytes()[: replayer.offset]
        if hashlib.sha256(memoryview(content)[:offset]).hexdigest() != digest:
            return None
        self._shown = {name: stored[name] for name in ("offset", "events", "sha256")}
        if stored.get("is_driven"):
            self.expect_at_work()
        return content[offset:]

    def _follow(self, replayer: Replayer) -> bool:
        """Fold what was appended; False when what is there does not follow, as after a driver took back a line."""
        try:
            for event, line in follow(self.paths.ledger, replayer.offset):
                if isinstance(event.get("config"), dict):
                    event["config"] = self._sections.share(event["config"])
                replayer.apply(event)
                replayer.count(line)
                if event.get("trial_id") in replayer.trials:
                    self.pending[event["trial_id"]] = None
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Lag:
    """How far MLflow is behind the ledger.

    Attributes:
        events: of the ledger that MLflow does not show.
        trials: that they are of.
        since: when the first of them was written, seconds since the epoch; None when there is none.
        reason: why they are not shown; None when nothing is known to be wrong.
    """

    events: int
    trials: int
    since: float | None = None
    reason: str | None = None


def lag(paths: StudyPaths, *, is_driven: bool, num_trials: int | None = None) -> Lag:
    """How far MLflow is behind, from two small files and what the ledger holds beyond the position.

    Args:
        paths: the study.
        is_driven: a driver is at work; without one no run may be shown as running.
        num_trials: of the whole ledger, where it has been read; None looks through the lines.
    """
    stored = _load(paths.outbox)
    offset = stored.get("offset")
    offset = offset if isinstance(offset, int) else 0
    try:
        with paths.ledger.open("rb") as file:
            offset = offset if offset <= file.seek(0, os.SEEK_END) else 0
            file.seek(offset)
            tail = file.read()
    except OSError:
        tail = b""
    reason = stored.get("failure")
    events = tail.count(b"\n")
    if events:
        first = re.match(rb'\{"time":([0-9.e+]+)', tail)
        since = float(first[1]) if first else None
        if offset or num_trials is None:
            num_trials = len(dict.fromkeys(_trials_in(tail)))
        return Lag(events, num_trials, since, reason)
    if stored.get("is_driven") and not is_driven:
        return Lag(0, 0, stored.get("time"), "runs are still shown as running, though nobody drives the study")
    return Lag(0, 0, stored.get("failing_since"), reason)


def _trials_in(lines: bytes) -> Iterator[str]:
    """Ids of the trials that lines of a ledger are of, without reading the lines: there may be tens of thousands."""
    start, mark = 0, b'"trial_id":"'
    while (end := lines.find(b"\n", start)) >= 0:
        position = lines.find(mark, start, min(end, start + 120))
        if position >= 0:
            position += len(mark)
            yield lines[position : lines.index(b'"', position)].decode()
        start = end + 1


def _load(path: Path) -> dict[str, Any]:
    try:
        content = from_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def note_failure(outbox: Outbox, reason: str) -> None:
    """`outbox.fail`, where a disk that refuses as well changes nothing."""
    try:
        outbox.fail(reason)
    except UnavailableError:
        return
