"""A driver's folder is its own, short, and removed when the driver was killed."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from afp_ray.errors import ConfigError
from afp_ray.execution import scratch
from afp_ray.execution.scratch import MAX_BASE, PREFIX, scratch_folder

HOLD = """
import sys
from afp_ray.execution import scratch
from pathlib import Path
scratch._bases = lambda: [Path(sys.argv[1])]
with scratch.scratch_folder() as folder:
    (folder / "socket").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scratch, "_bases", lambda: [tmp_path])
    return tmp_path


def test_nobody_else_enters_the_folder_and_it_goes_with_the_block(base: Path) -> None:
    with scratch_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        inside = folder / "ray"
        inside.mkdir()
        inside.chmod(0o777)  # as Ray does
        assert folder.parent == base
    assert not list(base.iterdir())


def test_the_folder_of_a_killed_driver_is_removed_by_the_next_and_that_of_a_living_one_stays(base: Path) -> None:
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(base)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    folders = [Path(driver.stdout.readline().strip()) for driver in drivers if driver.stdout]
    drivers[0].send_signal(signal.SIGKILL)
    drivers[0].communicate()
    assert all(folder.is_dir() for folder in folders)
    with scratch_folder():
        assert [folder.is_dir() for folder in folders] == [False, True]
    drivers[1].communicate("")
    assert not folders[1].exists()


def test_what_is_not_ours_or_just_being_made_stays(base: Path) -> None:
    young, old, link = base / f"{PREFIX}young", base / f"{PREFIX}old", base / f"{PREFIX}link"
    young.mkdir()
    old.mkdir()
    target = base / "target"
    target.mkdir()
    link.symlink_to(target)
    past = time.time() - 7200
    os.utime(old, (past, past))
    with scratch_folder():
        assert young.is_dir()
        assert target.is_dir()
        assert not old.exists()


def test_a_long_folder_for_temporary_files_gives_way_to_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("d" * 90) / ("e" * 90)
    long.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with scratch_folder() as folder:
        assert len(str(folder.parent)) <= MAX_BASE
        assert not folder.is_relative_to(long)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError) as caught, scratch_folder():
        pass
    assert caught.value.where == "TMPDIR"


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_folder_for_temporary_files_that_is_not_there_is_named_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unusable = tmp_path / kind
    if kind == "file":
        unusable.touch()
    monkeypatch.setenv("TMPDIR", str(unusable))
    monkeypatch.setattr(tempfile, "tempdir", None)
    scratch._warn_of_a_missing_folder.cache_clear()
    for _ in range(2):
        with scratch_folder() as folder:
            assert not folder.is_relative_to(unusable)
    assert caplog.text.count(f"TMPDIR is {unusable}") == 1
    assert "mkdir -p" in caplog.text
