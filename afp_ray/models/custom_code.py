"""Code that comes with a checkpoint: what names it, and the revision that pins it before any of it may run."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afp_ray.config.model import ModelConfig
from afp_ray.errors import ModelError

_WRITING = "custom_generate/generate.py"


def code_names(*documents: Mapping[str, Any]) -> list[str]:
    """What `auto_map` of configurations names: `module.Class`, with `repository--` before code of somewhere else."""
    names: list[str] = []
    for document in documents:
        stated = document.get("auto_map")
        for value in stated.values() if isinstance(stated, Mapping) else [stated]:
            names += [name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)]
    return names


def writing_code(folder: Path) -> list[str]:
    """The file that the library runs for writing texts, whether a configuration names it or not; empty for none."""
    return [_WRITING] if (folder / _WRITING).is_file() else []


def code_digest(folder: Path) -> str:
    """SHA-256 of the Python files of a folder, first 40 hex digits; names and contents count, the place does not."""
    whole = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        whole.update(f"{file.relative_to(folder)}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()[:40]


def pinned_code(config: ModelConfig, folder: Path, named: Sequence[str]) -> str | None:
    """Digest of the code that loading a local folder runs; None when it runs none.

    Args:
        config: says whether code may run, and which.
        folder: a local model.
        named: what its configurations name.
    Raises: ModelError when `model.revision` does not pin the code that is there.
    """
    if not (named and config.trust_remote_code):
        if config.revision is not None:
            raise ModelError(
                f"model.revision is {config.revision!r}, and {config.name!r} is a folder, which has none",
                where="model.revision",
                allowed="a revision of a hub id, or the digest of code that a folder brings and may run",
                fix="leave model.revision out",
            )
        return None
    refuse_code_of_elsewhere(named, str(folder))
    digest = code_digest(folder)
    if config.revision != digest:
        files = ", ".join(sorted(file.name for file in folder.rglob("*.py"))) or "its code"
        raise ModelError(
            f"model.trust_remote_code runs code of {config.name!r}; model.revision {config.revision!r} does not pin it",
            where="model.revision",
            allowed=digest,
            fix=f"read {files}, then set model.revision: {digest}",
        )
    return digest


def refuse_code_of_elsewhere(named: Sequence[str], where: str) -> None:
    """Refuse code of another repository: no revision of this one pins it.

    Raises: ModelError with its name.
    """
    elsewhere = next((name for name in named if "--" in name), None)
    if elsewhere is not None:
        raise ModelError(
            f"the checkpoint names code of another repository, {elsewhere!r}, which no revision pins",
            where=where,
            allowed="code that lies beside the weights",
            fix="copy that code into a local folder with the model, and take `repository--` out of auto_map",
        )
