"""Reads the ledger of a study along with its driver, until the driver has closed it or is gone."""

import time
from collections.abc import Sequence
from pathlib import Path

from pydantic_core import from_json

from afp_ray.ledger import CLOSED, OPENED, Replayer, holder, lines_after
from afp_ray.records import LedgerEvent, OnEvent, StudyState
from afp_ray.store import StudyPaths

POLL_S = 0.5
"""Seconds between two looks at a ledger."""


def follow(
    paths: StudyPaths, *, start: int = 0, on_event: Sequence[OnEvent] = (), poll_s: float = POLL_S
) -> StudyState | None:
    """Read a ledger along with its driver until the driver is gone.

    Args:
        paths: the study.
        start: byte of the ledger from which events are told.
        on_event: called for every event from there on.
        poll_s: seconds between two looks.
    Returns: the state, once the study is closed; None when its driver ended without closing it.
    """
    replayer = Replayer(paths.name)
    is_closed = False
    while True:
        is_held = holder(paths) is not None  # asked first, so that the last words of a driver are read
        if size_of(paths.ledger) < replayer.offset:  # a torn tail was cut
            replayer, start = Replayer(paths.name), max(start, replayer.offset)
        for line in lines_after(paths.ledger, replayer.offset):
            place, num_stale = replayer.offset, replayer.num_stale
            content = from_json(line)
            replayer.apply(content)
            replayer.count(line)
            if place < start or replayer.num_stale > num_stale:
                continue
            event = LedgerEvent.model_validate(content)
            is_closed = event.state == CLOSED or (is_closed and event.state != OPENED)
            for callback in on_event:
                callback(event, replayer.state())
        if not is_held:
            return replayer.state() if is_closed else None
        time.sleep(poll_s)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
