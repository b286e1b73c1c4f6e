"""Refuses, before anything is started, a checkpoint that would not load: its weights are not read for that.

What is looked at: the weight files there are (in a folder, in the hub's cache, or listed by the hub), the shards that
an index names, sizes in config.json against those of the tensors, whether the library knows the architecture, code
that comes with it, and the tokenizer.
"""

from functools import cache
from pathlib import Path
from typing import Any

from afp_ray.config.model import EMBEDDED, ModelConfig
from afp_ray.errors import ModelError
from afp_ray.models.custom_code import code_names
from afp_ray.models.describe import ALLOWED, describe, file_marks, local_folder
from afp_ray.models.hub import fetch_small, first_line, hub_file, listed_files, not_to_be_had
from afp_ray.models.packaged import PACKAGED
from afp_ray.models.weight_files import (
    WeightFiles,
    compare_with_config,
    find_weights,
    named_weights,
    read_json,
    tensor_shapes,
)


def check_checkpoint(config: ModelConfig) -> frozenset[str]:
    """Refuse what loading would refuse, as far as everything but the values of the weights tells.

    Returns: tokens of the tokenizer that the model has no embedding for; texts may not use them.
    Raises: ModelError with the place, what is allowed and the fix.
    """
    if config.name == EMBEDDED or config.name in PACKAGED:
        return frozenset()
    folder = local_folder(config)
    if folder is not None:
        return _checked(config, folder, file_marks(folder))
    commit = hub_file(config, "config.json").parent
    listed = listed_files(config)
    if listed is not None:
        named_weights(listed, lambda name: read_json(hub_file(config, name)), config.name)
        return _checked(config, fetch_small(config), file_marks(commit))
    try:
        find_weights(commit)
    except ModelError as error:
        raise not_to_be_had(config, "the checkpoint", error) from error
    return _checked(config, commit, file_marks(commit))


@cache
def _checked(config: ModelConfig, folder: Path, marks: object) -> frozenset[str]:
    """The checks of a folder, done once while its files stay as they are."""
    del marks
    description = describe(config)
    document = read_json(folder / "config.json")
    _require_known(config, document, folder)
    weights = _weights_here(folder)
    if weights is not None:
        shapes = tensor_shapes(weights) if not weights.is_pickled else _pickled_shapes(weights)
        compare_with_config(
            shapes, num_layers=description.num_layers, vocab_size=description.vocab_size, where=str(folder)
        )
    from afp_ray.models.load import load_tokenizer, outside_embedding

    return frozenset(outside_embedding(load_tokenizer(config), description))


def _weights_here(folder: Path) -> WeightFiles | None:
    """Weight files, None where the hub has them and this machine does not yet."""
    try:
        return find_weights(folder)
    except ModelError:
        return None


def _pickled_shapes(weights: WeightFiles) -> dict[str, tuple[int, ...]]:
    from afp_ray.models.pickled import pickled_shapes

    return pickled_shapes(weights)


def _require_known(config: ModelConfig, document: dict[str, Any], folder: Path) -> None:
    """Refuse an architecture that is neither the library's nor given by code that may run."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from afp_ray.models.load import quiet_transformers

    kind = str(document.get("model_type", ""))
    named = code_names(document)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "text_config" not in document:
        if named and config.trust_remote_code:
            return
        if named:
            raise ModelError(
                f"model_type {kind!r} needs code that comes with the checkpoint ({named[0]})",
                where=str(folder),
                allowed=ALLOWED,
                fix="read that code; then set model.trust_remote_code: true, and model.revision to what pins it",
            )
        raise ModelError(
            f"model_type {kind!r} is none of the library's causal language models",
            where=str(folder / "config.json"),
            allowed=ALLOWED,
            fix="check model_type in config.json, or upgrade transformers",
        )
    try:
        with quiet_transformers():
            AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ModelError(
            f"config.json cannot be used: {first_line(error)}",
            where=str(folder / "config.json"),
            fix="put the config.json of these weights into the folder",
        ) from error
