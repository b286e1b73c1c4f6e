"""The lease that keeps a ledger to one writer: a locked file, a token that fences out a writer that lost it.

The lock of the kernel is the truth between processes of one machine: it ends with its process, so that a dead driver's
lease is free and a paused one's is not. A network disk may not carry the lock to another machine; there the lease
counts as held while its file is renewed, which the machine that wants it times with its own monotonic clock, never by
comparing clocks. What `Lease.take` does:

    the lock is held                                      refused
    it is free, and the file is empty                     taken: it is new, or was given back
    it is free, the file names this start of the machine  taken: its driver is dead
    it is free, it names this host before a restart       taken: its driver is dead
    it is free, it names another machine                  watched: refused once the file changes, else taken

A lease of another machine can expire while its driver merely sleeps. So each taker writes a new token into the file,
and a driver that finds another token there writes no more (fencing). A sleep between that check and the write is left;
events carry the token of their driver, and replay drops those of a driver that was replaced.
"""

import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

from afp_ray.config import canonical_json
from afp_ray.errors import StudyLockedError
from afp_ray.store import StudyPaths

logger = logging.getLogger(__name__)

RENEW_S = 5.0
"""Seconds between two renewals."""
EXPIRY_S = 20.0
"""Seconds without a renewal after which another machine may take the lease."""
_LOCK_TRIES = 5
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Lease:
    """The right to write one study's ledger; `take` it, `check` it before every write, `release` it."""

    def __init__(self, paths: StudyPaths, handle: int) -> None:
        self.token = secrets.token_hex(4)
        self._paths, self._handle = paths, handle
        self._content = canonical_json({**_ourselves(), "time": time.time(), "token": self.token}).encode() + b"\n"
        self._released = threading.Event()
        os.ftruncate(handle, 0)  # in place: a file renamed over it would be one that nobody has locked
        os.pwrite(handle, self._content, 0)
        os.fsync(handle)

    @classmethod
    def take(cls, paths: StudyPaths, *, expiry_s: float = EXPIRY_S, renew_s: float = RENEW_S) -> "Lease":
        """Lock `driver.lease` and write who holds it.

        Args:
            paths: the study; its folder exists.
            expiry_s: seconds that a lease of another machine is watched before it counts as left behind.
            renew_s: seconds between renewals; renewing ends with `release`.
        Raises: StudyLockedError naming pid and host of the holder.
        """
        handle = os.open(paths.lease, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not _lock(handle) or not _is_same_file(handle, paths.lease):
                raise _held(paths, handle, "is already being driven")
            if _is_elsewhere(_content_of(handle)) and _is_renewed(handle, paths, within_s=expiry_s):
                raise _held(paths, handle, "is already being driven")
            lease = cls(paths, handle)
        except BaseException:
            os.close(handle)
            raise
        threading.Thread(target=lease._renew, args=(renew_s,), name="afp-lease", daemon=True).start()
        return lease

    @property
    def is_ours(self) -> bool:
        """Whether nobody else has taken the lease: the file is the one we locked, and says what we wrote."""
        if self._released.is_set() or not _is_same_file(self._handle, self._paths.lease):
            return False
        return os.pread(self._handle, len(self._content) + 1, 0) == self._content

    def check(self) -> None:
        """Nothing when the lease is ours.

        Raises: StudyLockedError when it was lost, as after a long pause, with who has it now.
        """
        if not self.is_ours:
            raise self.lost()

    def lost(self) -> StudyLockedError:
        """The error of a driver whose study was taken over."""
        try:
            with self._paths.lease.open("rb") as file:
                return _held(
                    self._paths, file.fileno(), f"was taken from this driver (pid {os.getpid()}) and is driven"
                )
        except OSError:
            return StudyLockedError(
                f"study {self._paths.name} was taken from this driver (pid {os.getpid()}): "
                "the file of its lease is gone",
                self._paths.name,
            )

    def release(self) -> None:
        """Give the lease back; one that was lost is left alone."""
        if self._released.is_set():
            return
        is_ours = self.is_ours
        self._released.set()
        if is_ours:
            os.ftruncate(self._handle, 0)
        os.close(self._handle)

    def _renew(self, period_s: float) -> None:
        """Touch the file now and then, which machines see that do not see the lock."""
        while not self._released.wait(period_s):
            try:
                if self.is_ours:
                    os.utime(self._paths.lease)
            except OSError as error:
                if not self._released.is_set():
                    logger.warning("the lease of study %s could not be renewed: %s", self._paths.name, error)


def holder(paths: StudyPaths) -> dict[str, Any] | None:
    """Who drives the study now: pid, host and time of its lease; None when nobody does.

    On another machine's lease the lock may say nothing, so the time of its last renewal is compared with our clock.
    Where the clocks of two machines differ by more than `EXPIRY_S`, a driver that lives looks gone to whoever shows,
    follows or stops it from the other one. Who may write is decided by `Lease.take`, which compares no clocks.
    """
    try:
        handle = os.open(paths.lease, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        content = _content_of(handle)
        is_fresh = abs(time.time() - os.fstat(handle).st_mtime) < EXPIRY_S
        return content if _is_elsewhere(content) and is_fresh else None
    except BlockingIOError:
        return _content_of(handle)
    finally:
        os.close(handle)


def _ourselves() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot_id()}


def _boot_id() -> str:
    """Changes with every start of the machine, and differs between machines; "" where the system has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _is_elsewhere(content: dict[str, Any]) -> bool:
    """Whether a lease may be held by a machine whose locks are not seen here.

    The same boot id is the same kernel, so its lock is to be believed; the same name with another boot id is this
    machine before a restart, and two machines of one name are taken for one. A lease that was given back is empty.
    """
    if not content.get("boot"):
        return False
    return content["boot"] != _boot_id() and content.get("host") != socket.gethostname()


def _is_renewed(handle: int, paths: StudyPaths, *, within_s: float) -> bool:
    """Watch a lease of another machine: whether it is renewed before `within_s` seconds of our own clock are over."""
    held = _content_of(handle)
    logger.warning(
        "study %s was left by pid %s on %s; watching its lease for %g s to see whether that driver lives",
        paths.name, held.get("pid", "?"), held.get("host", "?"), within_s,
    )  # fmt: skip
    first, end = (os.fstat(handle).st_mtime_ns, held), time.monotonic() + within_s
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.5, max(0.01, within_s / 20)))
        if (os.stat(paths.lease).st_mtime_ns, _content_of(handle)) != first:
            return True
    return False


def _lock(handle: int) -> bool:
    """Lock for good; a few tries, since `holder` takes the lock for an instant to see whether it is free."""
    for attempt in range(_LOCK_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.01 * attempt)
    return False


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _held(paths: StudyPaths, handle: int, what: str) -> StudyLockedError:
    held = _content_of(handle)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(held["time"])) if "time" in held else "a moment ago"
    return StudyLockedError(
        f"study {paths.name} {what} by pid {held.get('pid', '?')} on {held.get('host', '?')} since {since}",
        paths.name,
    )


def _content_of(handle: int) -> dict[str, Any]:
    try:
        content = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
