"""Imports of large libraries without the pauses of the garbage collector."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Import inside: what modules make lives as long as the process, and Python looks at all of it again and again.

    A fifth of the time that torch, transformers and Ray take to import. Threads may nest: collection is on again once
    the first of them has left.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
