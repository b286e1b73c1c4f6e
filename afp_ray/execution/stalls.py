"""Looks at running trials from outside: which of them has stopped making progress, and which never began.

Clocks of other machines are not compared: a trial makes progress when its file has changed since the last look.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afp_ray.config import RuntimeConfig
from afp_ray.execution.progress import read_progress


@dataclass
class _Seen:
    progress: Path
    attempt: int
    changed_at: float
    content: dict[str, Any] | None = None


class TrialWatch:
    """Follows trials from the moment they are handed to the cluster.

    Args:
        runtime: `hang_s` and `start_s` of the study.
    """

    def __init__(self, runtime: RuntimeConfig) -> None:
        self._hang_s, self._start_s = runtime.hang_s, runtime.start_s
        self._is_group = runtime.workers_per_trial > 1
        self._waiting: dict[str, float] = {}
        self._running: dict[str, _Seen] = {}
        self._ended_at = time.monotonic()

    def handed_over(self, key: str) -> None:
        """A trial waits for its resources from now on."""
        self._waiting[key] = time.monotonic()

    def started(self, key: str, progress: Path, *, attempt: int) -> None:
        """A trial has its process; `progress` is the file that it changes."""
        self._waiting.pop(key, None)
        self._running[key] = _Seen(progress, attempt, time.monotonic())

    def ended(self, key: str) -> None:
        """A trial is over, whatever became of it."""
        self._waiting.pop(key, None)
        self._running.pop(key, None)
        self._ended_at = time.monotonic()

    def is_alone(self, key: str) -> bool:
        """Whether for a whole `start_s` no other trial was running whose end could have made room for this one."""
        others = self._running.keys() - {key}
        return not others and time.monotonic() - self._ended_at >= (self._start_s or 0.0)

    def hung(self) -> dict[str, float]:
        """Seconds without progress of every trial that has made none for too long."""
        if self._hang_s is None:
            return {}
        now, hung_s = time.monotonic(), {}
        for key, seen in self._running.items():
            content = read_progress(seen.progress)
            if content is not None and content != seen.content and content.get("attempt") == seen.attempt:
                seen.content, seen.changed_at = content, now
            if now - seen.changed_at > self._limit_s(seen):
                hung_s[key] = now - seen.changed_at
        return hung_s

    def _limit_s(self, seen: _Seen) -> float:
        """A group has no workers until it is placed, which has a deadline of its own."""
        assert self._hang_s is not None
        if self._is_group and seen.content is None:
            return self._hang_s + (float("inf") if self._start_s is None else self._start_s)
        return self._hang_s

    def starved_s(self) -> float | None:
        """How long trials have waited for resources while none was running; None while that is no trouble yet.

        While a trial of the study runs, the others wait for it: they get its resources when it ends.
        """
        if self._start_s is None or not self._waiting or self._running:
            return None
        waited_s = time.monotonic() - max(min(self._waiting.values()), self._ended_at)
        return waited_s if waited_s > self._start_s else None
