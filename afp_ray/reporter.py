"""The `Reporter` protocol: how long work says how far it is, whoever listens; and how long it still takes."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol


class Reporter(Protocol):
    """Receives progress; must be cheap, since it is called at every step."""

    def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
        """Say that `done` of `total` units of `stage` ("load", "train", "evaluate", ...) are finished.

        Args:
            stage: one word.
            done, total: units of work, 0 <= done <= total.
            metrics: current values by name, for instance both losses in nats.
        """
        ...


class SilentReporter:
    """Ignores everything; for tests and for workers other than the first."""

    def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
        """Ignore the report."""


class PartReporter:
    """Tells of a stage that is one of several parts of equal size, so that what is shown never goes back.

    Args:
        whole: hears of the whole.
        part: which one this is, from 0.
        num_parts: of the whole.
    """

    def __init__(self, whole: Reporter, part: int, num_parts: int) -> None:
        self._whole, self._part, self._num_parts = whole, part, num_parts

    def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
        """Say how much of the whole is done with `done` of this part."""
        self._whole.report(stage, self._part * total + done, self._num_parts * total, metrics)


class Pace:
    """How long a stage still takes at its pace so far; for reporters that show it.

    Args:
        now: seconds on a clock that never jumps.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._stage, self._first, self._started = now, "", 0, 0.0

    def left_s(self, stage: str, done: int, total: int) -> float | None:
        """Take note of a report.

        Args:
            stage, done, total: as reported; another stage, or fewer units than at first, starts the clock again.
        Returns: seconds until `total`; None until a unit was finished since the first report of the stage.
        """
        now = self._now()
        if stage != self._stage or done < self._first:
            self._stage, self._first, self._started = stage, done, now
        finished = done - self._first
        return (now - self._started) / finished * (total - done) if finished > 0 else None
