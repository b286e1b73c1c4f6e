"""Computes answers in few threads: a question once however many ask it, and nobody waits longer than a deadline."""

import asyncio
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor

from afp_ray.errors import UnavailableError

DEADLINE_S = 30.0
MAX_QUESTIONS = 64
"""Questions at work and waiting; each may have any number of askers."""


class Computations:
    """Threads for one kind of questions, so that long ones never hold up quick ones.

    Args:
        at_once: questions that are computed at the same time; each takes its memory.
        deadline_s: seconds after which an asker is told to come again; the answer is computed on.
    """

    def __init__(self, *, at_once: int, deadline_s: float = DEADLINE_S) -> None:
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="answer")
        self._deadline_s = deadline_s
        self._open: dict[Hashable, Future[bytes]] = {}
        self._lock = threading.Lock()

    async def answer(self, question: Hashable, compute: Callable[[], bytes]) -> bytes:
        """What `compute()` gives; who asks an equal question meanwhile gets the same.

        Raises: UnavailableError when too many questions wait, the answer takes longer than the deadline, or
            the service ends.
        """
        future = asyncio.wrap_future(self._asked(question, compute))
        try:
            return await asyncio.wait_for(asyncio.shield(future), self._deadline_s)  # others may wait for it
        except TimeoutError as error:
            raise UnavailableError(f"the answer takes longer than {self._deadline_s:g} seconds") from error
        except asyncio.CancelledError as error:  # by the server alone, which waits no longer
            raise UnavailableError("the service is ending") from error

    def close(self) -> None:
        """Drop what waits, so that a process that ends need not compute it."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _asked(self, question: Hashable, compute: Callable[[], bytes]) -> Future[bytes]:
        with self._lock:
            future = self._open.get(question)
            if future is not None:
                return future
            if len(self._open) >= MAX_QUESTIONS:
                raise UnavailableError(f"{MAX_QUESTIONS} other questions wait for their answers")
            until = time.monotonic() + self._deadline_s
            future = self._open[question] = self._threads.submit(_compute_until, until, compute)
        future.add_done_callback(lambda _: self._open.pop(question, None))
        return future


def _compute_until(until: float, compute: Callable[[], bytes]) -> bytes:
    if time.monotonic() > until:  # those who asked have gone: a long queue must not outlive them
        raise UnavailableError("other questions took too long")
    return compute()
