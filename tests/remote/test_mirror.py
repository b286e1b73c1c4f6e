"""A study at a URL: pushed whole or not at all, pulled by another machine, driven by one at a time."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from afp_ray.errors import ConfigError, StudyLockedError, UnavailableError
from afp_ray.ledger import Ledger, replay
from afp_ray.records import LedgerEvent
from afp_ray.remote import Place, is_url, keeping, place_of, pull_for_reading, working_copy
from afp_ray.remote import lease as leases
from afp_ray.remote.lease import RemoteLease
from afp_ray.remote.mirror import INDEX, Mirror
from afp_ray.store import StudyPaths, write_json


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A storage made of folders, and one made of objects."""
    if request.param == "file":
        yield f"file://{tmp_path}/there"
        return
    import fsspec

    yield f"memory://bucket-{tmp_path.name}/runs"
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> Callable[[str], StudyPaths]:
    """The study `s` in the working copy of a machine, by the machine's name."""

    def on(name: str) -> StudyPaths:
        monkeypatch.setenv("AFP_CACHE", str(tmp_path / name))
        return StudyPaths(working_copy(url), "s")

    return on


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SETTLE_S", 0.001)
    monkeypatch.setattr(leases, "EXPIRY_S", 0.01)


def plan(paths: StudyPaths, *trial_ids: str) -> None:
    """One driver that plans trials, each with a result file."""
    with Ledger.open(paths) as ledger:
        for trial_id in trial_ids:
            what: dict[str, Any] = {"role": "search", "arm": "afp", "seed": 1, "config": {"seed": 1}}
            ledger.append(LedgerEvent(time=1.0, trial_id=trial_id, state="PLANNED", attempt=1, **what))
            write_json(paths.trial(trial_id).result, {"trial": trial_id})
            paths.trial(trial_id).checkpoint.mkdir()
            (paths.trial(trial_id).checkpoint / "model.safetensors").write_bytes(trial_id.encode())
        ledger.close("interrupted")


def trials(paths: StudyPaths) -> list[str]:
    return [trial.trial_id for trial in replay(paths.ledger).trials]


def test_urls_are_told_from_folders() -> None:
    assert is_url("s3://bucket/runs")
    assert not is_url("runs")
    assert not is_url("/tmp/runs")


def test_an_unknown_scheme_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"nosuch.*\n.*allowed.*\n.*s3fs"):
        Place("nosuch://bucket")


def test_another_machine_goes_on_with_what_was_pushed(machine: Callable[[str], StudyPaths], url: str) -> None:
    one = machine("one")
    plan(one, "a", "b")
    assert Mirror(one, Place(url)).push() == 5, "two results, two checkpoints, one ledger"
    assert Mirror(one, Place(url)).push() == 0
    two = machine("two")
    assert two.folder != one.folder
    assert place_of(two.storage) is not None
    pull_for_reading(Place(url), two.storage)
    assert trials(two) == ["a", "b"]
    assert two.trial("a").result.read_bytes() == one.trial("a").result.read_bytes()
    assert not two.trial("a").checkpoint.exists(), "questions need no weights"
    Mirror(two, Place(url)).pull(heavy=True)
    assert (two.trial("a").checkpoint / "model.safetensors").read_bytes() == b"a"
    plan(two, "c")
    Mirror(two, Place(url)).push()
    Mirror(one, Place(url)).pull(heavy=True)
    assert trials(one) == ["a", "b", "c"]
    assert not one.lease.read_bytes(), "a lease speaks of its own machine"


def test_what_was_removed_here_is_removed_there(machine: Callable[[str], StudyPaths], url: str) -> None:
    one = machine("one")
    plan(one, "a")
    Mirror(one, Place(url)).push()
    (one.trial("a").checkpoint / "model.safetensors").unlink()
    assert Mirror(one, Place(url)).push() == 1
    two = machine("two")
    Mirror(two, Place(url)).pull(heavy=True)
    assert two.trial("a").result.exists()
    assert not two.trial("a").checkpoint.exists()


