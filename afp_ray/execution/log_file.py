"""A trial's log: what is printed is appended to one file, whose middle is left out once it has grown too long."""

import fcntl
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from afp_ray.redaction import RedactedText

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_BYTES = 10 * 2**20
_HEAD_BYTES = MAX_BYTES // 2
_TAIL_BYTES = MAX_BYTES // 4
_CHECK_BYTES = 2**16
_MARK = b"\n[... %12d bytes left out ...]\n"


class _CappedFile(io.RawIOBase):
    """Appends; from `MAX_BYTES` on, what lies between the first half and the last quarter of them goes.

    Workers of a group append to the same file; one of them shortens it at a time.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._unchecked = _CHECK_BYTES

    def writable(self) -> bool:
        return True

    def write(self, data: "Buffer", /) -> int:
        number = os.write(self._handle, data)
        self._unchecked += number
        if self._unchecked >= _CHECK_BYTES:
            self._unchecked = 0
            if os.fstat(self._handle).st_size > MAX_BYTES:
                self._shorten()
        return number

    def _shorten(self) -> None:
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        try:
            size = os.fstat(self._handle).st_size
            if size <= MAX_BYTES:
                return
            length = len(_MARK % 0)
            found = os.pread(self._handle, length, _HEAD_BYTES)
            words = found.split()
            before = int(words[1]) if found.startswith(b"\n[... ") and found.endswith(b" bytes left out ...]\n") else 0
            tail = os.pread(self._handle, _TAIL_BYTES, size - _TAIL_BYTES)
            left_out = before + size - _HEAD_BYTES - len(tail) - (length if before else 0)
            os.ftruncate(self._handle, _HEAD_BYTES)
            os.write(self._handle, (_MARK % left_out) + tail)
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        if not self.closed:
            os.close(self._handle)
        super().close()


def open_log(path: Path) -> io.TextIOWrapper:
    """Open a log to append to, line by line; it never holds much more than `MAX_BYTES`, its beginning and its end.

    No secret is written that a text shows or that this process knows.
    """
    raw = io.BufferedWriter(_CappedFile(path))
    return RedactedText(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
