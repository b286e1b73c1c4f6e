"""A driver's folder of sockets and logs: nobody else may enter it, its path is short, and a dead driver's is removed.

Ray opens its own folder to every user of the machine, who could then put other sockets into it; inside a folder of mode
0700 nobody reaches it. A socket's path has at most 107 bytes, and Ray takes some 70 of them for names of its own, so a
long TMPDIR, as batch systems make them, gives way to /tmp.
"""

import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from afp_ray.errors import ConfigError

logger = logging.getLogger(__name__)

PREFIX = "afp-run-"
MAX_BASE = 20
"""Longest path of the folder that ours is made in: with our name, Ray's and those of its sockets it stays below 107."""
_OWNER = "owner"
_UNOWNED_S = 3600.0
"""Age at which a folder without an owner's file is one whose maker was killed before it wrote it."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder that goes with the block; those of drivers that were killed are removed first.

    Raises: ConfigError when no folder for temporary files has a path that is short enough.
    """
    _warn_of_a_missing_folder()
    bases = _bases()
    if not bases:
        raise ConfigError(
            f"the folder for temporary files has {len(tempfile.gettempdir())} characters, too long for Ray's sockets, "
            "and /tmp cannot be written",
            where="TMPDIR",
            allowed=f"at most {MAX_BASE} characters",
            fix="set TMPDIR to a shorter folder",
        )
    for base in bases:
        sweep(base)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=bases[0]))
    try:
        with (folder / _OWNER).open("w") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)  # let go of by the system, however this process ends
            owner.write(f"{os.getpid()}\n")
            owner.flush()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(base: Path) -> None:
    """Remove folders of this user whose driver is no more; one that lives, or is another user's, stays."""
    for folder in base.glob(f"{PREFIX}*"):
        with suppress(OSError):
            status = folder.lstat()
            if status.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
                continue
            if _is_dead(folder, age_s=time.time() - status.st_mtime):
                logger.info("removing %s, which a driver that was killed has left", folder)
                shutil.rmtree(folder, ignore_errors=True)


def _is_dead(folder: Path, *, age_s: float) -> bool:
    try:
        with (folder / _OWNER).open() as owner:
            if not owner.read(1):
                return age_s > _UNOWNED_S  # its maker may be about to lock it
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:
        return age_s > _UNOWNED_S
    except BlockingIOError:
        return False


@cache
def _warn_of_a_missing_folder() -> None:
    """Say once that the folder which a variable names is not used: Python takes another without a word."""
    for name in ("TMPDIR", "TEMP", "TMP"):
        if folder := os.environ.get(name):
            if not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
                logger.warning(
                    "%s is %s, which is no folder that can be written: temporary files go to %s; fix: mkdir -p it, or "
                    "unset %s",
                    name,
                    folder,
                    tempfile.gettempdir(),
                    name,
                )
            return


def _bases() -> list[Path]:
    """Folders for temporary files that can be written and are short enough, the first one first."""
    named = (Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp"))  # noqa: S108
    fitting = [base for base in named if len(os.fsencode(base)) <= MAX_BASE and os.access(base, os.W_OK | os.X_OK)]
    return list(dict.fromkeys(fitting))
