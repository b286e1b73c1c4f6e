"""Makes the next item of an iterator in a background thread while the present one is used."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_END: Any = object()


class Ahead(Generic[T]):
    """The items of an iterator in their order, the next of which is being made before it is asked for.

    An error of the iterator is raised where its item would have come.

    Args:
        items: asked for in the thread alone.
        executor: of one thread; several iterators may share it.
    """

    def __init__(self, items: Iterator[T], executor: Executor) -> None:
        self._items, self._executor = items, executor
        self._next = executor.submit(next, items, _END)

    def __iter__(self) -> "Ahead[T]":
        return self

    def __next__(self) -> T:
        item = self._next.result()
        if item is _END:
            raise StopIteration
        self._next = self._executor.submit(next, self._items, _END)
        return item


@contextmanager
def one_thread() -> Iterator[Executor]:
    """One background thread until the end of the block, which waits for the item that is being made and no other."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def made_ahead(items: Iterator[T], *, in_background: bool) -> Iterator[Iterator[T]]:
    """`items`, each made while the one before is used, until the end of the block.

    Args:
        items: any iterator.
        in_background: whether there is a thread at all; without one the items are made when they are asked for.
    """
    with one_thread() as executor:
        yield Ahead(items, executor) if in_background else items
