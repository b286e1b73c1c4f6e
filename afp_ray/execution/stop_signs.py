"""What tells a running trial to save its state and end, or that another attempt has taken its place."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from afp_ray.errors import StorageError, SupersededError
from afp_ray.store import TrialPaths, replace_text

POLL_S = 0.5
"""Between two looks at the file system: a trial asks at every step, and a step may take a millisecond."""


def claim(trial: TrialPaths, *, attempt: int, token: str) -> None:
    """Say which attempt may write into a trial's folder; workers of every other one stop.

    The file is replaced whole but not synced: after a crash of the machine no worker is left to be told.

    Args:
        trial: the folder.
        attempt: 1-based.
        token: of the driver, since two drivers may count the same attempt.
    Raises: StorageError when the disk refuses.
    """
    try:
        trial.folder.mkdir(parents=True, exist_ok=True)
        replace_text(trial.attempt, json.dumps({"attempt": attempt, "token": token}))
    except OSError as error:
        raise StorageError(f"cannot write {trial.attempt}: {error}") from error


class StopSigns:
    """Asked at every step of a trial; true means save and end.

    Args:
        folder: of the trial.
        attempt, token: what `claim` wrote for this job; "" for a job that nobody claimed.
        notice: whether this machine is about to be taken away; asked as often as the file system.
    """

    def __init__(self, folder: Path, *, attempt: int, token: str, notice: Callable[[], bool] = lambda: False) -> None:
        self._trial, self._notice = TrialPaths(folder), notice
        self._claim = {"attempt": attempt, "token": token} if token else None
        self._looked_at = time.monotonic()

    def __call__(self) -> bool:
        """Whether the trial's machine is about to be taken away.

        Raises: SupersededError when another attempt has taken this one's place.
        """
        now = time.monotonic()
        if now - self._looked_at < POLL_S:
            return False
        self._looked_at = now
        self.require_current()
        return self._notice()

    def require_current(self) -> None:
        """Look at the claim now; called before anything of the trial is written that others read.

        Raises: SupersededError when another attempt has taken this one's place.
        """
        if self._claim is None:
            return
        try:
            claim = json.loads(self._trial.attempt.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise SupersededError(f"the claim on {self._trial.folder} cannot be read: {error}") from error
        if claim != self._claim:
            raise SupersededError(
                f"attempt {self._claim['attempt']} of {self._trial.folder.name} was given up; "
                f"attempt {claim.get('attempt')} has taken its place"
            )
