"""Saved models: a Hugging Face folder with hashes that is either whole or not there."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from afp_ray.errors import UnavailableError
from afp_ray.models.hidden_states import CausalModel
from afp_ray.models.load import quiet_transformers
from afp_ray.models.manifest import verify_manifest, write_manifest
from afp_ray.store import sync_folder

_SPARE_BYTES = 32 * 2**20


def save_checkpoint(model: CausalModel, tokenizer: Any, folder: Path) -> None:
    """Save so that stock `AutoModelForCausalLM.from_pretrained(folder)` gives equal logits.

    Everything is written beside `folder` and renamed at the end: a kill leaves the old checkpoint, the new one or,
    in the instant between two renames, none; never a part of one.

    Args:
        model: any causal LM; tied weights are stored once.
        tokenizer: saved beside it.
        folder: replaced when it exists.
    Raises: UnavailableError when the disk is too full or refuses; the old checkpoint is intact.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_space(model, folder.parent)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
        try:
            with quiet_transformers():
                model.save_pretrained(temporary)
                tokenizer.save_pretrained(temporary)
            write_manifest(temporary)
            _make_durable(temporary)
            _replace(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except (OSError, SafetensorError) as error:
        raise UnavailableError(f"cannot write the checkpoint {folder}: {error}") from error


def verify_checkpoint(folder: Path) -> None:
    """Compare every file of a saved model with its hash.

    Raises: ModelError naming the first file that is missing or damaged.
    """
    verify_manifest(folder)


def _check_space(model: CausalModel, parent: Path) -> None:
    needed = sum(parameter.nbytes for parameter in model.parameters()) + _SPARE_BYTES
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UnavailableError(
            f"the checkpoint needs {needed / 2**20:.0f} MiB under {parent}, {free / 2**20:.0f} MiB are free; "
            "free some space and resume the study"
        )


def _make_durable(folder: Path) -> None:
    folder.chmod(0o755)  # mkdtemp makes it private
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def _replace(temporary: Path, folder: Path) -> None:
    """Rename `temporary` to `folder`; a folder that is there steps aside first and is then removed."""
    retired = folder.with_name(f"{temporary.name}.old")
    if folder.exists():
        folder.rename(retired)
    temporary.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)
