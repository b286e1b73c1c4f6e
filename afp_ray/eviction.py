"""Keeps what can be made again within a size: what was used longest ago goes first."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from afp_ray.errors import ConfigError

DEFAULT_GB = 20.0
_ORPHAN_S = 24 * 3600.0
"""Age at which the unfinished file of a process that died is removed."""
_IN_USE_S = 24 * 3600.0
"""Time since the last reading for which a folder counts as in use."""
_MARK = "config.json"
"""The file of a folder whose time of change tells when the folder was used."""
_Entry = tuple[float, int, Path]
"""Time of the last use, bytes, and where it is."""


def max_cache_bytes() -> float:
    """Bytes that a folder of the cache may take, from `$AFP_CACHE_GB`.

    Raises: ConfigError when that is no number from 0 up.
    """
    text = os.environ.get("AFP_CACHE_GB", "").strip()
    try:
        size = float(text) if text else DEFAULT_GB
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise ConfigError(
            f"AFP_CACHE_GB is {text!r}",
            where="environment",
            allowed="a number of gigabytes from 0 up",
            fix=f"unset it for {DEFAULT_GB:g}",
        )
    return size * 1e9


def evict(newest: Path, max_bytes: float) -> None:
    """Remove what was used longest ago until the rest fits, and what processes that died left; never `newest`.

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


def mark_used(folder: Path) -> None:
    """Note that the folder is read now; `evict_folders` leaves it alone for a day."""
    with suppress(OSError):  # a cache that cannot be written serves all the same, and loses nothing
        os.utime(folder / _MARK)


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
    from filelock import FileLock, Timeout  # whoever reads small files alone starts without it

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
