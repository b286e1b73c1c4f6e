"""How a running trial tells the driver's live table how far it is: one small file, replaced a few times a second."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from afp_ray.reporter import Pace
from afp_ray.store import replace_text

INTERVAL_S = 0.25


class ProgressReporter:
    """A `Reporter` that keeps `progress.json` up to date.

    The file is replaced whole but not synced to disk: it may be lost, and it may never slow training down.

    Args:
        path: `progress.json` of the trial.
        attempt: attempt of the trial, shown with its progress.
    """

    def __init__(self, path: Path, *, attempt: int) -> None:
        self._path, self._attempt = path, attempt
        self._written_at, self._stage = float("-inf"), ""
        self._pace = Pace()

    def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
        """Write the progress, unless the last one of this stage is younger than `INTERVAL_S`."""
        now, left_s = time.monotonic(), self._pace.left_s(stage, done, total)
        if stage == self._stage and now - self._written_at < INTERVAL_S:
            return
        self._written_at, self._stage = now, stage
        content: dict[str, Any] = {
            "time": time.time(),
            "attempt": self._attempt,
            "stage": stage,
            "done": done,
            "total": total,
        }
        content["left_s"] = left_s
        content["metrics"] = {name: float(value) for name, value in metrics.items()}
        with suppress(OSError):  # a full disk stops the trial where its result is written, not here
            replace_text(self._path, json.dumps(content))


def read_progress(path: Path) -> dict[str, Any] | None:
    """The last progress of a trial: time, attempt, stage, done, total, metrics; None when there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
