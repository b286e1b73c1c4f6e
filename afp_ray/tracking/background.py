"""Projects in a thread of its own, so that a tracking server that is slow or away never holds up a driver.

At most one attempt is under way. One that fails is made again after a pause that doubles up to a minute; one that
succeeds is followed by a pause that keeps the thread's share of the driver's time small.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from afp_ray.config import StudyConfig
from afp_ray.redaction import redact
from afp_ray.store import StudyPaths
from afp_ray.tracking.outbox import Outbox, note_failure

logger = logging.getLogger(__name__)

START_S = 10.0
"""Seconds until the first projection: importing MLflow and making its tables hold the interpreter for seconds, and
would hold up the driver while it starts the cluster."""
INTERVAL_S = 2.0
MAX_INTERVAL_S = 60.0
SLICE_S = 0.5
"""Seconds that one projection goes on while a study runs; what is left waits for the next."""
SHARE = 0.04
"""Share of one CPU that projecting may take while a study runs."""


class Projector(Protocol):
    """Makes something show a study's ledger."""

    def project(self, *, enough: Callable[[], bool]) -> int:
        """Show more of the ledger until `enough`; idempotent."""
        ...

    @property
    def num_left(self) -> int:
        """Trials that the last projection left for the next."""
        ...


class BackgroundProjector:
    """Projects when it was asked to, and again for as long as something is left."""

    def __init__(
        self,
        make: Callable[[], Projector],
        *,
        study: str,
        start_s: float = 0.0,
        interval_s: float = INTERVAL_S,
        on_failure: Callable[[str], None] = lambda _: None,
        shows_in: str = "MLflow",
        later: str = "afp sync",
    ) -> None:
        """`make` runs in the thread, `start_s` seconds from now or at the close, whichever comes first.

        A warning names `shows_in`, and `later` as the command that shows the study there when this one cannot.
        """
        self._shows_in, self._later = shows_in, f"{later} {study}"
        self.failure: str | None = None
        """Why the last projection failed; None when it did not."""
        self._make, self._start_s, self._interval_s, self._on_failure = make, start_s, interval_s, on_failure
        self._projector: Projector | None = None
        self._condition = threading.Condition()
        self._is_asked, self._is_behind = False, False
        self._closing, self._given_up = False, False
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="projector", daemon=True)
        self._thread.start()

    @classmethod
    def to_mlflow(cls, study: StudyConfig, paths: StudyPaths, uri: str) -> "BackgroundProjector":
        """A projector into the MLflow at `uri`."""
        outbox = Outbox(paths, uri)

        def make() -> Projector:
            from afp_ray.tracking.projector import MlflowProjector

            return MlflowProjector(study, paths, uri, outbox=outbox)

        return cls(make, study=study.name, start_s=START_S, on_failure=lambda reason: note_failure(outbox, reason))

    def submit(self) -> None:
        """Ask for what the ledger holds to be shown; returns at once, whatever the ledger holds."""
        if self._is_asked:
            return  # not yet begun with, so it will be read too
        with self._condition:
            self._is_asked = True
            self._condition.notify_all()

    def close(self, deadline_s: float = 30.0) -> bool:
        """Project what is left, for at most `deadline_s` seconds.

        Returns: whether everything that was submitted is shown; if not, `afp sync` shows it later.
        """
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join(deadline_s)
        self._given_up = True
        if not (self._thread.is_alive() or self._is_asked or self._is_behind):
            return True
        left = self._projector.num_left if self._projector else 0
        how_much = f" with {left} trials left" if left else ""
        self._warn(self.failure or f"did not finish within {deadline_s:g} s{how_much}")
        return False

    def _run(self) -> None:
        self._pause(self._start_s)
        interval_s = self._interval_s
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._is_asked or self._is_behind or self._closing)
                is_last = self._closing
                if not (self._is_asked or self._is_behind):
                    return
                self._is_asked, self._is_behind = False, True
            started, ends = time.thread_time(), time.monotonic() + SLICE_S
            is_done = self._attempt(lambda ends=ends: self._is_enough(ends))  # type: ignore[misc]
            interval_s = self._interval_s if is_done else min(max(interval_s * 2, self._interval_s), MAX_INTERVAL_S)
            if self._given_up or (is_last and not self._is_asked and not (is_done and self._is_behind)):
                return
            self._pause(max(interval_s, (time.thread_time() - started) / SHARE))

    def _attempt(self, enough: Callable[[], bool]) -> bool:
        """Project once; returns whether that worked."""
        try:
            self._projector = self._projector or self._make()
            self._projector.project(enough=enough)
            self._is_behind = self._projector.num_left > 0
        except Exception as error:  # a projection that fails must never end a study
            reason = redact(str(error).splitlines()[0] if str(error) else type(error).__name__)
            self._on_failure(reason)  # first, so that whoever sees `failure` also finds it noted
            self.failure = reason
            self._warn(reason)
            return False
        if self.failure is not None:
            logger.info("%s is reached again", self._shows_in)
        self.failure, self._warned = None, False
        return True

    def _is_enough(self, ends: float) -> bool:
        """While the study runs, when the slice is over; at its end, when nobody waits any more."""
        return self._given_up or (not self._closing and time.monotonic() > ends)

    def _pause(self, seconds: float) -> None:
        """Wait for more events to gather; a close ends the wait."""
        with self._condition:
            self._condition.wait_for(lambda: self._closing, timeout=seconds)

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s is behind: %s. Training goes on and nothing is lost; later: %s", self._shows_in, reason, self._later
            )
