"""The snapshot of a ledger changes how fast it is read, and nothing else."""

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_events import event

from afp_ray.ledger import Ledger, Replayer, log, replay, snapshot
from afp_ray.ledger.state import read
from afp_ray.records import Failure, FailureClass, LedgerEvent, TrialStatus
from afp_ray.store import StudyPaths

FAILURE = Failure(failure_class=FailureClass.INFRA, message="ノード gone", step=3)
KINDS: dict[str, dict[str, Any]] = {
    "PLANNED": {"config": {"seed": 1, "loss": {"layer": 1}, "data": {"languages": ["zh"]}}, "params": {"a": 1e-5}},
    "RUNNING": {},
    "DONE": {"objective": 0.1 + 0.2, "splits": ("validation",), "gpu_hours": 0.25},
    "FAILED": {"failure": FAILURE},
    "CANCELLED": {"note": "stopped at once"},
}
STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(KINDS))), max_size=12)


def to_events(steps: list[tuple[str, str]]) -> list[LedgerEvent]:
    """Events that a driver could write: what was never planned is left out."""
    planned: set[str] = set()
    found = []
    for attempt, (trial_id, state) in enumerate(steps, start=1):
        if state == "PLANNED":
            planned.add(trial_id)
        if trial_id in planned:
            found.append(event(state, trial_id, attempt, **KINDS[state]))
    return found


def write_lines(path: Path, events: list[LedgerEvent]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = LedgerEvent(time=1.0, trial_id=None, state="OPENED", attempt=1, study_hash="h" * 16)
    lines = [one.model_dump_json(exclude_none=True) + "\n" for one in (opened, *events)]
    path.write_text("".join(lines))


def keep(path: Path) -> Path:
    """Write the snapshot of a ledger as it stands; returns where it lies."""
    where = snapshot.path_of(path)
    snapshot.save(read(path), where, snapshot.Sections())
    return where


@settings(deadline=None, max_examples=40)
@given(before=STEPS, after=STEPS)
def test_reading_onward_from_a_snapshot_gives_what_reading_all_gives(
    tmp_path_factory: pytest.TempPathFactory, before: list[tuple[str, str]], after: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("runs") / "s" / "ledger.jsonl"
    num_before = len(to_events(before))
    events = to_events(before + after)
    write_lines(path, events[:num_before])
    where = keep(path)
    write_lines(path, events)
    onward = read(path)
    where.unlink()
    whole = read(path)
    assert onward.state() == whole.state()
    assert onward.state().model_dump_json() == whole.state().model_dump_json()
    assert (
        (onward.offset, onward.num_events) == (whole.offset, whole.num_events) == (path.stat().st_size, len(events) + 1)
    )
    assert onward.digest.hexdigest() == whole.digest.hexdigest()


def make(path: Path) -> None:
    write_lines(path, to_events([(name, state) for name in "abc" for state in ("PLANNED", "RUNNING", "DONE")]))


def applied(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many events reading a ledger folds."""
    calls = itertools.count()
    with monkeypatch.context() as patch:
        apply = Replayer.apply
        patch.setattr(Replayer, "apply", lambda self, one: (next(calls), apply(self, one))[1])
        read(path)
    return next(calls)


def test_only_what_follows_the_snapshot_is_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s" / "ledger.jsonl"
    make(path)
    assert applied(path, monkeypatch) == 10
    keep(path)
    assert applied(path, monkeypatch) == 0
    with path.open("a") as file:
        file.write(event("PLANNED", "d").model_dump_json() + "\n")
    assert applied(path, monkeypatch) == 1


@pytest.mark.parametrize("place", [0, 70, 300, -2])
def test_a_damaged_snapshot_is_passed_over(tmp_path: Path, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s" / "ledger.jsonl"
    make(path)
    before = replay(path)
    where = keep(path)
    content = bytearray(where.read_bytes())
    content[place] ^= 1
    where.write_bytes(content)
    assert replay(path) == before
    assert applied(path, monkeypatch) == 10
    where.write_bytes(content[: len(content) // 2])
    assert replay(path) == before
    where.write_bytes(b"")
    assert replay(path) == before


def test_a_snapshot_of_another_ledger_or_form_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s" / "ledger.jsonl"
    make(path)
    keep(path)
    text = path.read_text()
    path.write_text(text.replace('"objective":0.30000000000000004', '"objective":0.90000000000000004'))
    assert {trial.objective for trial in replay(path).trials} == {0.9}
    assert applied(path, monkeypatch) == 10
    path.write_text(text[: text.index('"DONE"')])  # shorter than what the snapshot stands for
    assert replay(path).trials[0].status is TrialStatus.RUNNING
    path.write_text(text)
    assert applied(path, monkeypatch) == 0
    monkeypatch.setattr(snapshot, "FORM", snapshot.FORM + 1)
    assert applied(path, monkeypatch) == 10


def test_a_long_study_keeps_snapshots_that_say_what_its_driver_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "SNAPSHOT_EVENTS", 6)
    paths = StudyPaths(tmp_path, "s")
    where = snapshot.path_of(paths.ledger)
    for round_of in range(3):
        with Ledger.open(paths) as ledger:
            assert ledger.state == replay(paths.ledger)
            for name in "abcd":
                config = {"seed": round_of, "loss": {"layer": 1}, "data": {"languages": [name]}}
                ledger.append(event("PLANNED", f"{name}{round_of}", config=config))
                ledger.append(event("DONE", f"{name}{round_of}", objective=0.5))
                assert ledger.state == replay(paths.ledger)
            if round_of == 1:
                ledger.close("complete")
        assert where.exists()
    assert applied(paths.ledger, monkeypatch) < 12
    kept = json.loads(where.read_bytes().partition(b"\n")[2])
    assert kept["sections"].count({"layer": 1}) == 1  # shared by all trials
    read_again = read(paths.ledger).trials
    assert read_again["a0"]["config"]["loss"] is read_again["b1"]["config"]["loss"]


def test_a_snapshot_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log, "SNAPSHOT_EVENTS", 2)
    paths = StudyPaths(tmp_path, "s")
    with Ledger.open(paths) as ledger, caplog.at_level(logging.WARNING):
        snapshot.path_of(paths.ledger).mkdir()
        ledger.append(event("PLANNED"))
        ledger.append(event("RUNNING"))
        assert "the snapshot of the ledger was not kept" in caplog.text
        assert replay(paths.ledger) == ledger.state


def test_trials_that_are_planned_between_two_looks_keep_their_order(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    with Ledger.open(paths) as ledger:
        ledger.append(event("PLANNED", "z"))
        assert ledger.trial("z") is not None
        for name in ("y", "a", "x", "b"):
            ledger.append(event("PLANNED", name))
        ledger.append(event("RUNNING", "z"))
        assert [trial.trial_id for trial in ledger.state.trials] == ["z", "y", "a", "x", "b"]
        assert ledger.state == replay(paths.ledger)


def test_a_short_study_has_no_snapshot(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    with Ledger.open(paths) as ledger:
        ledger.append(event("PLANNED"))
        ledger.close("complete")
    assert not snapshot.path_of(paths.ledger).exists()
