"""Lists and reads the members of tar and zip archives; a tar is held whole, a member of a zip is streamed."""

import lzma
import tarfile
import zipfile
import zlib
from functools import lru_cache
from typing import cast

from afp_ray.errors import DataError

ARCHIVE_SUFFIXES = (".tar", ".tar.xz", ".tar.gz", ".tar.bz2", ".tgz", ".zip")
MAX_ARCHIVE_BYTES = 1 << 26
"""Tar archives are read whole; one that unpacks to more is refused, since it may be made to fill the memory."""
_UNPACK = "unpack it and give the folder"


def is_archive(name: str) -> bool:
    """Whether a file of this name is taken for an archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def is_zip(path: str) -> bool:
    """Whether the archive is a zip rather than a tar."""
    return path.lower().endswith(".zip")


@lru_cache(maxsize=16)
def member_sizes(path: str, size: int, modified_ns: int) -> dict[str, tuple[int, int]]:
    """Unpacked and packed bytes of each regular file in an archive, by name.

    Notes that a Mac puts beside the files are left out. `size` and `modified_ns` are there to be part of the key.

    Raises: DataError when the archive cannot be read, or a tar unpacks to more than `MAX_ARCHIVE_BYTES`.
    """
    if not is_zip(path):
        return {name: (len(data), len(data)) for name, data in tar_members(path, size, modified_ns).items()}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(
            f"no readable zip archive: {error}", where=path, fix="fetch the archive again: a part of it is missing"
        ) from error
    found = {entry.filename: (entry.file_size, entry.compress_size) for entry in entries}
    return {name: sizes for name, sizes in found.items() if not is_note(name)}


def is_note(name: str) -> bool:
    """Whether a member is what a Mac notes beside the files of an archive."""
    return name.startswith("__MACOSX/") or name.rsplit("/", 1)[-1].startswith("._")


def open_zip_member(path: str, member: str) -> zipfile.ZipExtFile:
    """The bytes of a member as a stream.

    Raises: DataError when the archive is damaged, asks for a password, or packs in a way that is not known here.
    """
    try:
        return cast(zipfile.ZipExtFile, zipfile.ZipFile(path).open(member))  # the stream closes it
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        why = "it asks for a password" if isinstance(error, RuntimeError) else str(error)
        raise DataError(f"the archive cannot be read: {why}", where=f"{path}/{member}", fix=_UNPACK) from error


@lru_cache(maxsize=2)
def tar_members(path: str, size: int, modified_ns: int) -> dict[str, bytes]:
    """Regular files of a tar archive by name; `size` and `modified_ns` are there to be part of the key."""
    members: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(path) as archive:
            for entry in archive:
                total += entry.size
                if total > MAX_ARCHIVE_BYTES:
                    raise DataError(
                        f"the archive unpacks to more than {MAX_ARCHIVE_BYTES} bytes", where=path, fix=_UNPACK
                    )
                content = archive.extractfile(entry) if entry.isfile() else None
                if content is not None and not is_note(entry.name):
                    members[entry.name.removeprefix("./")] = content.read()
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise DataError(
            f"cannot be read: {error}", where=path, fix="check the file, its permissions and its links"
        ) from error
    return members
