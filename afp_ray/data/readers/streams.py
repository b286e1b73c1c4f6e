"""Streams the bytes, the text and the lines of a source file, plain or packed, in bounded memory."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from afp_ray.data.readers.archives import is_zip, member_sizes
from afp_ray.data.readers.files import MARK, PACKED_ENDINGS, SourceFile
from afp_ray.errors import ConfigError, DataError

MAX_LINE_BYTES = 1 << 20
"""A longer line is refused as `too_long`, and skipped without being held: no sentence has a mebibyte."""
MAX_RATIO = 100
"""A file that unpacks to more than so many times its size is refused: text packs to a tenth, hardly ever to less."""
FREE_BYTES = 1 << 23
"""What every file may unpack to, however small it is."""
_BUFFER_BYTES = 1 << 18
_SKIPPED_BYTES = 1 << 18
_AGAIN = "fetch the file again: a part of it is missing"
_MARKS = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
_NAMES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
_HTML = (b"<!doctype html", b"<html")


@contextmanager
def open_unpacked(file: SourceFile) -> Iterator[IO[bytes]]:
    """The unpacked bytes of `file`; how it is packed is known by its first bytes.

    Raises: DataError naming the byte at which a packed file is cut off, or before which it cannot be read; when a
        file is not packed as its name says; or when it unpacks to more than `$AFP_MAX_UNPACK_RATIO` times its size.
    """
    with file.open() as packed:
        form = _packing(file, packed)
        try:
            inner = _unpacking(form, packed)
            # Opened here and not closed: what is wrapped belongs to `packed`, and goes with it.
            yield (
                packed
                if inner is packed and not file.member
                else io.BufferedReader(_Limited(file, inner), _BUFFER_BYTES)
            )
        except EOFError as error:
            raise _cut_off(file, form, packed) from error
        except (OSError, zlib.error, lzma.LZMAError) as error:
            if _is_cut_off(error):
                raise _cut_off(file, form, packed) from error
            raise DataError(
                f"cannot be read: {error}", where=f"{file.label}: before byte {packed.tell()}", fix="fetch it again"
            ) from error


def unpacked_bytes(file: SourceFile, most: int) -> int:
    """Bytes that `file` unpacks to, counted up to a little more than `most`.

    Raises: DataError as `open_unpacked`.
    """
    count = 0
    with open_unpacked(file) as stream:
        while count <= most and (part := stream.read(_BUFFER_BYTES)):
            count += len(part)
    return count


def is_packed(file: SourceFile) -> bool:
    """Whether the first bytes or the name say that `file` is packed."""
    with file.open() as stream:
        return bool(_by_bytes(stream)) or file.label.lower().endswith(PACKED_ENDINGS)


def _packing(file: SourceFile, stream: io.BufferedReader) -> str:
    """The ending of the form in which `file` is packed, "" for a plain file.

    Raises: DataError when its name says that it is packed, and it is not.
    """
    form = _by_bytes(stream)
    named = next((ending for ending in PACKED_ENDINGS if file.label.lower().endswith(ending)), "")
    head = stream.peek(64)[:64]
    if head.lower().lstrip().startswith(_HTML) and not file.ending.startswith(".htm"):
        raise DataError(
            "a page of HTML, not the file itself",
            where=file.label,
            fix="fetch the file again: the server answered with a page of its own",
        )
    if named and not form and head:
        raise DataError(
            f"plain text named {named}" if b"\0" not in head else f"named {named}, and not {_NAMES[named]}",
            where=file.label,
            allowed=f"{_NAMES[named]} data under that name",
            fix=f"rename it: mv {file.label} {file.label[: -len(named)]}",
        )
    return form


def _by_bytes(stream: io.BufferedReader) -> str:
    head = stream.peek(10)[:10]
    ending = next((form for mark, form in _MARKS.items() if head.startswith(mark)), "")
    # Three letters may begin a text as well; a packed block begins with the digits of pi.
    return "" if ending == ".bz2" and head[4:] not in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90") else ending


def _unpacking(form: str, packed: io.BufferedReader) -> IO[bytes]:
    if form == ".gz":
        return gzip.GzipFile(fileobj=packed)  # type: ignore[return-value]
    if form == ".bz2":
        return bz2.BZ2File(packed)
    if form == ".xz":
        return lzma.LZMAFile(packed)
    if form == ".zst":
        # Imported here: whoever reads no such file starts without it.
        import pyarrow as pa

        stream: IO[bytes] = pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), "zstd")
        return stream
    return packed


class _Limited(io.RawIOBase):
    """Passes on what a file unpacks to, up to a limit that its size allows."""

    def __init__(self, file: SourceFile, stream: IO[bytes]) -> None:
        super().__init__()
        self._file, self._stream, self._count = file, stream, 0
        self._size = file.size
        if file.member and is_zip(file.path):
            self._size = member_sizes(file.path, file.size, file.modified_ns)[file.member][1]
        self._most = max(FREE_BYTES, _max_ratio() * self._size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        self._count += len(data)
        if self._count > self._most:
            raise DataError(
                f"the file unpacks to more than {self._most / self._size:.0f} times its {self._size} bytes",
                where=self._file.label,
                allowed=f"{_max_ratio()} times, or {FREE_BYTES} bytes, whichever is more",
                fix="fetch it again; if all of it is wanted, allow more: export AFP_MAX_UNPACK_RATIO=2000",
            )
        buffer[: len(data)] = data
        return len(data)


def _max_ratio() -> int:
    """How many times its size a file may unpack to.

    Raises: ConfigError for a bad `$AFP_MAX_UNPACK_RATIO`.
    """
    value = os.environ.get("AFP_MAX_UNPACK_RATIO", "").strip()
    if value and not (value.isascii() and value.isdigit() and int(value) > 0):
        raise ConfigError(
            f"AFP_MAX_UNPACK_RATIO is {value!r}",
            allowed="a whole number from 1 on",
            fix=f"set it to how many times its size a file may unpack to; {MAX_RATIO} without it",
        )
    return int(value) if value else MAX_RATIO


def _is_cut_off(error: Exception) -> bool:
    return "Truncated" in str(error) or "ended before" in str(error)


def _cut_off(file: SourceFile, form: str, packed: IO[bytes]) -> DataError:
    return DataError(
        f"the {_NAMES.get(form, 'packed')} file is cut off at byte {packed.tell()}", where=file.label, fix=_AGAIN
    )


def read_text(file: SourceFile) -> str:
    """The content of `file` as text, without a byte order mark.

    Raises: DataError with file and line when it is not UTF-8, or too large to be read whole.
    """
    with open_unpacked(file) as stream:
        data = file.read_unpacked(stream)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise not_utf8(data, error.start, f"{file.label}:{line}") from error
    if "\0" in text:
        raise not_utf8(data, data.index(b"\0"), f"{file.label}:{text.count(chr(10), 0, text.index(chr(0))) + 1}")
    return text


def read_lines(file: SourceFile) -> list[str]:
    """Lines of `file`; only a line feed ends a line, since other separators occur inside sentences.

    The carriage return of a Windows line end stays; `clean` takes it off.

    Raises: DataError when it is not UTF-8, or holds no line.
    """
    text = read_text(file)
    if not text.strip():
        raise DataError("the file is empty", where=file.label, fix="give a file with at least one row")
    return text.removesuffix("\n").split("\n")


def numbered_lines(file: SourceFile) -> Iterator[tuple[int, str]]:
    """The lines of `read_lines`, from 1, where a line that is too long cannot be left out.

    Raises: DataError as `read_lines`, and for a line that is longer than `MAX_LINE_BYTES`.
    """
    for number, line in enumerate(read_lines(file), start=1):
        if len(line) > MAX_LINE_BYTES // 4 and len(line.encode()) > MAX_LINE_BYTES:
            raise DataError(
                f"the line is longer than {MAX_LINE_BYTES} bytes",
                where=f"{file.label}:{number}",
                allowed="a row a line",
                fix="restore the line ends of the file",
            )
        yield number, line


def read_texts(file: SourceFile, chunk_bytes: int) -> Iterator[tuple[str, int]]:
    """Parts of the text of `file`, none of them empty, without a byte order mark; beside each the bytes read so far.

    Raises: DataError as `open_unpacked`, and when a part is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    offset = 0
    with open_unpacked(file) as stream:
        while True:
            data = stream.read(chunk_bytes)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise not_utf8(error.object, error.start, f"{file.label}: after byte {offset}") from error
            offset += len(data)
            if text:
                yield text, offset
            if not data:
                return


