"""Requests to stop: the first drains, the second stops now; from signals, from another thread, from `afp stop`."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from afp_ray.errors import StorageError, UserError
from afp_ray.ledger import holder, replay
from afp_ray.store import StudyPaths, url_of, write_atomic


class StopNowError(BaseException):
    """The second request; passes every `except Exception` on its way to the driver."""


class StopRequest:
    """Counts requests to stop; safe to share between threads."""

    def __init__(self) -> None:
        self._count = 0
        self.reason = ""
        self._may_interrupt = False

    @property
    def is_requested(self) -> bool:
        """Whether to start nothing new."""
        return self._count >= 1

    @property
    def is_now(self) -> bool:
        """Whether not to wait for running trials either."""
        return self._count >= 2

    def request(self, reason: str) -> None:
        """Ask to stop: once to drain, twice to stop now.

        Args:
            reason: who asks, for the ledger; a signal's name for a signal.
        """
        self.reason = self.reason or reason
        self._count += 1

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a second signal break into the block; one that came just before it does so at once."""
        self._may_interrupt = True
        try:
            if self.is_now:
                raise StopNowError
            yield
        finally:
            self._may_interrupt = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as requests while the block runs; does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen(self) -> None:
        """Install the handlers again, after a library has replaced them."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.request(signal.Signals(number).name)
        if self.is_now and self._may_interrupt:
            raise StopNowError


@contextmanager
def heed_stop_file(paths: StudyPaths, stop: StopRequest) -> Iterator[None]:
    """Turn the file that `afp stop` leaves, from any machine that shares the storage, into a request to stop."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            if paths.stop.exists():
                paths.stop.unlink(missing_ok=True)
                stop.request("afp stop")

    if paths.stop.exists() and holder(paths) is None:
        try:
            paths.stop.unlink(missing_ok=True)  # left by a request that came after the last driver had ended
        except OSError as error:
            raise StorageError(f"cannot remove {paths.stop}: {error}") from error
    watcher = threading.Thread(target=watch, name="stop-file", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()


def request_stop(paths: StudyPaths) -> dict[str, Any] | None:
    """Ask the driver of a study to end; it starts nothing new and lets running trials finish.

    Returns: who was asked; None when nobody drives the study.
    Raises: UnavailableError when the request cannot be written; UserError where another machine may drive a study at
        a URL.
    """
    driver = holder(paths)
    if driver is None:
        if url_of(paths.storage) is not None and replay(paths.ledger).ended is None:
            raise UserError(
                f"nobody on this machine drives {paths.name}, and a URL carries no request to another machine",
                fix="run this command, or press Ctrl-C, on the machine that drives it",
            )
        return None
    write_atomic(paths.stop, json.dumps({"time": time.time()}) + "\n")
    if driver.get("host") == socket.gethostname() and isinstance(driver.get("pid"), int):
        try:
            os.kill(driver["pid"], signal.SIGTERM)
        except OSError:
            return driver  # another user's process, or in another container: the file is enough
        paths.stop.unlink(missing_ok=True)  # one request is heard; two would stop running trials at once
    return driver
