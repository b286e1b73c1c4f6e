"""The outbox: what follows a durable position in the ledger, told without MLflow and without reading it all again."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabricate import event, fabricate, leave_running, make_config, make_study

from afp_ray.ledger import Ledger, Replayer, replay
from afp_ray.records import TrialStatus
from afp_ray.redaction import redact
from afp_ray.store import StudyPaths
from afp_ray.tracking.outbox import Outbox, lag, note_failure

URI = "http://127.0.0.1:5000"


def small(storage: Path, closed: str | None = "complete") -> StudyPaths:
    return fabricate(storage, methods=("afp",), seeds=(0,), closed=closed)


def shown(paths: StudyPaths) -> Outbox:
    """An outbox all of whose trials have been shown."""
    outbox = Outbox(paths, URI)
    outbox.read()
    outbox.pending.clear()
    outbox.settle(is_driven=False)
    return outbox


def test_it_reads_what_replay_reads(tmp_path: Path) -> None:
    paths = small(tmp_path)
    assert Outbox(paths, URI).read() == replay(paths.ledger)


def test_a_fresh_outbox_wants_every_trial_looked_at(tmp_path: Path) -> None:
    paths = small(tmp_path)
    outbox = Outbox(paths, URI)
    state = outbox.read()
    assert list(outbox.pending) == [trial.trial_id for trial in state.trials]
    assert outbox.is_known is False


def test_following_a_ledger_gives_only_what_changed(tmp_path: Path) -> None:
    paths = small(tmp_path)
    outbox = shown(paths)
    added = leave_running(paths)
    assert outbox.read() == replay(paths.ledger)
    assert list(outbox.pending) == [added]
    outbox.read()
    assert list(outbox.pending) == [added]


def test_a_restart_goes_on_from_the_position(tmp_path: Path) -> None:
    paths = small(tmp_path)
    shown(paths)
    again = Outbox(paths, URI)
    again.read()
    assert (list(again.pending), again.is_known) == ([], True)
    added = leave_running(paths)
    again = Outbox(paths, URI)
    again.read()
    assert (list(again.pending), again.is_known) == ([added], True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content | {"tracking_uri": "http://127.0.0.1:9999"},
        lambda content: content | {"sha256": "0" * 64},
        lambda content: content | {"offset": content["offset"] + 10**6},
        lambda content: content | {"version": -1},
        lambda content: {},
    ],
)
def test_a_position_of_something_else_is_not_trusted(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    paths = small(tmp_path)
    shown(paths)
    paths.outbox.write_text(json.dumps(spoil(json.loads(paths.outbox.read_text()))))
    again = Outbox(paths, URI)
    state = again.read()
    assert list(again.pending) == [trial.trial_id for trial in state.trials]
    assert again.is_known is False


def test_a_line_that_a_driver_took_back_is_forgotten(tmp_path: Path) -> None:
    paths = small(tmp_path)
    outbox = shown(paths)
    whole = paths.ledger.read_bytes()
    leave_running(paths)
    assert outbox.read().trial("a" * 16) is not None
    with paths.ledger.open("r+b") as file:
        file.truncate(len(whole))
    assert outbox.read() == replay(paths.ledger)
    assert outbox.read().trial("a" * 16) is None


def test_a_torn_tail_is_passed_over(tmp_path: Path) -> None:
    paths = small(tmp_path)
    outbox = shown(paths)
    before = replay(paths.ledger)
    with paths.ledger.open("ab") as file:
        file.write(b'{"time": 1.0, "trial_id": "abc", "st')
    assert outbox.read() == before
    assert not outbox.pending


def test_the_lag_counts_events_and_trials_beyond_the_position(tmp_path: Path) -> None:
    paths = small(tmp_path)
    every = lag(paths, is_driven=False)
    assert every.events == len(paths.ledger.read_text().splitlines())
    assert every.trials == len(replay(paths.ledger).trials)
    outbox = shown(paths)
    assert lag(paths, is_driven=False).events == 0
    leave_running(paths)
    behind = lag(paths, is_driven=False)
    assert (behind.events, behind.trials, behind.reason) == (3, 1, None)
    assert behind.since is not None
    assert abs(behind.since - time.time()) < 60  # OPENED, the first of the three
    note_failure(outbox, "MLflow at http://me:secret@host: refused")
    assert lag(paths, is_driven=False).reason == "MLflow at http://***@host: refused"
    outbox.read()
    outbox.pending.clear()
    outbox.settle(is_driven=False)
    assert lag(paths, is_driven=False) == lag(paths, is_driven=True)
    assert lag(paths, is_driven=False).reason is None


def test_runs_shown_as_running_after_a_kill_are_a_lag(tmp_path: Path) -> None:
    paths = small(tmp_path, closed=None)
    outbox = Outbox(paths, URI)
    outbox.read()
    outbox.pending.clear()
    outbox.settle(is_driven=True)
    assert lag(paths, is_driven=True).reason is None
    assert "nobody drives" in str(lag(paths, is_driven=False).reason)


def test_a_failure_keeps_the_position(tmp_path: Path) -> None:
    paths = small(tmp_path)
    shown(paths)
    added = leave_running(paths)
    note_failure(Outbox(paths, URI), "refused")
    again = Outbox(paths, URI)
    again.read()
    assert (list(again.pending), again.is_known) == ([added], True)


def test_following_folds_every_event_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study("long")
    paths = StudyPaths(tmp_path, study.name)
    config = make_config(study, "afp", 0).model_dump(mode="json")
    ledger = Ledger.open(paths, study)
    outbox = Outbox(paths, URI)
    outbox.read()
    folded: list[str] = []
    apply = Replayer.apply

    def counting(self: Replayer, event: dict[str, Any]) -> None:
        if self is outbox._replayer:
            folded.append(event["trial_id"])
        apply(self, event)

    monkeypatch.setattr(Replayer, "apply", counting)
    expected = [f"{number:016x}" for number in range(100)]
    for number, trial_id in enumerate(expected):
        common = {"trial_id": trial_id, "arm": "afp", "seed": 0, "role": "search"}
        event(ledger, TrialStatus.PLANNED, 1.7e9 + number, **common, config=config)
        assert outbox.read().trials[-1].trial_id == trial_id
    ledger.release()
    assert folded == expected


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://me:pw@host/x", "https://***@host/x"),
        ("https://host/x?a=1&token=abc&b=2", "https://host/x?a=1&token=***&b=2"),
        ("https://host/x?access_token=abc", "https://host/x?access_token=***"),
        ("hf_abcdefghijklmnopqrstuvwx is it", "*** is it"),
        ("max_tokens=5, keys and passwords", "max_tokens=5, keys and passwords"),
    ],
)
def test_secrets_do_not_leave(text: str, clean: str) -> None:
    assert redact(text) == clean
