"""Keeps a folder of files that can be made again within a size: what was used longest ago goes first."""

import os
import time
from contextlib import suppress
from pathlib import Path

from afp_ray.errors import ConfigError

DEFAULT_GB = 20.0
_ORPHAN_S = 24 * 3600.0
"""Age at which the unfinished file of a process that died is removed."""


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
    files: list[tuple[float, int, Path]] = []
    for path in newest.parent.iterdir():
        with suppress(OSError):  # another process may remove it first
            status = path.stat()
            if path.suffix == ".partial" and time.time() - status.st_mtime > _ORPHAN_S:
                path.unlink()
            elif path.suffix == newest.suffix and path != newest:
                files.append((status.st_mtime, status.st_size, path))
    room = max_bytes - newest.stat().st_size
    for _, size, path in sorted(files, reverse=True):
        room -= size
        if room < 0:
            with suppress(OSError):
                path.unlink()
