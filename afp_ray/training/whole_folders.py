"""Folders of files that are either whole, with their hashes, or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from afp_ray.errors import StorageError
from afp_ray.models.manifest import write_manifest
from afp_ray.store import SHARED, sync_folder

_SPARE_BYTES = 32 * 2**20


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Write a folder beside its place, with a manifest, and rename it at the end.

    A kill leaves the old folder, the new one or, in the instant between two renames, none; never a part of one. What a
    kill left beside it earlier is removed.

    Args:
        folder: replaced when it exists.
    Yields: where to write; after an error it is removed and `folder` is as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    try:
        yield temporary
        write_manifest(temporary)
        _make_durable(temporary)
        _replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed writer of `folder` left beside it."""
    for left in folder.parent.glob(f".{folder.name}.*.tmp*"):
        shutil.rmtree(left, ignore_errors=True)


def require_space(parent: Path, num_bytes: int, *, what: str) -> None:
    """Look for room on the disk before anything is written.

    Args:
        parent: a folder that is there.
        num_bytes: of what is to be written there.
        what: its name in the message.
    Raises: StorageError with what is needed and what is free.
    """
    needed, free = num_bytes + _SPARE_BYTES, shutil.disk_usage(parent).free
    if free < needed:
        raise StorageError(
            f"{what} needs {needed / 2**20:.0f} MiB under {parent}, {free / 2**20:.0f} MiB are free; "
            "free some space and resume the study"
        )


def _make_durable(folder: Path) -> None:
    folder.chmod(SHARED | (SHARED & 0o444) >> 2)  # mkdtemp makes it private; whoever reads may enter
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(SHARED)  # safetensors makes its files private
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def _replace(temporary: Path, folder: Path) -> None:
    """Rename `temporary` to `folder`; a folder that is there steps aside first and is then removed."""
    retired = folder.with_name(f"{temporary.name}.old")
    if folder.exists():
        folder.rename(retired)
    temporary.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)
