"""A storage at a URL, and the folder of this machine that stands for it."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from afp_ray.cache import cache_folder
from afp_ray.errors import ConfigError, UnavailableError
from afp_ray.store import write_json

MARKER = "remote.json"
"""In a working copy: which URL it stands for."""


def is_url(storage: str) -> bool:
    """Whether a storage is an address such as `s3://bucket/runs` rather than a folder."""
    return "://" in storage


def working_copy(url: str) -> Path:
    """The folder of this machine that stands for the storage at `url`; made when it is new.

    Two users, or two caches, never share one: it lies in the user's own cache.
    """
    url = url.rstrip("/")
    folder = cache_folder("storage") / hashlib.sha256(url.encode()).hexdigest()[:16]
    if not (folder / MARKER).is_file():
        write_json(folder / MARKER, {"url": url})
    return folder


def place_of(storage: Path) -> "Place | None":
    """The place that a storage folder is a working copy of; None for a folder that is itself the storage."""
    try:
        content = json.loads((storage / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return Place(content["url"])


class Place:
    """Files under a URL; every call that the other side refuses is an UnavailableError that names it.

    Args:
        url: of any file system that fsspec knows: `s3://`, `gs://`, `abfs://`, `file://` ... Credentials come from
            the environment, as its library has it, and are never written.
    Raises: ConfigError when no library for its scheme is installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        try:
            # Listings must be those of now: another machine may have written since.
            self._fs, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            known = sorted({"file", "s3", "gs", "abfs", "sftp"})
            raise ConfigError(
                f"storage {self.url!r} cannot be opened: {error}",
                where="--storage",
                allowed=f"a folder, or a URL of a file system that is installed, such as {', '.join(known)}",
                fix="install its library (s3fs for s3://, gcsfs for gs://, adlfs for abfs://)",
            ) from error

    def read(self, name: str) -> bytes | None:
        """Content of a file; None when there is none."""
        with self._asking(f"read {name}"):
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Replace a file whole; where the file system is made of folders, by a rename."""
        with self._asking(f"write {name}"):
            self._replace(name, lambda path: self._fs.pipe_file(path, content))

    def upload(self, source: Path, name: str) -> None:
        """Replace a file with one of this machine."""
        with self._asking(f"write {name}"):
            self._replace(name, lambda path: self._fs.put_file(str(source), path))

    def download(self, name: str, target: Path) -> None:
        """Bring a file here; what fails leaves the old one."""
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        with self._asking(f"read {name}"):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(self._path(name), str(temporary))
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        with self._asking(f"remove {name}"):
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def studies(self) -> list[str]:
        """Names of the studies that were pushed here."""
        with self._asking("list"):
            try:
                found = self._fs.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
        return sorted(str(name).rstrip("/").rpartition("/")[2] for name in found)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _replace(self, name: str, write: Any) -> None:
        path = self._path(name)
        if not self._has_folders():
            write(path)  # an object appears whole
            return
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        temporary = f"{path}.{secrets.token_hex(4)}.tmp"
        write(temporary)
        self._fs.mv(temporary, path)

    def _has_folders(self) -> bool:
        protocols = self._fs.protocol if isinstance(self._fs.protocol, tuple | list) else (self._fs.protocol,)
        return bool({"file", "local", "sftp", "ssh", "smb", "hdfs"} & set(protocols))

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # every file system has errors of its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UnavailableError(f"storage {self.url}: cannot {what}: {reason}") from error
