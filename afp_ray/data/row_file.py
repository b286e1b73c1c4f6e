"""One file of text rows that are read one by one from disk: written once, row after row, and never held in memory.

Layout: the rows, each as the byte lengths of its fields and the fields; where each row starts; columns of 64-bit
numbers; notes as JSON; a footer that says how long each part is.
"""

import hashlib
import json
import os
import shutil
import struct
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afp_ray.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGIC = b"afp-rows"
VERSION = 1
"""Part of the name of cached files: raise it when the readers or this layout change what a file would hold."""
BLOCK_ROWS = 4096
"""Rows that an iteration reads at once."""
CHUNK_NUMBERS = 1 << 20
"""Numbers of a column that are in memory at once."""
_FOOTER = struct.Struct("<QQQQQ8s")
_NUMBER = struct.Struct("<Q")


def text_number(text: str) -> int:
    """A 64-bit number that stands for `text`: two texts among ten million share one with a chance of 1 in 400,000."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class RowWriter:
    """Writes a row file; what is in memory at any time are a few write buffers.

    Args:
        path: file to write; it is replaced.
        num_fields: texts of a row.
        num_columns: 64-bit numbers of a row.
    """

    def __init__(self, path: Path, *, num_fields: int, num_columns: int) -> None:
        self.num_rows = 0
        self._data = path.open("wb")
        self._columns = [tempfile.TemporaryFile(dir=path.parent) for _ in range(num_columns + 1)]  # noqa: SIM115
        self._lengths = struct.Struct(f"<{num_fields}I")
        self._size = 0

    def append(self, fields: Sequence[str], numbers: Sequence[int] = ()) -> None:
        """Add one row."""
        parts = [text.encode() for text in fields]
        packed = self._lengths.pack(*map(len, parts)) + b"".join(parts)
        for column, number in zip(self._columns, (self._size, *numbers), strict=True):
            column.write(_NUMBER.pack(number))
        self._data.write(packed)
        self._size += len(packed)
        self.num_rows += 1

    def finish(self, notes: Mapping[str, Any]) -> None:
        """Write what stands behind the rows, and bring all of it to the disk."""
        self._columns[0].write(_NUMBER.pack(self._size))
        for column in self._columns:
            column.seek(0)
            shutil.copyfileobj(column, self._data)
        text = json.dumps(notes).encode()
        sizes = (self._size, self.num_rows, self._lengths.size // 4, len(self._columns) - 1, len(text))
        self._data.write(text + _FOOTER.pack(*sizes, MAGIC))
        self._data.flush()
        os.fsync(self._data.fileno())
        self.close()

    def close(self) -> None:
        """Give the files back; a file that was not finished is no row file."""
        for file in (self._data, *self._columns):
            file.close()


class RowFile:
    """A finished row file. Reading moves no file position, so that threads and forked processes may share it.

    Args:
        path: the file; it may be removed while this object lives.
    Raises: ValueError when it is no whole row file; OSError when the system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._fd)
        size = os.fstat(self._fd).st_size
        footer = os.pread(self._fd, _FOOTER.size, max(0, size - _FOOTER.size))
        if len(footer) < _FOOTER.size:
            raise ValueError(f"{path} is no row file")
        self._size, self._num_rows, num_fields, num_columns, num_notes, magic = _FOOTER.unpack(footer)
        numbers = (self._num_rows + 1 + num_columns * self._num_rows) * _NUMBER.size
        if magic != MAGIC or size != self._size + numbers + num_notes + _FOOTER.size:
            raise ValueError(f"{path} is no row file")
        self._lengths = struct.Struct(f"<{num_fields}I")
        self.notes: dict[str, Any] = json.loads(self._read(num_notes, self._size + numbers))

    def __len__(self) -> int:
        return int(self._num_rows)

    def __reduce__(self) -> "tuple[type[RowFile], tuple[Path]]":
        """Another process opens the file for itself."""
        return RowFile, (self.path,)

    def fields(self, index: int) -> tuple[str, ...]:
        """The texts of row `index`, 0 or more and below the number of rows."""
        start, end = struct.unpack("<QQ", self._read(16, self._size + index * _NUMBER.size))
        return self._unpack(self._read(end - start, start), 0)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        """The texts of all rows, a block of them read at a time."""
        for first in range(0, self._num_rows, BLOCK_ROWS):
            count = min(BLOCK_ROWS, self._num_rows - first)
            offsets = self._read((count + 1) * _NUMBER.size, self._size + first * _NUMBER.size)
            starts = struct.unpack(f"<{count + 1}Q", offsets)
            block = self._read(starts[-1] - starts[0], starts[0])
            yield from (self._unpack(block, start - starts[0]) for start in starts[:-1])

    def column(self, number: int, start: int = 0, stop: int | None = None) -> "NDArray[np.uint64]":
        """Numbers of column `number` for the rows from `start` to `stop` (all by default)."""
        import numpy as np

        stop = self._num_rows if stop is None else min(stop, self._num_rows)
        offset = self._size + (self._num_rows + 1 + number * self._num_rows + start) * _NUMBER.size
        return np.frombuffer(self._read(max(0, stop - start) * _NUMBER.size, offset), dtype="<u8")

    def _unpack(self, block: bytes, start: int) -> tuple[str, ...]:
        offset = start + self._lengths.size
        texts = []
        for length in self._lengths.unpack_from(block, start):
            texts.append(block[offset : offset + length].decode())
            offset += length
        return tuple(texts)

    def _read(self, size: int, place: int) -> bytes:
        data = os.pread(self._fd, size, place)
        while len(data) < size:  # the system reads at most 2 GiB at once
            more = os.pread(self._fd, size - len(data), place + len(data))
            if not more:
                raise DataError("the rows end early", where=str(self.path), fix="remove this file; it is made again")
            data += more
        return data


