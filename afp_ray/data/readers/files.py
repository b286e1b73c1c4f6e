"""Finds the files of a source, plain or inside an archive, and opens their bytes."""

import hashlib
import io
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from afp_ray import lfs
from afp_ray.data.readers.archives import (
    ARCHIVE_SUFFIXES,
    is_archive,
    is_zip,
    member_sizes,
    open_zip_member,
    tar_members,
)
from afp_ray.errors import DataError

PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zst")
MAX_WHOLE_BYTES = 1 << 27
"""Plain files that are read whole are refused above this; corpora of any size are streamed instead."""
MARK = "\ufeff"
_DESCRIPTION = re.compile(r"(README|LICEN[CS]E|CITATION|COPYING)\b", re.IGNORECASE)
# Marks of writing direction and of byte order: they show nothing, and two texts that differ in them alone are equal.
# The joiners U+200C and U+200D stay: Persian and the scripts of India spell words with them.
_INVISIBLE = re.compile("[\ufeff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a corpus as it was when it was found.

    Attributes:
        path: the file itself, or the archive that holds it.
        member: name inside the archive, "" for a plain file.
        size, modified_ns: bytes and time of change of `path`; with them the object is a key of its content.
    """

    path: str
    member: str
    size: int
    modified_ns: int

    @property
    def label(self) -> str:
        """How messages name the file."""
        return f"{self.path}/{self.member}" if self.member else self.path

    @property
    def name(self) -> str:
        """The name of the file without its folder, and without the ending that says how it is packed."""
        return without_packing(Path(self.label).name)

    @property
    def ending(self) -> str:
        """What the name says about the form of the rows, in small letters: `.jsonl`, `.tsv`, ..."""
        return Path(self.name).suffix.lower()

    @property
    def parts(self) -> "tuple[SourceFile, ...]":
        """The files that it consists of: itself, but for one that stands for several."""
        return (self,)

    @property
    def num_bytes(self) -> int:
        """Bytes of the file itself, where `size` may be that of the archive around it."""
        return member_sizes(self.path, self.size, self.modified_ns)[self.member][0] if self.member else self.size

    def read(self) -> bytes:
        """The bytes of the file.

        Raises: DataError when the system refuses, the file is too large, or a Git LFS pointer stands in its place.
        """
        self.require_small(self.num_bytes)
        with self.open() as stream:
            return self._read(stream)

    def read_unpacked(self, stream: IO[bytes]) -> bytes:
        """All bytes of `stream`, which unpacks the file.

        Raises: DataError when the system refuses, or the file unpacks to too much.
        """
        data = self._read(stream)
        self.require_small(len(data))
        return data

    def open(self) -> io.BufferedReader:
        """The bytes of the file as a stream, so that a large file is never held whole.

        Raises: DataError when the system refuses, or a Git LFS pointer stands in the place of the file.
        """
        try:
            stream = self._opened()
            is_pointer = lfs.is_pointer(stream.peek(lfs.MAX_BYTES))
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if is_pointer:
            stream.close()
            raise DataError(lfs.PROBLEM, where=self.label, fix=lfs.FIX)
        return stream

    def _opened(self) -> io.BufferedReader:
        if not self.member:
            return Path(self.path).open("rb")
        if is_zip(self.path):
            return io.BufferedReader(open_zip_member(self.path, self.member))
        return io.BufferedReader(io.BytesIO(tar_members(self.path, self.size, self.modified_ns)[self.member]))

    def _read(self, stream: IO[bytes]) -> bytes:
        try:
            return stream.read(MAX_WHOLE_BYTES + 1)
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def require_small(self, num_bytes: int) -> None:
        """Refuse a file whose rows, of `num_bytes` or more, are all held in memory.

        Raises: DataError.
        """
        if num_bytes > MAX_WHOLE_BYTES:
            raise DataError(
                f"the file has {num_bytes} bytes or more, and this layout is read whole",
                where=self.label,
                allowed=f"at most {MAX_WHOLE_BYTES} bytes",
                fix="split the file, or give the rows as tsv, jsonl or datasets, which are streamed",
            )


@dataclass(frozen=True, slots=True)
class Shards(SourceFile):
    """The numbered files of one part of a data set; what it says of itself is said of the first.

    Attributes:
        shards: the files, in order.
    """

    shards: tuple[SourceFile, ...]

    @property
    def parts(self) -> "tuple[SourceFile, ...]":
        """The shards."""
        return self.shards


@dataclass(frozen=True, slots=True)
class HubRevision(SourceFile):
    """A data set of the hub at one commit, which stands for its content; it is streamed, never opened as a file."""


def expand_path(path: str) -> Path:
    """`path` with `~` and `${AFP_DATA_DIR}` replaced.

    Raises: DataError when the variable is unset, or when another variable is used.
    """
    for name in re.findall(r"\$\{([^}]*)\}", path):
        if name != "AFP_DATA_DIR":
            raise DataError(f"unknown variable ${{{name}}} in a path", where=path, allowed="${AFP_DATA_DIR}, ~")
        folder = os.environ.get("AFP_DATA_DIR", "")
        if not folder:
            raise DataError(
                "the path uses ${AFP_DATA_DIR}, which is not set",
                where=path,
                fix="export AFP_DATA_DIR=<folder with the data>, or write the whole path",
            )
        path = path.replace("${AFP_DATA_DIR}", folder)
    if "\0" in path:
        raise DataError(f"the path {path!r} holds a NUL character", allowed="the name of a file or folder")
    return Path(path).expanduser()


def without_packing(name: str) -> str:
    """`name` without an ending such as `.gz`, whatever the case of its letters."""
    for ending in PACKED_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def is_spare(name: str) -> bool:
    """Whether a file of this name is hidden, a backup, or a download that has not ended."""
    return name.startswith((".", "~")) or name.lower().endswith(("~", ".bak", ".tmp", ".part", ".crdownload", ".swp"))


def find(root: str, names: Sequence[str]) -> SourceFile | None:
    """The first of `names` that lies in the folder `root`, in an archive there, or in the archive `root`.

    A name stands for itself, packed or not, and for its other spellings in large and small letters.

    Args:
        root: path of a folder or of an archive, as the user wrote it.
        names: file names relative to the folder; members of archives may lie in any folder.
    Returns: the file, plain ones before archived ones; None when none of them is there.
    Raises: DataError when `root` is missing, or neither a folder nor an archive, or two files fit one name.
    """
    folder = expand_path(root)
    mode = _stat(folder).st_mode
    if stat.S_ISREG(mode) and is_archive(folder.name):
        return _find_member([folder], names)
    if not stat.S_ISDIR(mode):
        raise DataError(
            f"{folder} is not a folder",
            allowed=f"a folder, or an archive ({', '.join(ARCHIVE_SUFFIXES)})",
            fix="give the folder that holds the corpus",
        )
    folders: list[Path] = []
    for name in names:
        for path in _spellings(folder / name):
            if path.is_dir():
                folders.append(path)
                continue
            return plain_file(path)
    archives = sorted(entry for entry in folder.iterdir() if is_archive(entry.name) and not is_spare(entry.name))
    member = _find_member(archives, names)
    return plain_file(folders[0]) if member is None and folders else member


def _spellings(path: Path) -> Iterator[Path]:
    """Entries that `path` may stand for: itself, packed, or with letters of another case; broken links too.

    Raises: DataError when two entries differ from the name by the case of letters alone.
    """
    for ending in ("", *PACKED_ENDINGS):
        name = path.with_name(path.name + ending)
        if name.is_symlink() or name.exists():
            yield name
            return
    wanted = {(path.name + ending).lower() for ending in ("", *PACKED_ENDINGS)}
    others = _entries(path.parent, _modified(path.parent))
    fit = sorted(entry for entry in others if entry.lower() in wanted)
    if len(fit) > 1:
        raise two_files_fit([str(path.parent / entry) for entry in fit], path.name)
    yield from (path.parent / entry for entry in fit)


def two_files_fit(files: Sequence[str], name: str) -> DataError:
    """The refusal of files that might each be the one of that name."""
    return DataError(
        f"{len(files)} files may be {name}: {', '.join(files[:5])}",
        where=files[0],
        allowed="one of them",
        fix="keep one of them there, or say which by its whole name",
    )


def _modified(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=64)
def _entries(folder: Path, modified_ns: int) -> tuple[str, ...]:
    """Names in a folder, () where there is none; `modified_ns` is there to be part of the key."""
    try:
        return tuple(os.listdir(folder))
    except OSError:
        return ()


def plain_file(path: Path) -> SourceFile:
    """The regular file at `path`, or the member of an archive where a part of the path is one.

    Raises: DataError when it is missing, a folder, or no regular file (a pipe or device would block the reader).
    """
    inside = None if path.exists() or path.is_symlink() else _member_at(path)
    if inside is not None:
        return inside
    status = _stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path} is a folder", allowed="a file", fix="give the file inside the folder")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is a pipe or a device", allowed="a regular file", fix="save the rows to a file")
    return SourceFile(str(path), "", status.st_size, status.st_mtime_ns)


def existing_file(path: Path) -> SourceFile | None:
    """As `plain_file`; None where nothing is there."""
    if path.exists() or path.is_symlink():
        return plain_file(path)
    return _member_at(path)


def rows_file(path: Path) -> SourceFile | None:
    """As `existing_file`; of an archive its only file, beside what describes the corpus.

    Raises: DataError when several files in the archive may hold the rows.
    """
    file = existing_file(path)
    if file is None or file.member or not is_archive(file.path):
        return file
    members = [member for member in members_of(path) if not _DESCRIPTION.match(member.name)]
    if len(members) != 1:
        raise DataError(
            f"the archive holds {len(members)} files: {', '.join(member.member for member in members[:5])}",
            where=str(path),
            allowed="one file of rows",
            fix=f"say which: {path}/{members[0].member if members else 'NAME'}",
        )
    return members[0]


def members_of(path: Path) -> list[SourceFile]:
    """The regular files in the archive `path`, by name.

    Raises: DataError when it cannot be read.
    """
    file = plain_file(path)
    file.open().close()  # refuses a Git LFS pointer
    sizes = member_sizes(file.path, file.size, file.modified_ns)
    return [SourceFile(file.path, member, file.size, file.modified_ns) for member in sorted(sizes)]


def _member_at(path: Path) -> SourceFile | None:
    """What `path` names inside an archive, as in `corpus.zip/corpus.en-zh.en`; None where no part is an archive."""
    for part in path.parents:
        if is_archive(part.name) and part.is_file():
            wanted = path.relative_to(part).as_posix()
            return next((file for file in members_of(part) if file.member == wanted), None)
    return None


def clean(text: str) -> str:
    """`text` in Unicode normal form C without marks of byte order and direction, and without white space around it."""
    if text.isascii():
        return text.strip()
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).strip()


@lru_cache(maxsize=4096)
def digest(file: SourceFile) -> str:
    """SHA-256 of the bytes of `file`, in hex; remembered while size and time of change stay."""
    if isinstance(file, HubRevision):
        return file.path
    with file.open() as stream:
        try:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(file.path, error) from error


def digest_of(parts: Iterable[str]) -> str:
    """SHA-256 over texts in order, in hex."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _find_member(archives: Iterable[Path], names: Sequence[str]) -> SourceFile | None:
    for archive in archives:
        members = members_of(archive)
        for name in names:
            wanted = tuple(f"/{name}{ending}".lower() for ending in ("", *PACKED_ENDINGS))
            fit = [file for file in members if f"/{file.member}".lower().endswith(wanted)]
            depth = min((file.member.count("/") for file in fit), default=0)
            nearest = [file for file in fit if file.member.count("/") == depth]
            if len(nearest) > 1:
                raise two_files_fit([file.label for file in nearest], name)
            if nearest:
                return nearest[0]
    return None


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", fix="correct the path, or set AFP_DATA_DIR if it uses it") from error
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _unreadable(path: str, error: Exception) -> DataError:
    return DataError(f"cannot be read: {error}", where=path, fix="check the file, its permissions and its links")
