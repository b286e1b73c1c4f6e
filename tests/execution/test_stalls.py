"""Which trials are taken for hung and which for starved, by a clock that the test turns."""

import json
from pathlib import Path

import pytest

from afp_ray.config import RuntimeConfig
from afp_ray.execution import stalls
from afp_ray.execution.stalls import TrialWatch


class Clock:
    """Stands in for the module `time`."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    turned = Clock()
    monkeypatch.setattr(stalls, "time", turned)
    return turned


def report(path: Path, done: int, *, attempt: int = 1, time: float = 0.0) -> None:
    path.write_text(json.dumps({"time": time, "attempt": attempt, "stage": "train", "done": done, "total": 9}))


def test_a_trial_hangs_when_its_progress_has_not_changed_for_so_long(tmp_path: Path, clock: Clock) -> None:
    watched, path = TrialWatch(RuntimeConfig(hang_s=10)), tmp_path / "progress.json"
    watched.started("a", path, attempt=1)
    clock.now += 9
    report(path, 1)
    assert watched.hung() == {}
    clock.now += 10
    assert watched.hung() == {}
    clock.now += 1
    assert watched.hung() == {"a": 11}
    report(path, 2)
    assert watched.hung() == {}


def test_a_trial_that_never_reports_hangs_too(tmp_path: Path, clock: Clock) -> None:
    watched = TrialWatch(RuntimeConfig(hang_s=10))
    watched.started("a", tmp_path / "progress.json", attempt=1)
    clock.now += 11
    assert watched.hung() == {"a": 11}
    watched.ended("a")
    assert watched.hung() == {}


def test_what_a_zombie_of_an_earlier_attempt_reports_is_no_progress(tmp_path: Path, clock: Clock) -> None:
    watched, path = TrialWatch(RuntimeConfig(hang_s=10)), tmp_path / "progress.json"
    watched.started("a", path, attempt=2)
    clock.now += 11
    report(path, 5, attempt=1)
    assert watched.hung() == {"a": 11}


def test_the_clock_of_the_worker_does_not_matter(tmp_path: Path, clock: Clock) -> None:
    watched, path = TrialWatch(RuntimeConfig(hang_s=10)), tmp_path / "progress.json"
    watched.started("a", path, attempt=1)
    for done, stamp in enumerate((5.0, -86400.0, 1e12)):
        clock.now += 9
        report(path, done, time=stamp)
        assert watched.hung() == {}


def test_a_group_has_its_start_deadline_first(tmp_path: Path, clock: Clock) -> None:
    runtime = RuntimeConfig(hang_s=10, start_s=100, workers_per_trial=2)
    watched, path = TrialWatch(runtime), tmp_path / "progress.json"
    watched.started("a", path, attempt=1)
    clock.now += 110
    assert watched.hung() == {}
    report(path, 1)
    assert watched.hung() == {}
    clock.now += 11
    assert watched.hung() == {"a": 11}


def test_without_a_limit_nothing_hangs(tmp_path: Path, clock: Clock) -> None:
    watched = TrialWatch(RuntimeConfig(hang_s=None, start_s=None))
    watched.started("a", tmp_path / "progress.json", attempt=1)
    watched.handed_over("b")
    clock.now += 1e9
    assert watched.hung() == {}
    watched.ended("a")
    clock.now += 1e9
    assert watched.starved_s() is None


def test_a_trial_starves_only_while_no_other_could_make_room_for_it(tmp_path: Path, clock: Clock) -> None:
    watched = TrialWatch(RuntimeConfig(hang_s=None, start_s=60))
    watched.handed_over("a")
    watched.started("a", tmp_path / "progress.json", attempt=1)
    watched.handed_over("b")
    clock.now += 1000
    assert watched.starved_s() is None, "a is running"
    watched.ended("a")
    clock.now += 60
    assert watched.starved_s() is None
    clock.now += 1
    assert watched.starved_s() == 61


def test_a_group_is_alone_when_none_has_ended_while_it_waited(tmp_path: Path, clock: Clock) -> None:
    watched = TrialWatch(RuntimeConfig(start_s=60, workers_per_trial=2))
    for key in "ab":
        watched.started(key, tmp_path / "progress.json", attempt=1)
    clock.now += 60
    assert not watched.is_alone("b")
    watched.ended("a")
    assert not watched.is_alone("b"), "a has only just made room"
    clock.now += 60
    assert watched.is_alone("b")
