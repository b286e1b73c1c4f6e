"""Follows a study that another driver runs, from its ledger, and takes it over when that driver dies."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic_core import from_json

from afp_ray.config import StudyConfig
from afp_ray.errors import StudyLockedError
from afp_ray.ledger import CLOSED, OPENED, Replayer, holder, lines_after
from afp_ray.ledger.agreement import require_same
from afp_ray.records import LedgerEvent, OnEvent, StudyState
from afp_ray.store import StudyPaths
from services.output import note

POLL_S = 0.5


def is_ray_job() -> bool:
    """Whether this process was started as a Ray job: Ray leaves the job's settings in the environment, by this name."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def drive_or_follow(
    study: StudyConfig,
    paths: StudyPaths,
    drive: Callable[[], StudyState],
    *,
    on_event: Sequence[OnEvent] = (),
    poll_s: float = POLL_S,
) -> StudyState:
    """Drive the study, or follow who drives it until that driver has closed it or is dead.

    Args:
        study: what we would run.
        paths: where it lives.
        drive: runs or continues the study; raises StudyLockedError while another driver holds it.
        on_event: called after every event that the other driver writes; `drive` tells its own.
        poll_s: seconds between two looks at the ledger.
    Returns: the state at the end, whoever drove.
    Raises: StudyChangedError when the other driver runs another study of that name; what `drive` raises.
    """
    while True:
        start = _size(paths.ledger)
        try:
            return drive()
        except StudyLockedError as error:
            if paths.study.is_file() and require_same(paths, study).budget != study.budget:
                note(f"the driver of {paths.name} goes on with its own budget; this one's counts if it takes over")
            note(f"{error}; following it")
        try:
            state = follow(paths, start=start, on_event=on_event, poll_s=poll_s)
        except KeyboardInterrupt:
            note(f"no longer following {paths.name}, which goes on; to stop it: afp stop {paths.name}")
            raise
        if state is not None:
            return state
        note(f"the driver of {paths.name} ended without a word; taking the study over")


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
        if _size(paths.ledger) < replayer.offset:  # a torn tail was cut
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


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
