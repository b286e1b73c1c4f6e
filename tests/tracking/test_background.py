"""The thread that projects: never in the way of a driver, one attempt at a time, and everything is shown in the end."""

import threading
import time
from collections.abc import Callable

import pytest

from afp_ray.errors import UnavailableError
from afp_ray.tracking.background import BackgroundProjector


class Recorder:
    """A projector over a list of events, one a call where `one_by_one`; fails or waits as told."""

    def __init__(
        self,
        *,
        fail: Callable[[], bool] = lambda: False,
        gate: threading.Event | None = None,
        one_by_one: bool = False,
    ) -> None:
        self.ledger: list[str] = []
        self.shown: list[str] = []
        self.calls: list[int] = []
        self.fail, self.gate, self.one_by_one = fail, gate, one_by_one
        self.entered = threading.Event()
        self.num_inside, self.most_inside = 0, 0

    @property
    def num_left(self) -> int:
        return len(self.ledger) - len(self.shown)

    def project(self, *, enough: Callable[[], bool]) -> int:
        self.num_inside += 1
        self.most_inside = max(self.most_inside, self.num_inside)
        try:
            self.entered.set()
            if self.gate is not None:
                self.gate.wait(10)
            if self.fail():
                raise UnavailableError("the server is away")
            end = len(self.shown) + 1 if self.one_by_one else len(self.ledger)
            self.shown = self.ledger[:end]
            self.calls.append(end)
            return 1
        finally:
            self.num_inside -= 1


def test_events_in_between_share_a_projection_and_the_last_is_shown() -> None:
    gate = threading.Event()
    recorder = Recorder(gate=gate)
    projector = BackgroundProjector(lambda: recorder, study="demo", interval_s=0)
    projector.submit()
    assert recorder.entered.wait(10)
    for number in range(50):
        recorder.ledger.append(str(number))
        projector.submit()  # returns at once, though the first still waits
    gate.set()
    assert projector.close(10)
    assert recorder.shown == [str(number) for number in range(50)]
    assert len(recorder.calls) <= 3
    assert recorder.most_inside == 1


def test_the_first_projection_waits_and_a_close_does_not() -> None:
    recorder = Recorder()
    recorder.ledger = ["a"]
    projector = BackgroundProjector(lambda: recorder, study="demo", start_s=60, interval_s=0)
    projector.submit()
    assert not recorder.entered.wait(0.2)
    started = time.monotonic()
    assert projector.close(10)
    assert recorder.shown == ["a"]
    assert time.monotonic() - started < 5


def test_what_one_projection_leaves_is_shown_by_the_next_without_being_asked() -> None:
    recorder = Recorder(one_by_one=True)
    recorder.ledger = ["a", "b", "c"]
    projector = BackgroundProjector(lambda: recorder, study="demo", interval_s=0)
    projector.submit()
    assert projector.close(10)
    assert (recorder.shown, recorder.calls) == (["a", "b", "c"], [1, 2, 3])


def test_a_failure_gives_one_warning_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    down, reasons = [True], []
    recorder = Recorder(fail=lambda: down[0])
    recorder.ledger = ["first"]
    projector = BackgroundProjector(lambda: recorder, study="demo", interval_s=0, on_failure=reasons.append)
    projector.submit()
    assert recorder.entered.wait(10)
    down[0] = False
    recorder.ledger.append("last")
    projector.submit()
    assert projector.close(10)
    assert recorder.shown == ["first", "last"]
    assert set(reasons) == {"the server is away"}
    assert len([record for record in caplog.records if "afp sync demo" in record.getMessage()]) == 1


def test_a_failed_attempt_is_made_again_without_a_new_event() -> None:
    failures = iter([True, True, False])
    recorder = Recorder(fail=lambda: next(failures))
    recorder.ledger = ["only"]
    is_shown = threading.Event()
    recorder_project = recorder.project

    def project(*, enough: Callable[[], bool]) -> int:
        changed = recorder_project(enough=enough)
        is_shown.set()
        return changed

    recorder.project = project  # type: ignore[method-assign]
    projector = BackgroundProjector(lambda: recorder, study="demo", interval_s=0.001)
    projector.submit()
    assert is_shown.wait(10)
    assert projector.close(10)
    assert projector.failure is None


def test_making_the_projector_may_fail_and_is_tried_again() -> None:
    recorder = Recorder()
    recorder.ledger = ["only"]
    tries: list[int] = []
    is_second = threading.Event()

    def make() -> Recorder:
        tries.append(1)
        if len(tries) == 1:
            raise UnavailableError("the database is locked")
        is_second.set()
        return recorder

    projector = BackgroundProjector(make, study="demo", interval_s=0.001)
    projector.submit()
    assert is_second.wait(10)
    assert projector.close(10)
    assert recorder.shown == ["only"]


def test_close_keeps_its_deadline_when_the_server_hangs(caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()
    recorder = Recorder(gate=gate)
    projector = BackgroundProjector(lambda: recorder, study="demo", interval_s=0)
    projector.submit()
    assert recorder.entered.wait(10)
    begin = time.monotonic()
    assert projector.close(0.05) is False
    assert time.monotonic() - begin < 5
    assert "afp sync demo" in caplog.text
    gate.set()


def test_nothing_asked_is_nothing_projected() -> None:
    recorder = Recorder()
    projector = BackgroundProjector(lambda: recorder, study="demo", interval_s=0)
    assert projector.close(10)
    assert recorder.calls == []
