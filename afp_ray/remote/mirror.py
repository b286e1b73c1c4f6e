"""Pushes and pulls the files of one study; the other side never names a result that it does not hold.

What was pushed is listed in `index.json`, written last, so that a push that is cut off changes nothing that a reader
sees. The ledger is captured first and sent after every file that it speaks of.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from afp_ray.errors import UnavailableError
from afp_ray.remote.place import Place
from afp_ray.store import LEDGER_SNAPSHOT, StudyPaths, write_atomic, write_json

logger = logging.getLogger(__name__)

INDEX, PUSHED = "index.json", ".pushed.json"
_NEVER = frozenset({"driver.lease", "stop", "mlflow.json", "progress.json", "attempt.json", LEDGER_SNAPSHOT})
"""Files that speak of this machine, or that are made again from others."""
_HEAVY = ("checkpoint", "state")
"""Folders of a trial that only training and scoring read."""


class Mirror:
    """One study here and at its place.

    Args:
        paths: the study in the working copy.
        place: where the storage is.
    """

    def __init__(self, paths: StudyPaths, place: Place) -> None:
        self.paths, self.place = paths, place
        self._known: dict[str, dict[str, Any]] = _read_json(paths.folder / PUSHED)

    def push(self) -> int:
        """Send what has changed since the last push.

        Returns: the number of files sent or removed there.
        Raises: UnavailableError when the place refuses; what it held before still stands.
        """
        ledger = self._whole_ledger()
        before = self._index()
        index = {name: entry for name, entry in before.items() if name == self._name(self.paths.ledger)}
        count = 0
        for path in self._files():
            name = self._name(path)
            try:
                entry = self._entry(path)
                if before.get(name, {}).get("sha256") != entry["sha256"]:
                    self.place.upload(path, self._there(name))
                    count += 1
            except FileNotFoundError:
                continue  # a state that was replaced while we looked
            index[name] = entry
        name, digest = self._name(self.paths.ledger), hashlib.sha256(ledger).hexdigest()
        if ledger and before.get(name, {}).get("sha256") != digest:
            self.place.write(self._there(name), ledger)
            index[name] = {"size": len(ledger), "sha256": digest}
            count += 1
        if index != before:
            self.place.write(self._there(INDEX), json.dumps(index, sort_keys=True).encode())
            for gone in sorted(before.keys() - index.keys()):
                self.place.remove(self._there(gone))
                count += 1
        write_json(self.paths.folder / PUSHED, self._known)
        return count

    def pull(self, *, heavy: bool) -> int:
        """Bring what the place has and this machine has not.

        Args:
            heavy: checkpoints and resumable states too.
        Returns: the number of files brought.
        Raises: UnavailableError when the place refuses.
        """
        count = 0
        index = self._index()
        name = self._name(self.paths.ledger)
        if name not in index:
            return 0
        theirs = self._their_ledger(name, index[name])
        is_behind = self._is_behind(theirs)
        for other, entry in index.items():
            if other == name or (not heavy and _is_heavy(other)):
                continue
            target = self.paths.folder / other
            if not _is_inside(target, self.paths.folder):
                raise UnavailableError(f"storage {self.place.url}: its index names {other!r}, outside the study")
            if not is_behind and target.is_file():
                continue  # ours is the later one: this machine drove the study last
            if not target.is_file() or self._entry(target)["sha256"] != entry["sha256"]:
                self._download(other, entry, target)
                count += 1
        if is_behind:
            write_atomic(self.paths.ledger, theirs)
            (self.paths.folder / LEDGER_SNAPSHOT).unlink(missing_ok=True)
            count += 1
        write_json(self.paths.folder / PUSHED, self._known)
        return count

    def _their_ledger(self, name: str, entry: dict[str, Any]) -> bytes:
        """The ledger as of the index; a push under way may have made it longer since."""
        content = (self.place.read(self._there(name)) or b"")[: entry["size"]]
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise self._changed(name)
        return content

    def _is_behind(self, theirs: bytes) -> bool:
        """Whether the place's ledger has events that ours lacks; where each has some, ours is set apart first."""
        ours = self._whole_ledger()
        if ours.startswith(theirs):
            return False
        if not theirs.startswith(ours):
            self._set_apart()
        return True

    def _set_apart(self) -> None:
        """Make a study of its own of what was done here after another machine had taken the study.

        Its finished trials are then adopted as those of any other study under the storage.
        """
        number = 1
        while (apart := self.paths.folder.with_name(f"{self.paths.name}.apart-{number}")).exists():
            number += 1
        os.replace(self.paths.folder, apart)
        self.paths.folder.mkdir()
        self._known = {}
        logger.warning(
            "study %s was driven here and elsewhere without each other: what is at %s counts, what was done here is "
            "kept as study %s, and its finished trials are taken over",
            self.paths.name, self.place.url, apart.name,
        )  # fmt: skip

    def _download(self, name: str, entry: dict[str, Any], target: Path) -> None:
        self.place.download(self._there(name), target)
        if self._entry(target)["sha256"] != entry["sha256"]:
            target.unlink(missing_ok=True)
            raise self._changed(name)

    def _changed(self, name: str) -> UnavailableError:
        return UnavailableError(
            f"storage {self.place.url}: {self._there(name)} is not what its index says; it is being written, or "
            "was changed by hand: try again, or push it anew from the machine that has it"
        )

    def _index(self) -> dict[str, dict[str, Any]]:
        content = self.place.read(self._there(INDEX))
        if content is None:
            return {}
        try:
            found = json.loads(content)
        except ValueError as error:
            raise UnavailableError(f"storage {self.place.url}: {self._there(INDEX)} cannot be read: {error}") from error
        return found if isinstance(found, dict) else {}

    def _files(self) -> list[Path]:
        """Everything of the study but its ledger, what belongs to this machine, and what is half written."""
        found = []
        for folder, folders, names in os.walk(self.paths.folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            kept = (name for name in names if not name.startswith(".") and name not in _NEVER)
            found += [Path(folder) / name for name in sorted(kept)]
        return [path for path in found if path != self.paths.ledger]

    def _entry(self, path: Path) -> dict[str, Any]:
        """Size and digest of a file; computed again only where its size or time changed."""
        name, found = self._name(path), path.stat()
        known = self._known.get(name)
        if known is None or (known["size"], known["mtime_ns"]) != (found.st_size, found.st_mtime_ns):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            known = {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": digest}
            self._known[name] = known
        return {"size": known["size"], "sha256": known["sha256"]}

    def _whole_ledger(self) -> bytes:
        try:
            content = self.paths.ledger.read_bytes()
        except FileNotFoundError:
            return b""
        return content[: content.rfind(b"\n") + 1]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.paths.folder).as_posix()

    def _there(self, name: str) -> str:
        return f"{self.paths.name}/{name}"


def _is_heavy(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == "trials" and len(parts) > 3 and parts[2] in _HEAVY


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
