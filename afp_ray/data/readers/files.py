"""Finds the files of a source, plain or inside a tar archive, and reads them as clean lines of text."""

import hashlib
import io
import lzma
import os
import re
import stat
import tarfile
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from afp_ray.errors import DataError

ARCHIVE_SUFFIXES = (".tar", ".tar.xz", ".tar.gz", ".tar.bz2", ".tgz")
MAX_ARCHIVE_BYTES = 1 << 26
"""Archives are read whole; one that unpacks to more is refused, since it may be made to fill the memory."""
MAX_WHOLE_BYTES = 1 << 27
"""Plain files that are read whole are refused above this; corpora of any size are streamed instead."""
MARK = "\ufeff"
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

    def read(self) -> bytes:
        """The bytes of the file.

        Raises: DataError when the system refuses.
        """
        if self.member:
            return _members(self.path, self.size, self.modified_ns)[self.member]
        if self.size > MAX_WHOLE_BYTES:
            raise DataError(
                f"the file has {self.size} bytes, and this layout is read whole",
                where=self.path,
                allowed=f"at most {MAX_WHOLE_BYTES} bytes",
                fix="split the file, or give the rows as tsv, jsonl or datasets, which are streamed",
            )
        try:
            return Path(self.path).read_bytes()
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def open(self) -> IO[bytes]:
        """The bytes of the file as a stream, so that a large file is never held whole.

        Raises: DataError when the system refuses.
        """
        if self.member:
            return io.BytesIO(self.read())
        try:
            return Path(self.path).open("rb")
        except OSError as error:
            raise _unreadable(self.path, error) from error


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


def find(root: str, names: Sequence[str]) -> SourceFile | None:
    """The first of `names` that lies in the folder `root`, in an archive there, or in the archive `root`.

    Args:
        root: path of a folder or of an archive, as the user wrote it.
        names: file names relative to the folder; members of archives may lie in any folder.
    Returns: the file, plain ones before archived ones; None when none of them is there.
    Raises: DataError when `root` is missing, or neither a folder nor an archive.
    """
    folder = expand_path(root)
    mode = _stat(folder).st_mode
    if stat.S_ISREG(mode) and folder.name.endswith(ARCHIVE_SUFFIXES):
        return _find_member([folder], names)
    if not stat.S_ISDIR(mode):
        raise DataError(
            f"{folder} is not a folder",
            allowed=f"a folder, or an archive ({', '.join(ARCHIVE_SUFFIXES)})",
            fix="give the folder that holds the corpus",
        )
    for name in names:
        if (folder / name).exists():
            return plain_file(folder / name)
    archives = sorted(entry for entry in folder.iterdir() if entry.name.endswith(ARCHIVE_SUFFIXES))
    return _find_member(archives, names)


def plain_file(path: Path) -> SourceFile:
    """The regular file at `path`.

    Raises: DataError when it is missing, a folder, or no regular file (a pipe or device would block the reader).
    """
    status = _stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path} is a folder", allowed="a file", fix="give the file inside the folder")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is a pipe or a device", allowed="a regular file", fix="save the rows to a file")
    return SourceFile(str(path), "", status.st_size, status.st_mtime_ns)


def read_text(file: SourceFile) -> str:
    """The content of `file` as text, without a byte order mark.

    Raises: DataError with file and line when it is not UTF-8.
    """
    data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"byte {data[error.start]:#04x} is not UTF-8 text",
            where=f"{file.label}:{line}",
            allowed="UTF-8, with or without a byte order mark",
            fix="convert the file, for instance with: iconv -f ENCODING -t UTF-8 old > new",
        ) from error


def read_lines(file: SourceFile) -> list[str]:
    """Lines of `file`; only a line feed ends a line, since other separators occur inside sentences.

    The carriage return of a Windows line end stays; `clean` takes it off.

    Raises: DataError when it is not UTF-8, or holds no line.
    """
    text = read_text(file)
    if not text.strip():
        raise DataError("the file is empty", where=file.label, fix="give a file with at least one row")
    return text.removesuffix("\n").split("\n")


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
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        except OSError as error:
            raise _unreadable(file.path, error) from error


def digest_of(parts: Iterable[str]) -> str:
    """SHA-256 over texts in order, in hex."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _find_member(archives: Iterable[Path], names: Sequence[str]) -> SourceFile | None:
    for archive in archives:
        file = plain_file(archive)
        members = _members(file.path, file.size, file.modified_ns)
        for name in names:
            for member in members:
                if f"/{member}".endswith(f"/{name}"):
                    return SourceFile(file.path, member, file.size, file.modified_ns)
    return None


@lru_cache(maxsize=2)
def _members(path: str, size: int, modified_ns: int) -> dict[str, bytes]:
    """Regular files of an archive by name; `size` and `modified_ns` are there to be part of the key."""
    members: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(path) as archive:
            for entry in archive:
                total += entry.size
                if total > MAX_ARCHIVE_BYTES:
                    raise DataError(
                        f"the archive unpacks to more than {MAX_ARCHIVE_BYTES} bytes",
                        where=path,
                        fix="unpack it and give the folder",
                    )
                content = archive.extractfile(entry) if entry.isfile() else None
                if content is not None:
                    members[entry.name.removeprefix("./")] = content.read()
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise _unreadable(path, error) from error
    return members


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", fix="correct the path, or set AFP_DATA_DIR if it uses it") from error
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _unreadable(path: str, error: Exception) -> DataError:
    return DataError(f"cannot be read: {error}", where=path, fix="check the file, its permissions and its links")
