"""Pulls before a study is read or driven, and pushes in the background while it is driven."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from afp_ray.errors import AfpError, StudyLockedError, UnavailableError
from afp_ray.remote import lease as leases
from afp_ray.remote.lease import RemoteLease
from afp_ray.remote.mirror import INDEX, Mirror
from afp_ray.remote.place import Place, place_of
from afp_ray.store import StudyPaths

logger = logging.getLogger(__name__)

PUSH_EVERY_S = 20.0
LAST_PUSH_TRIES = 5


def pull_for_reading(place: Place, storage: Path) -> None:
    """Bring what questions read of every study: ledgers, results, predictions; no checkpoints."""
    for name in place.studies():
        if place.read(f"{name}/{INDEX}") is not None:
            Mirror(StudyPaths(storage, name), place).pull(heavy=False)


@contextmanager
def keeping(paths: StudyPaths, *, on_lost: Callable[[str], None], on_stop: Callable[[], None]) -> Iterator[None]:
    """Hold the study at its place and push it there while the block runs; nothing for a storage that is a folder.

    A place that is away for a while costs no training: pushes go on later. The last push is tried a few times.

    Args:
        paths: the study in the working copy.
        on_lost: called with the reason when another machine has taken the study: end what runs.
        on_stop: called when `afp stop` was asked elsewhere.
    Raises: StudyLockedError when another machine drives it; UnavailableError when the last push fails, with what to do.
    """
    place = place_of(paths.storage)
    if place is None:
        yield
        return
    lease, mirror = RemoteLease.take(place, paths.name), Mirror(paths, place)
    try:
        # Nothing is pushed unless all was pulled: what is not here is removed there.
        mirror.pull(heavy=True)
        place.remove(f"{paths.name}/stop")
        keeper = _Keeper(mirror, lease, on_lost=on_lost, on_stop=on_stop)
        keeper.start()
        try:
            yield
        finally:
            keeper.finish()
    finally:
        _give_back(lease)


def _give_back(lease: RemoteLease) -> None:
    try:
        lease.release()
    except UnavailableError as error:
        logger.warning("the lease could not be given back, others wait until it expires: %s", error)


def ask_to_stop(paths: StudyPaths) -> dict[str, Any] | None:
    """Leave a request to stop at the study's place, where another machine drives it.

    Returns: who was asked; None when nobody holds the study there, or its storage is a folder.
    """
    place = place_of(paths.storage)
    holder = RemoteLease(place, paths.name).holder() if place is not None else None
    if place is not None and holder is not None:
        place.write(f"{paths.name}/stop", f"{time.time()}\n".encode())
    return holder


class _Keeper:
    """Renews the lease and pushes, in a thread of its own."""

    def __init__(
        self, mirror: Mirror, lease: RemoteLease, *, on_lost: Callable[[str], None], on_stop: Callable[[], None]
    ) -> None:
        self._mirror, self._lease, self._on_lost, self._on_stop = mirror, lease, on_lost, on_stop
        self._over = threading.Event()
        self._is_lost = self._is_warned = False
        self._pushed_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="remote-storage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(min(leases.RENEW_S, PUSH_EVERY_S)) and not self._is_lost:
            try:
                self._lease.renew()
                self._hear_stop()
                if time.monotonic() - self._pushed_at >= PUSH_EVERY_S:
                    self._mirror.push()
                    self._pushed_at = time.monotonic()
                self._is_warned = False
            except StudyLockedError as error:
                self._is_lost = True
                self._on_lost(str(error))
            except AfpError as error:
                if not self._is_warned:
                    logger.warning("%s; training goes on, and is pushed later", error)
                self._is_warned = True

    def _hear_stop(self) -> None:
        name = f"{self._mirror.paths.name}/stop"
        if self._mirror.place.read(name) is not None:
            self._mirror.place.remove(name)
            self._on_stop()

    def finish(self) -> None:
        """Push for the last time.

        Raises: UnavailableError when the place refuses all along; everything is still in the working copy.
        """
        self._over.set()
        self._thread.join()
        if self._is_lost:
            return
        for left in reversed(range(LAST_PUSH_TRIES)):
            try:
                self._lease.check()
                self._mirror.push()
                return
            except UnavailableError as error:
                if left == 0:
                    raise UnavailableError(
                        f"{error}; nothing is lost: it is in {self._mirror.paths.folder}, and `afp resume` with this "
                        "storage on this machine pushes it"
                    ) from error
                time.sleep(2.0 ** (LAST_PUSH_TRIES - left - 1) * 0.5)
