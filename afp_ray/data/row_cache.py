"""Row files by what decides their rows: shared through the cache, or of one process alone where nothing can be kept."""

import hashlib
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from afp_ray.cache import CacheRefusedError, cache_folder, get_or_make
from afp_ray.data.row_file import VERSION, RowFile, RowWriter
from afp_ray.errors import StorageError

Build = Callable[[RowWriter], Mapping[str, Any]]
"""Writes all rows and returns the notes of the file."""


def cached_rows(key: str, build: Build, *, num_fields: int, num_columns: int) -> RowFile:
    """The row file of `key`, made when it is not there; see `cache.get_or_make`.

    Where the folder cannot be written, the rows go to a file of this process alone, and a warning says why.

    Args:
        key: names everything that the rows depend on.
        build: fills the file.
        num_fields, num_columns: texts and numbers of a row.
    Raises: StorageError when there is no space for the rows; whatever `build` raises.
    """
    name = hashlib.sha256(f"{VERSION}\n{num_fields} {num_columns}\n{key}".encode()).hexdigest()
    path = cache_folder("rows") / f"{name[:32]}.rows"
    try:
        return get_or_make(path, _opened, lambda file: _write(file, build, num_fields, num_columns))
    except CacheRefusedError as error:
        warnings.warn(
            f"rows cannot be kept in {path.parent} ({error}); they are read again by each process. Set AFP_CACHE to a "
            "folder that can be written.",
            stacklevel=2,
        )
        return private_rows(build, num_fields=num_fields, num_columns=num_columns)


def private_rows(build: Build, *, num_fields: int, num_columns: int) -> RowFile:
    """A row file of this process alone, gone when it is no longer used.

    Raises: StorageError when there is no space for the rows; whatever `build` raises.
    """
    with tempfile.TemporaryDirectory(prefix="afp_rows_") as folder:
        path = Path(folder) / "private.rows"
        _write(path, build, num_fields, num_columns)
        return RowFile(path)  # open, it outlives its name


def _opened(path: Path) -> RowFile | None:
    """The file, None when it is missing or not whole."""
    try:
        return RowFile(path)
    except (OSError, ValueError):
        return None


def _write(path: Path, build: Build, num_fields: int, num_columns: int) -> None:
    try:
        writer = RowWriter(path, num_fields=num_fields, num_columns=num_columns)
        try:
            writer.finish(build(writer))
        finally:
            writer.close()
    except OSError as error:
        raise StorageError(
            f"rows cannot be written to {path.parent}: {error}; free space there, or set AFP_CACHE (and TMPDIR) to a "
            "folder with enough of it"
        ) from error
