"""Streams the bytes, the text and the lines of a source file, plain or gzip, in bounded memory."""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from afp_ray.data.readers.files import MARK, SourceFile
from afp_ray.errors import DataError

MAX_LINE_BYTES = 1 << 20
"""A longer line is refused as `too_long`, and skipped without being held: no sentence has a mebibyte."""
_SKIPPED_BYTES = 1 << 18
_AGAIN = "fetch the file again: a part of it is missing"


@contextmanager
def open_unpacked(file: SourceFile) -> Iterator[IO[bytes]]:
    """The unpacked bytes of `file`; gzip is known by the ending `.gz`.

    Raises: DataError naming the byte at which a gzip file is cut off, or before which it cannot be read.
    """
    with file.open() as packed:
        try:
            if file.label.endswith(".gz"):
                with gzip.GzipFile(fileobj=packed) as unpacked:
                    yield unpacked  # type: ignore[misc]
            else:
                yield packed
        except EOFError as error:
            raise DataError(
                f"the gzip file is cut off at byte {packed.tell()}", where=file.label, fix=_AGAIN
            ) from error
        except (OSError, zlib.error) as error:
            raise DataError(
                f"cannot be read: {error}", where=f"{file.label}: before byte {packed.tell()}", fix="fetch it again"
            ) from error


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
                raise _not_utf8(error.object[error.start], f"{file.label}: after byte {offset}") from error
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
                raise _not_utf8(raw[error.start], f"{file.label}:{number}") from error
            line = line.removeprefix(MARK) if number == 1 else line
            is_empty = is_empty and not line.strip()
            yield line
    if is_empty:
        raise DataError("the file is empty", where=file.label, fix="give a file with at least one row")


def _skip_line(stream: IO[bytes]) -> None:
    while part := stream.readline(_SKIPPED_BYTES):
        if part.endswith(b"\n"):
            return


def _not_utf8(byte: int, where: str) -> DataError:
    return DataError(
        f"byte {byte:#04x} is not UTF-8 text",
        where=where,
        allowed="UTF-8, with or without a byte order mark",
        fix="convert the file, for instance with: iconv -f ENCODING -t UTF-8 old > new",
    )