def first_rows(columns: Sequence[Sequence["NumberColumn"]]) -> "list[NDArray[np.uint32] | None]":
    """Which rows come first with their numbers, over several files in order.

    Args:
        columns: of each file, the columns whose numbers together name a row.
    Returns: of each file, the rows to keep in order; None where that is all of them. Beside it, memory holds one byte
        a row and the numbers of a few million rows.
    """
    import numpy as np

    sizes = [len(held[0]) for held in columns]
    starts = np.cumsum([0, *sizes])
    is_first = np.ones(int(starts[-1]), dtype=bool)
    parts = np.uint64(max(1, int(starts[-1]) // CHUNK_NUMBERS))
    for part in range(int(parts)):
        keys, rows = [], []
        for first, held, size in zip(starts, columns, sizes, strict=False):
            for start in range(0, size, CHUNK_NUMBERS):
                numbers = _combined([column(start, start + CHUNK_NUMBERS) for column in held])
                offsets = np.flatnonzero(numbers % parts == part)
                keys.append(numbers[offsets])
                rows.append(offsets + (start + int(first)))
        numbers_of_part = np.concatenate(keys) if keys else np.empty(0, dtype=np.uint64)
        order = np.argsort(numbers_of_part, kind="stable")
        repeats = order[1:][numbers_of_part[order[1:]] == numbers_of_part[order[:-1]]]
        if len(repeats):
            is_first[np.concatenate(rows)[repeats]] = False
    masks = [is_first[start:end] for start, end in pairwise(starts)]
    return [None if mask.all() else np.flatnonzero(mask).astype(np.uint32) for mask in masks]


class NumberColumn:
    """A column of numbers that is read in pieces.

    Args:
        file: row file, or the numbers themselves.
        number: which column of the file.
    """

    def __init__(self, file: "RowFile | NDArray[np.uint64]", number: int = 0) -> None:
        self._file, self._number = file, number

    def __len__(self) -> int:
        return len(self._file)

    def __call__(self, start: int, stop: int) -> "NDArray[np.uint64]":
        """The numbers of the rows from `start` to `stop`."""
        if isinstance(self._file, RowFile):
            return self._file.column(self._number, start, stop)
        return self._file[start:stop]


def _combined(columns: Sequence["NDArray[np.uint64]"]) -> "NDArray[np.uint64]":
    """One number for the numbers of a row; which column each stands in matters."""
    import numpy as np

    combined = columns[0]
    for column in columns[1:]:
        combined = combined * np.uint64(0x9E3779B97F4A7C15) + column
    return combined


def numbers_of(texts: Iterable[str]) -> "NDArray[np.uint64]":
    """`text_number` of each of `texts`."""
    import numpy as np

    return np.fromiter((text_number(text) for text in texts), dtype=np.uint64)