def stream_lines(file: SourceFile) -> Iterator[str | None]:
    """Lines of `file`, None for one that is longer than `MAX_LINE_BYTES`; only a line feed ends a line.

    The carriage return of a Windows line end stays; `clean` takes it off.

    Raises: DataError as `open_unpacked`, when a line is not UTF-8, or after the last line when all were empty.
    """
    is_empty = True
    with open_unpacked(file) as stream:
        number = 0
        while raw := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                _skip_line(stream)
                is_empty = False
                yield None
                continue
            try:
                line = raw.decode().removesuffix("\n")
            except UnicodeDecodeError as error:
                raise not_utf8(raw, error.start, f"{file.label}:{number}") from error
            line = line.removeprefix(MARK) if number == 1 else line
            is_empty = is_empty and not line.strip()
            yield line
    if is_empty:
        raise DataError("the file is empty", where=file.label, fix="give a file with at least one row")


def _skip_line(stream: IO[bytes]) -> None:
    while part := stream.readline(_SKIPPED_BYTES):
        if part.endswith(b"\n"):
            return


def not_utf8(data: bytes, place: int, where: str) -> DataError:
    """The refusal of bytes that are no text: `data[place]` is the first of them."""
    is_utf16 = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or data[place] == 0
    return DataError(
        f"byte {data[place]:#04x} is not UTF-8 text" + ("; it looks like UTF-16" if is_utf16 else ""),
        where=where,
        allowed="UTF-8, with or without a byte order mark",
        fix=f"convert the file, for instance with: iconv -f {'UTF-16' if is_utf16 else 'ENCODING'} -t UTF-8 old > new",
    )
