"""One writer: paused drivers, lost leases, other machines, restarts, clocks that jump and disks that are full."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ledger_events import event

from afp_ray.errors import StudyLockedError, UnavailableError
from afp_ray.ledger import Ledger, holder, replay
from afp_ray.ledger.lease import Lease
from afp_ray.ledger.state import sealed
from afp_ray.store import StudyPaths

SUPPORT = Path(__file__).parent.parent / "support"
ELSEWHERE = {"pid": 7, "host": "another-machine", "boot": "another-boot", "time": 1.0, "token": "0" * 8}


@contextmanager
def driver(storage: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver in its own process, which has opened the study."""
    process = subprocess.Popen(
        [sys.executable, str(SUPPORT / "ledger_driver.py"), str(storage)],
        env={**os.environ, "PYTHONPATH": str(SUPPORT.parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert answer_of(process) == "open"
        yield process
    finally:
        process.kill()
        process.communicate()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin
    process.stdin.write(line + "\n")
    process.stdin.flush()


def answer_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def leave(paths: StudyPaths, content: dict[str, Any]) -> None:
    """A lease as a driver left it that cannot be asked."""
    paths.folder.mkdir(parents=True, exist_ok=True)
    paths.lease.write_text(json.dumps(content))


def trials_of(paths: StudyPaths) -> list[str]:
    return [trial.trial_id for trial in replay(paths.ledger).trials]


def test_a_paused_driver_keeps_its_study(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    with driver(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(StudyLockedError, match=f"pid {process.pid} on"):
            Ledger.open(paths)
        process.send_signal(signal.SIGCONT)
        tell(process, "a")
        assert answer_of(process) == "written"
    assert trials_of(paths) == ["a"]


def test_a_driver_that_wakes_after_it_was_replaced_writes_nothing(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    with driver(tmp_path) as process:
        tell(process, "a")
        assert answer_of(process) == "written"
        process.send_signal(signal.SIGSTOP)
        paths.lease.unlink()  # as a person does who takes the driver for dead
        with Ledger.open(paths) as ledger:
            ledger.append(event("PLANNED", "b"))
            process.send_signal(signal.SIGCONT)
            tell(process, "c")
            answer = answer_of(process)
            assert answer.startswith("StudyLockedError: study s was taken from this driver")
            assert f"pid {os.getpid()} on" in answer
            ledger.append(event("PLANNED", "d"))
            tell(process, "e")
            assert answer_of(process).startswith("StudyLockedError")
        assert holder(paths) is None
    assert trials_of(paths) == ["a", "b", "d"]


def test_what_a_replaced_driver_still_wrote_does_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A driver that loses its lease between its check and its write."""
    paths = StudyPaths(tmp_path, "s")
    old = Ledger.open(paths)
    old.append(event("PLANNED", "a"))
    late = [line for line in paths.ledger.read_text().splitlines() if '"PLANNED"' in line]
    paths.lease.unlink()
    with Ledger.open(paths) as new:
        new.append(event("PLANNED", "b"))
        with paths.ledger.open("a") as file:
            body = late[0].replace('"trial_id":"a"', '"trial_id":"late"').rpartition(',"check"')[0] + "}"
            file.write(sealed(body.encode()).decode() + "\n")
        with caplog.at_level(logging.WARNING):
            assert trials_of(paths) == ["a", "b"]
        assert "passed over 1 events of a driver that had lost its lease" in caplog.text
        new.append(event("RUNNING", "b"))
        assert new.state == replay(paths.ledger)
        new.close("complete")
    with pytest.raises(StudyLockedError):
        old.close("interrupted")
    assert replay(paths.ledger).closed == "complete"
    with Ledger.open(paths) as again:
        assert [trial.trial_id for trial in again.state.trials] == ["a", "b"]


def test_a_ledger_that_another_driver_opened_is_left_alone_whatever_the_lease_says(tmp_path: Path) -> None:
    """Where a network disk gave the same lease twice, the first to open it again wins."""
    paths = StudyPaths(tmp_path, "s")
    first = Ledger.open(paths)
    kept = paths.lease.read_bytes()
    paths.lease.rename(paths.lease.with_suffix(".first"))
    with Ledger.open(paths) as second:
        second.append(event("PLANNED", "b"))
        os.replace(paths.lease.with_suffix(".first"), paths.lease)
        assert paths.lease.read_bytes() == kept
        assert first.is_ours
        with pytest.raises(StudyLockedError):
            first.append(event("PLANNED", "a"))
        with pytest.raises(StudyLockedError):
            second.append(event("RUNNING", "b"))
    assert trials_of(paths) == ["b"]
    first.release()


def test_a_driver_whose_lease_is_gone_writes_nothing(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    with Ledger.open(paths) as ledger:
        before = paths.ledger.read_bytes()
        paths.lease.unlink()
        with pytest.raises(StudyLockedError, match="the file of its lease is gone"):
            ledger.append(event("PLANNED"))
        assert not ledger.is_ours
        assert paths.ledger.read_bytes() == before


def test_giving_back_a_lost_lease_leaves_the_new_one(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    old = Ledger.open(paths)
    paths.lease.unlink()
    with Ledger.open(paths):
        old.release()
        held = holder(paths)
        assert held is not None
        assert held["pid"] == os.getpid()
    assert paths.lease.read_bytes() == b""


@pytest.mark.parametrize("jump_s", [0.0, 86_400.0, -3_600.0])
def test_a_lease_of_another_machine_counts_while_it_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """Whatever the clocks say: the file changes, or it does not."""
    paths = StudyPaths(tmp_path, "s")
    leave(paths, ELSEWHERE)
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + jump_s)
    is_over = threading.Event()

    def renew() -> None:
        while not is_over.wait(0.005):
            os.utime(paths.lease)

    other = threading.Thread(target=renew)
    other.start()
    try:
        with pytest.raises(StudyLockedError, match="pid 7 on another-machine"):
            Lease.take(paths, expiry_s=60)
    finally:
        is_over.set()
        other.join()
    os.utime(paths.lease, (true_time() + jump_s, true_time() + jump_s))
    lease = Lease.take(paths, expiry_s=0.05)
    assert lease.is_ours
    lease.release()


def test_a_lease_of_another_machine_is_shown_while_it_is_fresh(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    leave(paths, ELSEWHERE)
    held = holder(paths)
    assert held is not None
    assert held["host"] == "another-machine"
    os.utime(paths.lease, (1.0, 1.0))
    assert holder(paths) is None


@pytest.mark.parametrize(
    "content",
    [
        {**ELSEWHERE, "host": os.uname().nodename},  # this machine, before it was started again
        {key: value for key, value in ELSEWHERE.items() if key != "boot"},  # of before machines were told apart
        {},
    ],
)
def test_a_lease_that_nobody_can_hold_any_more_is_taken_at_once(tmp_path: Path, content: dict[str, Any]) -> None:
    paths = StudyPaths(tmp_path, "s")
    leave(paths, content)
    assert holder(paths) is None
    started = time.monotonic()
    lease = Lease.take(paths, expiry_s=60)
    assert time.monotonic() - started < 30
    assert lease.is_ours
    lease.release()
    assert not lease.is_ours


def test_a_lease_is_renewed_until_it_is_given_back(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    paths.folder.mkdir()
    lease = Lease.take(paths, renew_s=0.005)
    os.utime(paths.lease, (1.0, 1.0))
    end = time.monotonic() + 30
    while paths.lease.stat().st_mtime == 1.0:
        assert time.monotonic() < end, "nobody renews the lease"
    lease.release()


def test_a_disk_that_is_full_leaves_a_whole_ledger_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = StudyPaths(tmp_path, "s")
    write = os.write
    with Ledger.open(paths) as ledger:
        ledger.append(event("PLANNED", "a"))
        whole = paths.ledger.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda handle, line: write(handle, line[: len(line) // 2]))
            with pytest.raises(UnavailableError, match=r"ledger\.jsonl: only \d+ of \d+ bytes fitted"):
                ledger.append(event("PLANNED", "b"))
        assert paths.ledger.read_bytes() == whole
        ledger.append(event("PLANNED", "b"))
        assert ledger.state == replay(paths.ledger)
    assert trials_of(paths) == ["a", "b"]


def test_a_ledger_that_was_removed_is_not_written_into_nowhere(tmp_path: Path) -> None:
    paths = StudyPaths(tmp_path, "s")
    with Ledger.open(paths) as ledger:
        paths.ledger.unlink()
        with pytest.raises(UnavailableError, match="it was removed"):
            ledger.append(event("PLANNED", "a"))
