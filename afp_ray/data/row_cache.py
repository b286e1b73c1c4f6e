"""Keeps row files under the user's cache folder: made once for the bytes they come from, shared by all processes.

`$AFP_CACHE/rows`, or `~/.cache/afp_ray/rows`. Files that were used longest ago are removed beyond `$AFP_CACHE_GB`
(20); a process that has one open keeps it. Every file there can be removed at any time; it is made again.
"""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from afp_ray.data.row_file import VERSION, RowFile, RowWriter
from afp_ray.errors import StorageError
from afp_ray.eviction import evict, max_cache_bytes
from afp_ray.store import cache_folder

Build = Callable[[RowWriter], Mapping[str, Any]]
"""Writes all rows and returns the notes of the file."""


def cached_rows(key: str, build: Build, *, num_fields: int, num_columns: int) -> RowFile:
    """The row file of `key`, made when it is not there.

    One process makes it while the others wait. Where the folder cannot be written, the rows go to a file of this
    process alone, and a warning says why.

    Args:
        key: names everything that the rows depend on.
        build: fills the file.
        num_fields, num_columns: texts and numbers of a row.
    Raises: StorageError when there is no place for the rows; whatever `build` raises.
    """
    name = hashlib.sha256(f"{VERSION}\n{num_fields} {num_columns}\n{key}".encode()).hexdigest()
    path = cache_folder("rows") / f"{name[:32]}.rows"
    found = _opened(path)
    if found is not None:
        return found
    # Imported here: whoever reads small files alone starts without it.
    from filelock import FileLock

    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        warnings.warn(
            f"rows cannot be kept in {path.parent} ({error}); they are read again by each process. Set AFP_CACHE to a "
            "folder that can be written.",
            stacklevel=2,
        )
        return private_rows(build, num_fields=num_fields, num_columns=num_columns)
    try:
        found = _opened(path)  # another process may have made it meanwhile
        if found is None:
            _write(path, build, num_fields, num_columns)
            found = RowFile(path)
            evict(path, max_cache_bytes())
    finally:
        lock.release()
    return found


def private_rows(build: Build, *, num_fields: int, num_columns: int) -> RowFile:
    """A row file of this process alone, gone when it is no longer used.

    Raises: StorageError when there is no place for the rows; whatever `build` raises.
    """
    folder = tempfile.mkdtemp(prefix="afp_rows_")
    path = Path(folder) / "private.rows"
    try:
        _write(path, build, num_fields, num_columns)
        return RowFile(path)
    finally:
        path.unlink(missing_ok=True)
        Path(folder).rmdir()


def _opened(path: Path) -> RowFile | None:
    """The file, None when it is missing or not whole."""
    try:
        found = RowFile(path)
    except (OSError, ValueError):
        return None
    with suppress(OSError):  # marked as used now; a cache that cannot be written serves all the same
        os.utime(path)
    return found


def _write(path: Path, build: Build, num_fields: int, num_columns: int) -> None:
    """Write beside `path` and move it there, so that no process sees a half-written file."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        writer = RowWriter(partial, num_fields=num_fields, num_columns=num_columns)
        try:
            writer.finish(build(writer))
        finally:
            writer.close()
        partial.replace(path)
    except OSError as error:
        raise StorageError(
            f"rows cannot be written to {path.parent}: {error}; free space there, or set AFP_CACHE (and TMPDIR) to a "
            "folder with enough of it"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
