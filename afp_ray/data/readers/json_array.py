"""Streams the objects of a JSON array, or of JSON one after the other, holding one chunk and one object in memory."""

import json
import re
from collections.abc import Iterator
from typing import Any

from afp_ray.data.readers.files import SourceFile
from afp_ray.data.readers.streams import read_texts
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


def read_sequence(file: SourceFile) -> Iterator[dict[str, Any]]:
    """The objects that stand one after the other in `file`, on any number of lines each.

    Raises: DataError as `read_array`.
    """
    window = _Window(file)
    number = 0
    while window.peek():
        number += 1
        yield window.record(number)


class _Window:
    """The part of the text that is not parsed yet."""

    def __init__(self, file: SourceFile) -> None:
        self.text, self.start, self.num_bytes = "", 0, 0
        self._label = file.label
        self._chunks = read_texts(file, CHUNK_BYTES)
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
        for chunk, num_bytes in self._chunks:
            parts.append(chunk)
            added += len(chunk)
            self.num_bytes = num_bytes
            if added >= num_chars:
                break
        self.text, self.start = "".join(parts), 0
        return added > 0
