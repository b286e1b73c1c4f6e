"""One Arrow file of tokenised rows: written chunk by chunk, mapped into memory, never trusted unless it is whole.

Each chunk is a record batch. The last batch is empty and carries the number of rows and a checksum, so that a file that
was cut off or changed anywhere is told from a whole one. The schema names the content.
"""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from afp_ray.data.tokens import KEY_BYTES, Chunk, Ragged

_CONTENT, _ROWS, _CHECKSUM = b"afp_content", b"afp_rows", b"afp_checksum"


class TokenFileWriter:
    """Writes a token file; what is in memory at any time is one chunk.

    Args:
        path: a new file.
        content: names what is in it.
    Raises: OSError when the system refuses, as all methods do.
    """

    def __init__(self, path: Path, content: str) -> None:
        self._file = path.open("xb")
        self._content = content
        self._writer: Any = None
        self._num_rows = self._checksum = 0

    def append(self, chunk: Chunk) -> None:
        """Add the rows of `chunk`, which has the columns of those before."""
        batch = _batch(chunk).replace_schema_metadata({_CONTENT: self._content.encode()})
        if self._writer is None:
            self._writer = pa.ipc.new_file(self._file, batch.schema)
        self._writer.write_batch(batch)
        self._last = batch
        self._num_rows += batch.num_rows
        self._checksum = _checksum(chunk, self._checksum)

    def finish(self) -> None:
        """Write the last batch and bring all of it to the disk; at least one chunk must be there."""
        note = {_ROWS: str(self._num_rows), _CHECKSUM: str(self._checksum)}
        self._writer.write_batch(self._last.slice(0, 0), custom_metadata=note)
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        """Give the file back; one that was not finished is no token file."""
        self._file.close()


def read_token_file(path: Path, content: str) -> list[Chunk] | None:
    """The chunks of a token file as views of the mapped file; it may be removed while they live.

    Args:
        path: the file.
        content: what it must hold.
    Returns: None when there is no such file, when it is not whole, or when it holds something else.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if (reader.schema.metadata or {}).get(_CONTENT) != content.encode():
            return None
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches - 1)]
        _, note = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
        for batch in batches:
            batch.validate()  # that each buffer is as long as its column says
        chunks = [_chunk(batch) for batch in batches]
    except (OSError, ValueError, pa.ArrowException):
        return None
    checksum = 0
    for chunk in chunks:
        checksum = _checksum(chunk, checksum)
    held = {_ROWS: str(sum(batch.num_rows for batch in batches)).encode(), _CHECKSUM: str(checksum).encode()}
    return chunks if chunks and note is not None and dict(note) == held else None


def _batch(chunk: Chunk) -> Any:
    """The record batch that holds `chunk`; its buffers are those of `chunk`."""
    columns: dict[str, Any] = {}
    for name, column in chunk.items():
        if isinstance(column, Ragged):
            columns[name] = pa.ListArray.from_arrays(pa.array(column.offsets), pa.array(column.ids))
        elif column.dtype == np.int32:
            columns[name] = pa.array(column)
        else:
            buffers = [None, pa.py_buffer(column.tobytes())]
            columns[name] = pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), len(column), buffers)
    return pa.RecordBatch.from_pydict(columns)


def _chunk(batch: Any) -> Chunk:
    """The chunk that `batch` holds; its arrays are the buffers of `batch`."""
    columns: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if isinstance(column, pa.ListArray):
            columns[name] = Ragged(column.values.to_numpy(), column.offsets.to_numpy())
        elif isinstance(column, pa.Int32Array):
            columns[name] = column.to_numpy()
        else:
            columns[name] = np.frombuffer(column.buffers()[1], dtype=f"V{KEY_BYTES}", count=len(column))
    return columns


def _checksum(chunk: Chunk, before: int) -> int:
    """CRC-32 of the columns of `chunk` and their names, going on from `before`."""
    for name, column in chunk.items():
        before = zlib.crc32(name.encode(), before)
        arrays: Sequence[Any] = column if isinstance(column, Ragged) else (column,)
        for array in arrays:
            before = zlib.crc32(array.view(np.uint8), before)
    return before
