"""Keeps what can be made again under `$AFP_CACHE`, named by content: made once, shared by all, within a size.

Rows, tokens, scores, answers, converted models and MLflow's empty tables lie there, each kind in a folder of its own.
The name of an entry tells all that decides it, so nothing there is ever stale, and all of it can be removed at any
time:

    read it ──whole──▶ use it
       │ missing, damaged
       ▼
    lock ▶ read again ▶ make a .partial beside it ▶ rename ▶ remove what was used longest ago

Nobody sees a half-made entry, since a rename is atomic. The lock is the system's, so that of a killed process is free.
The time of change of an entry tells when it was used.
"""

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from afp_ray.errors import ConfigError

DEFAULT_GB = 20.0
WAIT_S = 3600.0
"""How long a process waits for the one that makes an entry; a process that died is not waited for."""
_ORPHAN_S = 24 * 3600.0
"""Age at which the unfinished file of a process that died is removed."""
_IN_USE_S = 24 * 3600.0
"""Time since the last reading for which a folder counts as in use."""
_MARK = "config.json"
"""The file of a folder whose time of change tells when the folder was used."""
_Entry = tuple[float, int, Path]
"""Time of the last use, bytes, and where it is."""
T = TypeVar("T")


class CacheRefusedError(Exception):
    """The system refused to keep something: no space, no right to write, no locks. It can be made without a cache."""


def cache_folder(kind: str) -> Path:
    """The folder of one kind of entries: `$AFP_CACHE/<kind>`, shared by all studies of a user.

    Without the variable it is `afp_ray` in the user's cache folder.

    Args:
        kind: `rows`, `tokens`, `models` ...
    """
    if named := os.environ.get("AFP_CACHE"):
        return Path(named).expanduser() / kind
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "afp_ray" / kind


def bytes_from(variable: str, *, otherwise: float, fix: str) -> float:
    """A size that an environment variable gives in gigabytes.

    Args:
        variable: its name.
        otherwise: bytes where it is not set.
        fix: for the error.
    Raises: ConfigError when it is no number from 0 up.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return otherwise
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise ConfigError(
            f"{variable} is {text!r}", where="environment", allowed="a number of gigabytes from 0 up", fix=fix
        )
    return size * 1e9


def max_cache_bytes() -> float:
    """Bytes that each kind of entries may take, from `$AFP_CACHE_GB`.

    Raises: ConfigError when that is no number from 0 up.
    """
    return bytes_from("AFP_CACHE_GB", otherwise=DEFAULT_GB * 1e9, fix=f"unset it for {DEFAULT_GB:g}")


@contextmanager
def storing() -> Iterator[None]:
    """Turn a refusal of the system, such as a full disk, into a CacheRefusedError."""
    try:
        yield
    except (OSError, NotImplementedError) as error:
        raise CacheRefusedError(str(error)) from error


def get_or_make(path: Path, read: Callable[[Path], T | None], make: Callable[[Path], None]) -> T:
    """What the cache has at `path`; where it lacks it, one process makes it while the others wait.

    Args:
        path: in a `cache_folder`, named by all that decides the content.
        read: gives what a file holds; None when it is missing or not whole.
        make: fills a new file at the path that it is given, and brings it to the disk.
    Raises: CacheRefusedError when the folder cannot be written or the wait was too long; ConfigError for a bad
        `$AFP_CACHE_GB`; whatever `make` raises.
    """
    from filelock import FileLock  # whoever reads small files alone starts without it

    found = read(path)
    if found is None:
        max_bytes, lock = max_cache_bytes(), FileLock(f"{path}.lock", timeout=WAIT_S)
        with storing():
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        try:
            found = read(path)  # another process may have made it meanwhile
            if found is None:
                write_whole(path, make)
                found = read(path)
                evict(path, max_bytes)
        finally:
            lock.release()
    if found is None:
        raise CacheRefusedError("what was written cannot be read back")
    mark_used(path)
    return found


def write_whole(path: Path, make: Callable[[Path], None]) -> None:
    """Let `make` fill a file beside `path` and move it there, so that no process sees a half-made one.

    Raises: CacheRefusedError when it cannot be moved; whatever `make` raises.
    """
    partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.partial")
    try:
        make(partial)
        with storing():
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def mark_used(path: Path) -> None:
    """Note that a file or folder is read now; a folder is left alone by `evict_folders` for a day."""
    with suppress(OSError):  # a cache that cannot be written serves all the same, and loses nothing
        os.utime(path / _MARK if path.is_dir() else path)


def evict(newest: Path, max_bytes: float) -> None:
    """Remove what was used longest ago until the rest fits, and what processes that died left; never `newest`.

    A process that has a removed file open keeps it.

    Args:
        newest: the file that was just made; others of its suffix in its folder may go.
        max_bytes: bytes that may stay.
    """
    files: list[_Entry] = []
    for path in newest.parent.iterdir():
        with suppress(OSError):  # another process may remove it first
            status = path.stat()
            if path.suffix == ".partial" and time.time() - status.st_mtime > _ORPHAN_S:
                path.unlink()
            elif path.suffix == newest.suffix and path != newest:
                files.append((status.st_mtime, status.st_size, path))
    for path in _beyond(files, max_bytes - newest.stat().st_size):
        with suppress(OSError):
            path.unlink()


def evict_folders(newest: Path, prefix: str, max_bytes: float) -> None:
    """Remove folders that were used longest ago until the rest fits; never `newest`, nor one that a study is using.

    A study reads a folder again at each of its trials: what was read within a day is taken to be in use, even where
    that is more than `max_bytes`. A folder goes under its lock (`<folder>.lock`), which whoever reads it takes to mark
    it, so that none goes between the mark and the reading.

    Args:
        newest: the folder that was just made.
        prefix: how the names of folders begin that may go.
        max_bytes: bytes that may stay.
    """
    from filelock import FileLock, Timeout

    folders: list[_Entry] = []
    for mark in newest.parent.glob(f"{prefix}*/{_MARK}"):
        with suppress(OSError):
            if mark.parent != newest:
                folders.append((mark.stat().st_mtime, _size_of(mark.parent), mark.parent))
    for folder in _beyond(folders, max_bytes - _size_of(newest)):
        with suppress(OSError, Timeout), FileLock(f"{folder}.lock", timeout=0):
            if time.time() - (folder / _MARK).stat().st_mtime > _IN_USE_S:
                gone = folder.with_name(f".{folder.name}.gone")
                folder.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)


def _beyond(entries: list[_Entry], room: float) -> Iterator[Path]:
    """What does not fit into `room`, once what was used last has been given its place."""
    for _, size, path in sorted(entries, reverse=True):
        room -= size
        if room < 0:
            yield path


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
