"""Streams the objects of a JSON array, plain or gzip, holding one object in memory at a time."""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from typing import IO, Any

from afp_ray.data.readers.files import SourceFile
from afp_ray.errors import DataError

CHUNK_BYTES = 1 << 18
MAX_RECORD_CHARS = 1 << 24
"""An object longer than this is refused: a missing brace would otherwise take the whole file into memory."""

_SPACE = re.compile(r"[ \t\r\n]*")
_FIX = "give the file as it was released: one JSON array of objects"


def read_array(file: SourceFile) -> Iterator[dict[str, Any]]:
    """The objects of the array that `file` holds, in order.

    Raises: DataError with record or byte when the file is no JSON array of objects, ends early, or is not UTF-8.
    """
    window = _Window(file)
    if window.peek() != "[":
        raise DataError("the file is no JSON array", where=file.label, allowed="[{...}, {...}]", fix=_FIX)
    window.start += 1
    number = 0
    mark = window.peek()
    if mark == "]":
        window.start += 1
    while mark != "]":
        number += 1
        yield window.record(number)
        mark = window.peek()
        window.start += 1
        if not mark:
            raise DataError(
                f"the file ends after record {number}, inside the array",
                where=f"{file.label}: byte {window.num_bytes}",
                fix="fetch the file again: a part of it is missing",
            )
        if mark not in ",]":
            raise DataError(f"no comma after record {number}, but {mark!r}", where=file.label, fix=_FIX)
    if window.peek():
        raise DataError(f"text after the end of the array: {window.peek()!r}", where=file.label, fix=_FIX)


class _Window:
    """The part of the text that is not parsed yet."""

    def __init__(self, file: SourceFile) -> None:
        self.text, self.start, self.num_bytes = "", 0, 0
        self._label = file.label
        self._chunks = _texts(file)
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no white space, which `start` then points to; "" at the end of the file."""
        while True:
            space = _SPACE.match(self.text, self.start)
            self.start = space.end() if space else self.start
            if self.start < len(self.text):
                return self.text[self.start]
            if not self._grow(1):
                return ""

    def record(self, number: int) -> dict[str, Any]:
        """The object at `start`, of which the window may hold a part only."""
        if self.peek() != "{":
            raise DataError(f"record {number} is no JSON object", where=self._label, fix=_FIX)
        while True:
            try:
                value, self.start = self._decoder.raw_decode(self.text, self.start)
            except RecursionError as error:
                raise DataError(f"record {number} is nested too deeply", where=self._label, fix=_FIX) from error
            except json.JSONDecodeError as error:
                # Doubling what is held keeps the work of all attempts at one object linear in its length.
                held = len(self.text) - self.start
                if held > MAX_RECORD_CHARS or not self._grow(held):
                    raise DataError(
                        f"record {number} is no JSON, or the file ends inside it: {error.msg}",
                        where=f"{self._label}: before byte {self.num_bytes}",
                        fix=_FIX,
                    ) from error
            else:
                record: dict[str, Any] = value
                return record

    def _grow(self, num_chars: int) -> bool:
        """Drop what is parsed and read at least `num_chars` more; False at the end of the file."""
        parts, added = [self.text[self.start :]], 0
        for chunk in self._chunks:
            parts.append(chunk)
            added += len(chunk)
            self.num_bytes += len(chunk.encode())
            if added >= num_chars:
                break
        self.text, self.start = "".join(parts), 0
        return added > 0


def _texts(file: SourceFile) -> Iterator[str]:
    """Parts of the text of `file`, none of them empty, without a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    offset = 0
    for data in _chunks(file):
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise DataError(
                f"byte {error.object[error.start]:#04x} is not UTF-8 text",
                where=f"{file.label}: after byte {offset}",
                allowed="UTF-8",
                fix="convert the file, for instance with: iconv -f ENCODING -t UTF-8 old > new",
            ) from error
        offset += len(data)
        if text:
            yield text


def _chunks(file: SourceFile) -> Iterator[bytes]:
    """Parts of the unpacked bytes of `file`; the last one is empty."""
    with file.open() as packed:
        try:
            if file.label.endswith(".gz"):
                with gzip.GzipFile(fileobj=packed) as unpacked:
                    yield from _parts(unpacked)
            else:
                yield from _parts(packed)
        except EOFError as error:
            raise DataError(
                f"the gzip file is cut off at byte {packed.tell()}",
                where=file.label,
                fix="fetch the file again: a part of it is missing",
            ) from error
        except (OSError, zlib.error) as error:
            raise DataError(
                f"cannot be read: {error}", where=f"{file.label}: before byte {packed.tell()}", fix="fetch it again"
            ) from error


def _parts(stream: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    part = stream.read(CHUNK_BYTES)
    while part:
        yield part
        part = stream.read(CHUNK_BYTES)
    yield part
