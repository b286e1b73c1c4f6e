"""The list of a model folder's files with their SHA-256, so that a damaged one is never loaded silently."""

import hashlib
import json
from pathlib import Path

from afp_ray.errors import ModelError
from afp_ray.store import write_json

MANIFEST = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Write `manifest.json` over every other file of `folder`."""
    files = {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    files.pop(MANIFEST, None)
    write_json(folder / MANIFEST, {"format": 1, "files": files})


def verify_manifest(folder: Path) -> None:
    """Compare every file that the manifest of `folder` lists with its hash.

    Raises: ModelError naming the first file that is missing or changed, or when there is no readable manifest.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError("the checkpoint has no manifest.json: it was not saved whole", where=str(folder), fix=_FIX)
    try:
        files = json.loads(path.read_bytes())["files"]
        expected = {str(name): str(digest) for name, digest in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError("manifest.json of the checkpoint is damaged", where=str(path), fix=_FIX) from error
    for name, digest in expected.items():
        file = folder / name
        if not file.is_file():
            raise ModelError(f"{name} of the checkpoint is missing", where=str(file), fix=_FIX)
        if sha256(file) != digest:
            raise ModelError(
                f"{name} of the checkpoint is damaged: its SHA-256 differs from the manifest", where=str(file), fix=_FIX
            )


def has_manifest(folder: Path) -> bool:
    """Whether `folder` lists the hashes of its files."""
    try:
        return isinstance(json.loads((folder / MANIFEST).read_bytes()).get("files"), dict)
    except (OSError, ValueError, AttributeError):
        return False


def sha256(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


_FIX = "use another copy, or remove the folder so that the trial trains again"