@pytest.mark.parametrize("nth", range(5))
def test_a_push_that_is_cut_off_leaves_what_was_there(
    machine: Callable[[str], StudyPaths], url: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machine("one")
    plan(one, "a")
    Mirror(one, Place(url)).push()
    plan(one, "b")
    done: list[str] = []

    def fail_at(real: Callable[..., None]) -> Callable[..., None]:
        def call(place: Place, *arguments: Any) -> None:
            done.append("call")
            if len(done) > nth:
                raise UnavailableError("the network is away")
            real(place, *arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Place, "upload", fail_at(Place.upload))
        patch.setattr(Place, "write", fail_at(Place.write))
        if nth < 4:
            with pytest.raises(UnavailableError):
                Mirror(one, Place(url)).push()
        else:
            Mirror(one, Place(url)).push()
    two = machine("two")
    Mirror(two, Place(url)).pull(heavy=True)
    assert trials(two) == (["a", "b"] if nth == 4 else ["a"])
    assert all(two.trial(trial).result.exists() for trial in trials(two))
    Mirror(one, Place(url)).push()
    Mirror(two, Place(url)).pull(heavy=True)
    assert trials(two) == ["a", "b"]


def test_two_histories_are_both_kept(
    machine: Callable[[str], StudyPaths], url: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = machine("one")
    plan(one, "a")
    Mirror(one, Place(url)).push()
    two = machine("two")
    Mirror(two, Place(url)).pull(heavy=True)
    plan(two, "b")
    Mirror(two, Place(url)).push()
    plan(one, "c")  # its machine did not know
    Mirror(one, Place(url)).pull(heavy=True)
    assert trials(one) == ["a", "b"]
    apart = StudyPaths(one.storage, "s.apart-1")
    assert trials(apart) == ["a", "c"]
    assert apart.trial("c").result.exists()
    assert "kept as study s.apart-1" in caplog.text


def test_a_file_that_its_index_does_not_know_is_refused(machine: Callable[[str], StudyPaths], url: str) -> None:
    one = machine("one")
    plan(one, "a")
    Mirror(one, Place(url)).push()
    Place(url).write("s/trials/a/result.json", b"changed by hand")
    with pytest.raises(UnavailableError, match=r"s/trials/a/result\.json is not what its index says"):
        Mirror(machine("two"), Place(url)).pull(heavy=True)


@pytest.mark.parametrize("name", ["../../outside", "trials/../../../outside"])
def test_an_index_cannot_name_what_is_outside(machine: Callable[[str], StudyPaths], url: str, name: str) -> None:
    one = machine("one")
    plan(one, "a")
    Mirror(one, Place(url)).push()
    index = json.loads(Place(url).read(f"s/{INDEX}") or b"")
    Place(url).write(f"s/{INDEX}", json.dumps({name: {"size": 1, "sha256": "0"}, **index}).encode())
    with pytest.raises(UnavailableError, match="outside the study"):
        Mirror(machine("two"), Place(url)).pull(heavy=True)


def test_one_machine_drives_at_a_time(url: str) -> None:
    place = Place(url)
    first = RemoteLease.take(place, "s")

    def renewed(_: float) -> None:
        first.renew()

    with pytest.raises(StudyLockedError, match=f"already being driven by pid {os.getpid()} on"):
        RemoteLease.take(place, "s", sleep=renewed)
    first.release()
    RemoteLease.take(place, "s").release()
    assert place.read("s/lease.json") is None


def test_a_machine_that_was_lost_is_replaced_and_hears_of_it(url: str) -> None:
    place = Place(url)
    lost = RemoteLease.take(place, "s")
    RemoteLease.take(place, "s")  # nobody renews the first one
    with pytest.raises(StudyLockedError):
        lost.renew()
    lost.release()
    assert place.read("s/lease.json") is not None, "the lease of the other stays"


def test_two_that_take_it_in_the_same_moment_are_told_apart(url: str) -> None:
    place = Place(url)
    other = RemoteLease(place, "s")
    with pytest.raises(StudyLockedError):
        RemoteLease.take(place, "s", sleep=lambda _: other.renew(is_new=True))


def test_a_driven_study_is_pushed_as_it_goes_and_at_the_end(
    machine: Callable[[str], StudyPaths], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from afp_ray.remote import keeping as room

    monkeypatch.setattr(sys_module(room), "PUSH_EVERY_S", 0.01)
    monkeypatch.setattr(leases, "RENEW_S", 0.01)
    one = machine("one")
    lost: list[str] = []
    stopped: list[int] = []
    with keeping(one, on_lost=lost.append, on_stop=lambda: stopped.append(1)):
        plan(one, "a")
        wait_until(lambda: b'"a"' in (Place(url).read("s/ledger.jsonl") or b""))
        Place(url).write("s/stop", b"")
        wait_until(lambda: bool(stopped))
        plan(one, "b")
    two = machine("two")
    Mirror(two, Place(url)).pull(heavy=True)
    assert trials(two) == ["a", "b"]
    assert (lost, stopped) == ([], [1])
    assert Place(url).read("s/lease.json") is None


def test_a_driver_that_lost_the_study_hears_it_and_pushes_no_more(
    machine: Callable[[str], StudyPaths], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.01)
    one = machine("one")
    lost: list[str] = []
    with keeping(one, on_lost=lost.append, on_stop=lambda: None):
        RemoteLease(Place(url), "s").renew(is_new=True)
        wait_until(lambda: bool(lost))
        plan(one, "a")
    assert "already being driven" in lost[0]
    assert Place(url).read("s/ledger.jsonl") is None


def test_a_pull_that_fails_removes_nothing_there(
    machine: Callable[[str], StudyPaths], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(machine("one"), "a", "b")
    Mirror(machine("one"), Place(url)).push()
    two, index = machine("two"), Place(url).read(f"s/{INDEX}")

    def refuse(*_: Any) -> None:
        raise UnavailableError("the network is away")

    with monkeypatch.context() as patch:
        patch.setattr(Place, "download", refuse)
        with (
            pytest.raises(UnavailableError, match="the network is away"),
            keeping(two, on_lost=lambda _: None, on_stop=lambda: None),
        ):
            pass
    assert Place(url).read(f"s/{INDEX}") == index
    assert Place(url).read("s/trials/a/checkpoint/model.safetensors") == b"a"
    assert Place(url).read("s/lease.json") is None, "others need not wait"


def test_a_folder_needs_no_keeping(tmp_path: Path) -> None:
    with keeping(StudyPaths(tmp_path, "s"), on_lost=lambda _: None, on_stop=lambda: None):
        pass
    assert not list(tmp_path.iterdir())


def sys_module(function: Any) -> Any:
    """The module that defines a function which has its module's name."""
    import sys

    return sys.modules[function.__module__]


def wait_until(is_so: Callable[[], bool]) -> None:
    """Ask a background thread's effect, at most ten seconds."""
    import time

    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)
