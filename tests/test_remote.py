"""A study at a URL: whole on both sides whatever is cut off, carried on by another machine, never overwritten."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from afp_ray import remote
from afp_ray.cache import cache_folder
from afp_ray.errors import ConfigError, StudyChangedError, UnavailableError
from afp_ray.ledger import Ledger, replay
from afp_ray.records import LedgerEvent
from afp_ray.remote import RemoteStudy, working_folder
from afp_ray.store import StudyPaths, url_folder, url_of, write_json

Machine = Callable[[str], StudyPaths]


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
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> Machine:
    """The study `s` in the working folder of a machine, by the machine's name."""

    def on(name: str) -> StudyPaths:
        monkeypatch.setenv("AFP_CACHE", str(tmp_path / name))
        return StudyPaths(url_folder(url, cache_folder("storage")), "s")

    return on


def drive(paths: StudyPaths, *trial_ids: str, ends: bool = True) -> None:
    """One driver that runs trials, each of which leaves a result and a checkpoint; without `ends` they still run."""
    with Ledger.open(paths) as ledger:
        for trial_id in trial_ids:
            what: dict[str, Any] = {"role": "search", "arm": "afp", "seed": 1, "config": {"seed": 1}}
            ledger.append(LedgerEvent(time=1.0, trial_id=trial_id, state="PLANNED", attempt=1, **what))
            ledger.append(LedgerEvent(time=2.0, trial_id=trial_id, state="RUNNING", attempt=1))
            paths.trial(trial_id).checkpoint.mkdir(parents=True, exist_ok=True)
            (paths.trial(trial_id).checkpoint / "model.safetensors").write_bytes(trial_id.encode())
            write_json(paths.trial(trial_id).result, {"trial": trial_id})
            write_json(paths.trial(trial_id).progress, {})
            if ends:
                ledger.append(LedgerEvent(time=3.0, trial_id=trial_id, state="DONE", attempt=1, objective=0.5))
        ledger.close("interrupted")


def push(paths: StudyPaths, url: str, *, is_last: bool = True) -> int:
    return RemoteStudy(url, paths).project(is_last=is_last)


def pull(paths: StudyPaths, url: str) -> None:
    RemoteStudy(url, paths).pull(with_weights=True)


def content(url: str, name: str) -> bytes | None:
    import fsspec

    files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return bytes(files.cat_file(f"{root}/s/{name}")) if files.exists(f"{root}/s/{name}") else None


def trials(paths: StudyPaths) -> list[str]:
    return [trial.trial_id for trial in replay(paths.ledger).trials]


def test_an_unknown_scheme_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"nosuch.*\n.*allowed.*\n.*s3fs"):
        working_folder("nosuch://bucket")


def test_another_machine_goes_on_with_what_was_pushed(machine: Machine, url: str) -> None:
    first = machine("first")
    drive(first, "a", "b")
    assert push(first, url) == 4, "two results, two checkpoints; the ledger is sent besides"
    assert push(first, url) == 0
    second = machine("second")
    assert second.folder != first.folder
    assert working_folder(url) == second.storage
    assert url_of(second.storage) == url
    assert trials(second) == ["a", "b"]
    assert second.trial("a").result.read_bytes() == first.trial("a").result.read_bytes()
    assert not second.trial("a").checkpoint.exists(), "questions need no weights"
    assert not second.trial("a").progress.exists(), "progress speaks of its own machine"
    pull(second, url)
    assert (second.trial("a").checkpoint / "model.safetensors").read_bytes() == b"a"
    drive(second, "c")
    write_json(second.trial("a").result, {"trial": "a", "splits": 2})
    with Ledger.open(second) as ledger:
        ledger.append(LedgerEvent(time=4.0, trial_id="a", state="DONE", attempt=1, objective=0.5))
        ledger.close("complete")
    push(second, url)
    pull(first, url)
    assert trials(first) == ["a", "b", "c"]
    assert first.trial("a").result.read_bytes() == second.trial("a").result.read_bytes()
    assert not first.lease.read_bytes(), "a lease speaks of its own machine"


