"""Work without collection: off while anybody is inside, on again whatever happens, off where it was off before."""

import gc
import threading

import pytest

from afp_ray.collection import without_collection


def test_collection_is_off_inside_and_on_again_after_an_error() -> None:
    with without_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), without_collection():
        raise ImportError("no such library")
    assert gc.isenabled()


def test_one_who_has_turned_it_off_keeps_it_off() -> None:
    gc.disable()
    try:
        with without_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_it_is_off_until_the_last_of_two_threads_has_left() -> None:
    inside, left = threading.Event(), threading.Event()

    def other() -> None:
        with without_collection():
            inside.set()
            left.wait(10)

    thread = threading.Thread(target=other)
    with without_collection():
        thread.start()
        assert inside.wait(10)
    assert not gc.isenabled()
    left.set()
    thread.join(10)
    assert gc.isenabled()


def test_what_stays_is_looked_at_no_more_once_the_last_has_left() -> None:
    try:
        with without_collection():
            before = gc.get_freeze_count()
            with without_collection(stays=True):
                made = [[] for _ in range(1_000)]
            assert gc.get_freeze_count() == before, "others are still at work"
        assert gc.get_freeze_count() >= before + len(made)
        frozen = gc.get_freeze_count()
        with without_collection():
            pass
        assert gc.get_freeze_count() <= frozen, "asked for once"
    finally:
        gc.unfreeze()
