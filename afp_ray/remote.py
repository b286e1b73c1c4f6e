"""Keeps studies at a URL: worked on in a folder of this machine, pulled before they are used, pushed while they run.

An object store has no durable append and no lock, and a ledger needs both: the folder is the study, the URL a copy.

    pull   ledger read there -> files brought              -> ledger written here
    push   ledger read here  -> files of ended trials sent -> ledger written there

So on either side, whoever reads a ledger finds all that it speaks of, and the events that one side lacks name the
trials whose files it lacks. Where the ledger there is no beginning of ours, another machine drove it: ours stops.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from afp_ray.cache import cache_folder
from afp_ray.errors import AfpError, ConfigError, StudyChangedError, UnavailableError
from afp_ray.ledger import holder, replay
from afp_ray.records import TrialStatus
from afp_ray.store import LEDGER, OF_ONE_MACHINE, StudyPaths, url_folder, write_atomic

_APART = OF_ONE_MACHINE | {LEDGER, "index.json", "lease.json"}  # sent last; left at the URL by earlier versions
_WEIGHTS = re.compile(r"trials/[^/]+/(checkpoint|state)/")  # what no question reads


def working_folder(url: str) -> Path:
    """The folder that stands for the storage at `url`, pulled but for weights; a ConfigError where nothing opens it."""
    files, folder = _open(url), url_folder(url, cache_folder("storage"))
    with _asking(url):
        ledgers = [name for name in files.find("", maxdepth=2) if re.fullmatch(rf"[^./][^/]*/{LEDGER}", name)]
    for ledger in ledgers:
        RemoteStudy(url, StudyPaths(folder, ledger.split("/")[0])).pull(with_weights=False)
    return folder


class RemoteStudy:
    """A study in the working folder and its copy at a URL; `on_conflict` hears why once another machine drove it."""

    def __init__(self, url: str, paths: StudyPaths, *, on_conflict: Callable[[str], None] = lambda _: None) -> None:
        self._paths, self._url, self._on_conflict = paths, f"{url.rstrip('/')}/{paths.name}", on_conflict
        self._here, self._there = _open(str(paths.folder)), _open(self._url)
        self.num_left = 0  # as a projection it shows all that it can at once

    def pull(self, *, with_weights: bool) -> None:
        """Bring what the URL has and this machine lacks; nothing where this machine is ahead of it.

        Raises: StudyChangedError when each side has events that the other lacks; UnavailableError.
        """
        if holder(self._paths) is not None:
            return
        with _asking(self._url):
            (ours, theirs, changed), folder = self._ledgers(may_lag=True), self._paths.folder
            for name, owner in _owners(self._there).items() if theirs and len(theirs) >= len(ours) else ():
                path = folder / name
                if _WEIGHTS.match(name) and not with_weights:
                    path.unlink(missing_ok=True) if owner in changed else None  # it comes when it is needed
                elif owner in changed or not path.is_file():
                    fetch = partial(self._there.get_file, name)
                    _replace(self._here, name, lambda half, fetch=fetch: fetch(folder / half))  # type: ignore[misc]
            if len(theirs) > len(ours):
                write_atomic(self._paths.ledger, theirs)

    def project(self, *, enough: Callable[[], bool] = lambda: False, is_last: bool = False) -> int:
        """Push what the URL lacks: files of trials that have ended, and at last all; returns how many.

        Raises: StudyChangedError when another machine has driven the study; UnavailableError.
        """
        with _asking(self._url):
            ours, theirs, changed = self._ledgers(may_lag=False)
            trials = replay(self._paths.ledger).trials  # read after `ours`, whose ended trials are all among these
            at_work = (TrialStatus.PLANNED, TrialStatus.RUNNING)
            ended = {trial.trial_id for trial in trials if trial.status not in at_work}
            here, there = _owners(self._here) if ours else {}, _owners(self._there) if theirs else {}
            final = [name for name, owner in here.items() if is_last or owner in ended or name == "study.json"]
            sent = [name for name in final if name not in there or here[name] in changed or here[name] not in ended]
            for name in sent:
                _replace(self._there, name, partial(self._there.put_file, str(self._paths.folder / name)))
            if ours != theirs:
                _replace(self._there, LEDGER, lambda path: self._there.pipe_file(path, ours))
            for name in filter(_WEIGHTS.match, there.keys() - here.keys()):
                self._there.rm_file(name)
            return len(sent)

    def _ledgers(self, *, may_lag: bool) -> tuple[bytes, bytes, set[str]]:
        """Ours, the URL's, and whose files may differ by what one of them has more; "" is the study itself."""
        ours, theirs = _ledger(self._here), _ledger(self._there)
        if not ours.startswith(theirs) and not (may_lag and theirs.startswith(ours)):
            reason = (
                f"study {self._paths.name} was driven on two machines: {self._paths.folder} and {self._url} each have "
                "events that the other lacks; neither was overwritten"
            )
            self._on_conflict(reason)
            raise StudyChangedError(reason, fix="move one of them away, then resume the other")
        trials = re.findall(rb'"trial_id":"([^"]+)"|\n\Z', ours[len(theirs) :] or theirs[len(ours) :])
        return ours, theirs, {trial.decode() for trial in trials}


def _open(url: str) -> Any:
    """The files under a URL or a folder, by their names in it."""
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)  # others may write meanwhile
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"storage {url!r} cannot be opened: {error}",
            where="--storage",
            allowed="a folder, or a URL of a file system that is installed, such as abfs, file, gs, s3, sftp",
            fix="install its library (s3fs for s3://, gcsfs for gs://, adlfs for abfs://)",
        ) from error
    return fsspec.filesystem("dir", path=root, fs=system)


def _ledger(files: Any) -> bytes:
    try:
        return b"".join(bytes(files.cat_file(LEDGER)).rpartition(b"\n")[:2])  # what follows is being written
    except FileNotFoundError:
        return b""


def _owners(files: Any) -> dict[str, str]:
    """The trial of each file that both sides have, "" for those of the study; a result after what it names."""
    names = files.find("", **({} if files.fs.async_impl else {"on_error": "raise"}))  # object stores raise anyway
    shared = [name for name in sorted(names) if not re.search(r"(^|/)\.", name) and name.split("/")[-1] not in _APART]
    return {name: name.split("/")[1] if name.startswith("trials/") else "" for name in shared}


def _replace(files: Any, name: str, write: Callable[[str], Any]) -> None:
    """Have `write` make a file that appears whole, as an object does by itself."""
    if files.fs.async_impl:
        write(name)
        return
    files.makedirs(os.path.dirname(name), exist_ok=True)
    write(half := re.sub(r"[^/]+$", rf".\g<0>.{os.getpid()}", name))
    files.mv(half, name)


@contextmanager
def _asking(url: str) -> Iterator[None]:
    try:
        yield
    except AfpError:
        raise
    except Exception as error:  # every file system has errors of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnavailableError(f"storage {url}: {reason}") from error