def test_weights_that_have_changed_since_are_brought_again(machine: Machine, url: str) -> None:
    first = machine("first")
    drive(first, "a")
    push(first, url)
    second = machine("second")
    pull(second, url)
    (second.trial("a").checkpoint / "model.safetensors").write_bytes(b"trained again")
    drive(second, "a")
    (second.trial("a").checkpoint / "model.safetensors").write_bytes(b"trained again")
    push(second, url)
    machine("first")
    working_folder(url)
    pull(first, url)
    assert (first.trial("a").checkpoint / "model.safetensors").read_bytes() == b"trained again"


def test_what_still_runs_is_pushed_at_the_end_alone(machine: Machine, url: str) -> None:
    first = machine("first")
    drive(first, "a")
    drive(first, "b", ends=False)
    push(first, url, is_last=False)
    assert content(url, "trials/a/result.json") is not None
    assert content(url, "trials/b/checkpoint/model.safetensors") is None
    assert content(url, "ledger.jsonl") == first.ledger.read_bytes()
    push(first, url)
    assert content(url, "trials/b/checkpoint/model.safetensors") == b"b"


def test_weights_that_were_removed_here_are_removed_there(machine: Machine, url: str) -> None:
    first = machine("first")
    drive(first, "a")
    push(first, url)
    (first.trial("a").checkpoint / "model.safetensors").unlink()
    push(first, url)
    second = machine("second")
    pull(second, url)
    assert second.trial("a").result.exists()
    assert not second.trial("a").checkpoint.exists()


def test_a_result_that_a_cleaner_of_caches_took_comes_back(machine: Machine, url: str) -> None:
    first = machine("first")
    drive(first, "a")
    push(first, url)
    first.trial("a").result.unlink()
    push(first, url)
    pull(first, url)
    assert first.trial("a").result.exists()


