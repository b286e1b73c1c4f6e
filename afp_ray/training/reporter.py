"""The `Reporter` protocol: how long work says how far it is, without knowing who listens."""

from collections.abc import Mapping
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
