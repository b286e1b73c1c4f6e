"""Projects in a thread of its own, so that a tracking server that is slow or away never holds up a driver."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from afp_ray.config import StudyConfig
from afp_ray.records import StudyState
from afp_ray.store import StudyPaths

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0
MAX_INTERVAL_S = 60.0


class Projector(Protocol):
    """Makes something show a study's state."""

    def project(self, state: StudyState) -> int:
        """Show `state`; idempotent."""
        ...


class BackgroundProjector:
    """Keeps the newest state and projects it when it can; states in between are skipped."""

    def __init__(
        self, make: Callable[[], Projector], *, study: str, interval_s: float = INTERVAL_S, start: bool = True
    ) -> None:
        """`make` runs in the thread, since importing MLflow and opening its database take seconds."""
        self.study = study
        self.failure: str | None = None
        """Why the last projection failed; None when it did not."""
        self._make, self._interval_s = make, interval_s
        self._condition = threading.Condition()
        self._pending: StudyState | None = None
        self._closing = False
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="projector", daemon=True)
        if start:
            self._thread.start()

    @classmethod
    def to_mlflow(cls, study: StudyConfig, paths: StudyPaths, uri: str) -> "BackgroundProjector":
        """A projector into the MLflow at `uri`."""

        def make() -> Projector:
            from afp_ray.tracking.projector import MlflowProjector

            return MlflowProjector(study, paths, uri)

        return cls(make, study=study.name)

    def submit(self, state: StudyState) -> None:
        """Ask for `state` to be shown; returns at once."""
        with self._condition:
            self._pending = state
            self._condition.notify_all()

    def close(self, deadline_s: float = 30.0) -> bool:
        """Project what is left, for at most `deadline_s` seconds.

        Returns: whether the last submitted state is shown; if not, `afp sync` shows it later.
        """
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join(deadline_s)
        is_shown = not self._thread.is_alive() and self.failure is None and self._pending is None
        if not is_shown and not self._warned:
            self._warn(f"did not finish within {deadline_s:g} s")
        return is_shown

    def _run(self) -> None:
        projector: Projector | None = None
        interval_s = self._interval_s
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._pending is not None or self._closing)
                state, self._pending = self._pending, None
                last = self._closing
            if state is None:
                return
            try:
                projector = projector or self._make()
                projector.project(state)
                self.failure, interval_s = None, self._interval_s
            except Exception as error:  # a projection that fails must never end a study
                self.failure = str(error).splitlines()[0] if str(error) else type(error).__name__
                interval_s = min(interval_s * 2, MAX_INTERVAL_S)
                self._warn(self.failure)
                with self._condition:
                    if self._pending is None and not last:
                        self._pending = state
            if last and self._pending is None:
                return
            self._pause(interval_s)

    def _pause(self, seconds: float) -> None:
        """Wait for more states to gather; a close ends the wait."""
        until = time.monotonic() + seconds
        with self._condition:
            self._condition.wait_for(lambda: self._closing, timeout=max(0.0, until - time.monotonic()))

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "MLflow is behind: %s. Training goes on and nothing is lost; later: afp sync %s", reason, self.study
            )