@pytest.mark.parametrize("nth", range(4))
def test_a_push_that_is_cut_off_leaves_what_can_be_gone_on_with(
    machine: Machine, url: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machine("first")
    drive(first, "a")
    push(first, url)
    drive(first, "b")
    real, calls = remote._replace, []

    def fail_at(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > nth:
            raise OSError("the network is away")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(remote, "_replace", fail_at)
        if nth < 3:
            with pytest.raises(UnavailableError, match="the network is away"):
                push(first, url)
        else:
            push(first, url)
    second = machine("second")
    pull(second, url)
    assert trials(second) == (["a", "b"] if nth == 3 else ["a"])
    assert all(second.trial(trial).result.exists() for trial in trials(second))
    push(first, url)
    pull(second, url)
    assert trials(second) == ["a", "b"]


@pytest.mark.parametrize("url", ["file"], indirect=True)
@pytest.mark.parametrize("nth", range(3))
@pytest.mark.parametrize("is_half_written", [False, True])
def test_a_kill_in_the_middle_of_a_push_leaves_a_ledger_that_replays(
    machine: Machine, url: str, nth: int, is_half_written: bool
) -> None:
    first = machine("first")
    drive(first, "a")
    push(first, url)
    drive(first, "b")
    if (child := os.fork()) == 0:  # the very process that pushes dies, with no clean-up
        real, calls = remote._replace, []

        def die_at(files: Any, name: str, write: Callable[[str], Any]) -> None:
            def killed(path: str) -> None:
                if is_half_written:
                    write(path)
                os.kill(os.getpid(), signal.SIGKILL)

            calls.append(name)
            real(files, name, killed if len(calls) > nth else write)

        remote._replace = die_at
        try:
            push(first, url)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    second = machine("second")
    pull(second, url)
    assert trials(second) == ["a"]
    assert not [path for path in second.folder.rglob(".*")], "nothing half written is brought"
    push(first, url)
    pull(second, url)
    assert trials(second) == ["a", "b"]


def test_a_forked_history_is_refused_and_nothing_is_overwritten(machine: Machine, url: str) -> None:
    first = machine("first")
    drive(first, "a")
    push(first, url)
    second = machine("second")
    pull(second, url)
    drive(second, "b")
    push(second, url)
    drive(first, "c")  # its machine did not know
    before, ours = content(url, "ledger.jsonl"), first.ledger.read_bytes()
    reasons: list[str] = []
    with pytest.raises(StudyChangedError, match=r"driven on two machines.*\n.*move one of them away"):
        RemoteStudy(url, first, on_conflict=reasons.append).project(is_last=True)
    with pytest.raises(StudyChangedError, match="neither was overwritten"):
        pull(first, url)
    assert len(reasons) == 1
    assert (content(url, "ledger.jsonl"), first.ledger.read_bytes()) == (before, ours)
    assert content(url, "trials/c/result.json") is None
    os.rename(first.folder, first.folder.with_name("s.apart"))
    pull(first, url)
    assert trials(first) == ["a", "b"]


def test_two_that_start_together_are_told_apart_by_their_first_push(machine: Machine, url: str) -> None:
    first = machine("first")
    drive(first, "a")
    push(first, url)
    second = machine("second")
    pull(second, url)
    with Ledger.open(first) as ours, Ledger.open(second) as theirs:
        push(second, url, is_last=False)
        with pytest.raises(StudyChangedError):
            push(first, url, is_last=False)
        ours.close("interrupted")
        theirs.close("interrupted")


@pytest.mark.parametrize("name", ["../outside", "trials/../../outside", "trials/.hidden"])
def test_nothing_is_brought_to_outside_the_study(machine: Machine, tmp_path: Path, name: str) -> None:
    import fsspec

    first = machine("first")
    drive(first, "a")
    url = f"memory://bucket-{tmp_path.name}/evil"
    push(first, url)
    memory = fsspec.filesystem("memory")
    memory.store[f"/bucket-{tmp_path.name}/evil/s/{name}"] = memory.store[
        f"/bucket-{tmp_path.name}/evil/s/ledger.jsonl"
    ]
    second = machine("second")
    pull(second, url)
    assert trials(second) == ["a"]
    assert not [path for path in tmp_path.rglob("*") if path.name in ("outside", ".hidden")]


def test_a_driver_at_work_here_is_ahead_of_the_url(machine: Machine, url: str) -> None:
    first = machine("first")
    drive(first, "a")
    push(first, url)
    second = machine("second")
    pull(second, url)
    drive(second, "b")
    push(second, url)
    machine("first")
    with Ledger.open(first):
        assert working_folder(url) == first.storage
        assert trials(first) == ["a"]


def test_what_earlier_versions_left_at_the_url_is_passed_over(machine: Machine, url: str) -> None:
    first = machine("first")
    drive(first, "a")
    push(first, url)
    import fsspec

    files, root = fsspec.core.url_to_fs(url)
    for name in ("index.json", "lease.json"):
        files.pipe_file(f"{root}/s/{name}", b"{}")
    second = machine("second")
    pull(second, url)
    assert trials(second) == ["a"]
    assert not (second.folder / "index.json").exists()


def test_a_url_that_is_away_is_said_with_its_name(machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    drive(first := machine("first"), "a")
    push(first, url)

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("connection refused")

    system = type(fsspec.core.url_to_fs(url)[0])
    monkeypatch.setattr(system, "ls", refuse)
    monkeypatch.setattr(system, "find", refuse)
    machine("second")
    with pytest.raises(UnavailableError, match=r"storage .*: connection refused"):
        working_folder(url)


def test_a_folder_is_no_url(tmp_path: Path) -> None:
    assert url_of(tmp_path) is None
