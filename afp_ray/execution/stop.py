"""Requests to stop: the first drains, the second stops now; from signals or from another thread."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
