"""Saved models: a Hugging Face folder with hashes that is either whole or not there."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from afp_ray.errors import StorageError
from afp_ray.models.hidden_states import CausalModel
from afp_ray.models.load import quiet_transformers
from afp_ray.models.manifest import verify_manifest
from afp_ray.training.whole_folders import require_space, written_whole


def save_checkpoint(model: CausalModel, tokenizer: Any, folder: Path) -> None:
    """Save so that stock `AutoModelForCausalLM.from_pretrained(folder)` gives equal logits.

    Everything is written beside `folder` and renamed at the end: a kill leaves the old checkpoint, the new one or,
    in the instant between two renames, none; never a part of one.

    Args:
        model: any causal LM; tied weights are stored once.
        tokenizer: saved beside it.
        folder: replaced when it exists.
    Raises: StorageError when the disk is too full or refuses; the old checkpoint is intact.
    """
    try:
        require_checkpoint_space(model, folder)
        with written_whole(folder) as temporary, quiet_transformers():
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"cannot write the checkpoint {folder}: {error}") from error


def require_checkpoint_space(model: CausalModel, folder: Path) -> None:
    """Look for room for the checkpoint of a model, so that a full disk is found before a training and not after it.

    Raises: StorageError with the folder, what is needed and what is free.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    require_space(folder.parent, sum(parameter.nbytes for parameter in model.parameters()), what="the checkpoint")


def verify_checkpoint(folder: Path) -> None:
    """Compare every file of a saved model with its hash.

    Raises: ModelError naming the first file that is missing or damaged.
    """
    verify_manifest(folder)
