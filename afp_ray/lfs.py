"""Tells a Git LFS pointer from the file that it stands for, in one wording for models and data."""

from pathlib import Path

PROBLEM = "a Git LFS pointer, not the file itself"
FIX = "git lfs pull in the folder that it was cloned into, or download the file again"
MAX_BYTES = 1024
"""A pointer is a few lines of text; the specification allows no more."""
_BEGINNING = b"version https://git-lfs.github.com/spec/"


def is_pointer(content: bytes) -> bool:
    """Whether a file's content, or its first bytes, are those of a pointer."""
    return content.startswith(_BEGINNING)


def is_pointer_file(path: Path) -> bool:
    """Whether a file is a pointer; one that cannot be read is none.

    Source: the Git LFS specification, docs/spec.md.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            return False
        with path.open("rb") as stream:
            return is_pointer(stream.read(len(_BEGINNING)))
    except OSError:
        return False
