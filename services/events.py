"""The ledger of a study as server-sent events, from a position on and along with its driver until that is gone."""

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from afp_ray.errors import ConfigError, UnavailableError
from afp_ray.ledger import Replayer, follow, holder
from afp_ray.redaction import redact_json
from afp_ray.store import StudyPaths
from services.status import status_of

POLL_S = 0.5
"""Seconds between two looks at a ledger."""
HEARTBEAT_S = 15.0
"""After so long without an event a comment is sent, so that nobody between takes the connection for dead."""
MAX_STREAMS = 64
_BATCH = 500
"""Events that are read at a time."""


@dataclass(slots=True)
class _Look:
    """What one look at a ledger gave."""

    events: list[bytes] = field(default_factory=list)
    is_behind: bool = False
    """Whether there was more to read."""
    is_held: bool = False


class Streams:
    """The streams that are open; each ends with its study, and all of them with the service."""

    def __init__(self) -> None:
        self.ending = threading.Event()
        """Set when the service is told to end."""
        self._num_open = 0

    def require_room(self) -> None:
        """Raise UnavailableError where no further stream is served."""
        if self._num_open >= MAX_STREAMS:
            raise UnavailableError(f"{MAX_STREAMS} others follow studies")

    async def follow(self, paths: StudyPaths, start: int) -> AsyncIterator[bytes]:
        """Events `ledger`, each with its position; `status` whenever that has changed; `end` with the last status.

        Args:
            paths: the study.
            start: position after which events are sent; 0 sends all.
        """
        self._num_open += 1
        try:
            async for piece in _stream(paths, start, self.ending):
                yield piece
        finally:
            self._num_open -= 1


def require_position(paths: StudyPaths, position: int) -> None:
    """Refuse a position of another ledger, such as one from before damaged lines were set aside.

    Raises: ConfigError.
    """
    if position == 0:
        return
    try:
        with paths.ledger.open("rb") as file:
            is_end = position <= os.fstat(file.fileno()).st_size and os.pread(file.fileno(), 1, position - 1) == b"\n"
    except OSError as error:
        raise UnavailableError(f"the ledger cannot be read: {error.strerror}") from error
    if not is_end:
        raise ConfigError(
            f"no event of study {paths.name} ends at {position}", where="Last-Event-ID", fix="follow it from 0"
        )


async def _stream(paths: StudyPaths, start: int, ending: threading.Event) -> AsyncIterator[bytes]:
    replayer, said, said_at = Replayer(paths.name), "", time.monotonic()
    while not ending.is_set():
        try:
            look = await asyncio.to_thread(_look, paths, replayer, start)
            status = "" if look.is_behind else await asyncio.to_thread(_status, paths, replayer)
        except (ValueError, KeyError, TypeError) as error:  # a line that is no event, as `afp status` says in full
            yield _event("problem", json.dumps({"detail": f"the ledger is damaged: {error}"}))
            return
        for piece in look.events:
            yield piece
        if status and status != said:
            yield _event("status", status)
            said = status
            said_at = time.monotonic()
        if not look.is_behind and not look.is_held:
            yield _event("end", status)
            return
        if time.monotonic() - said_at > HEARTBEAT_S:
            yield b": still here\n\n"
            said_at = time.monotonic()
        if not look.is_behind:
            await asyncio.sleep(POLL_S)


def _look(paths: StudyPaths, replayer: Replayer, start: int) -> _Look:
    """Read on; whether there is a driver is asked first, so that its last words are read."""
    look = _Look(is_held=holder(paths) is not None)
    for number, (content, line) in enumerate(follow(paths.ledger, replayer.offset)):
        if number == _BATCH:
            look.is_behind = True
            break
        num_stale = replayer.num_stale
        replayer.apply(content)
        replayer.count(line)
        if replayer.offset > start and replayer.num_stale == num_stale:
            look.events.append(_event("ledger", redact_json(json.dumps(content)), position=replayer.offset))
    return look


def _status(paths: StudyPaths, replayer: Replayer) -> str:
    content: dict[str, Any] = status_of(paths, replayer.state()).model_dump(mode="json")
    for trial in content["running"]:
        trial["seconds"] = round(trial["seconds"])  # else each look would be news
    return redact_json(json.dumps(content))


def _event(kind: str, data: str, *, position: int | None = None) -> bytes:
    head = "" if position is None else f"id: {position}\n"
    return f"{head}event: {kind}\ndata: {data}\n\n".encode()
