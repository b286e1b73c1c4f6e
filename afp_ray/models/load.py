"""Loading of a causal LM and its tokenizer: float32 master weights, and none read twice by a warm process."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from afp_ray.config.model import ModelConfig
from afp_ray.errors import ModelError
from afp_ray.models.custom_code import code_names, refuse_code_of_elsewhere
from afp_ray.models.describe import ALLOWED, ModelDescription, describe, file_marks, tokenizer_config
from afp_ray.models.hidden_states import CausalModel
from afp_ray.models.hub import fetch, fetch_small, first_line
from afp_ray.models.manifest import has_manifest, verify_manifest
from afp_ray.models.model_cache import WARM, WarmModels
from afp_ray.models.pickled import converted
from afp_ray.models.weight_files import find_weights


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is the caller's own to train, and its tokenizer.

    Attributes:
        model: float32, on the device asked for, in eval mode.
        tokenizer: has a padding token.
        num_layers: decoder blocks.
        hidden_size: width of a token state.
    """

    model: CausalModel
    tokenizer: PreTrainedTokenizerBase
    num_layers: int
    hidden_size: int


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, with a padding token (the end-of-text token where it has none of its own).

    Raises: ModelError when it cannot be read.
    """
    return _read_tokenizer(config, describe(config))


def load_model(
    config: ModelConfig, *, device: str | torch.device = "cpu", cache: WarmModels | None = WARM
) -> LoadedModel:
    """A causal LM that nobody else holds, from the process's memory where it was read before.

    Args:
        config: what to load.
        device: where the weights go.
        cache: kept models; None reads the files and keeps nothing, as fits a checkpoint that is asked for once.
    Returns: float32 weights whatever the checkpoint's dtype, eval mode, tied head tied.
    Raises: ModelError for a checkpoint that is missing, damaged or no causal LM.
    """
    description = describe(config)

    def read() -> tuple[CausalModel, PreTrainedTokenizerBase]:
        return _read_model(config, description), _read_tokenizer(config, description)

    # The fingerprint does not see every byte of a large file; size, time and place of the files stand for the rest.
    marks = () if description.folder is None else file_marks(Path(description.folder))
    key = (description.fingerprint, description.revision, marks, config.attention, config.trust_remote_code)
    model, tokenizer = read() if cache is None else cache.get(key, read)
    return LoadedModel(model.to(device), tokenizer, description.num_layers, description.hidden_size)


def _read_model(config: ModelConfig, description: ModelDescription) -> CausalModel:
    folder = _folder(config, description)
    if has_manifest(folder):
        verify_manifest(folder)
    weights = find_weights(folder)
    source = converted(folder, weights) if weights.is_pickled else folder
    arguments = _arguments(config)
    if config.attention != "auto":
        arguments["attn_implementation"] = config.attention
    with quiet_transformers(), _as_model_error(config, "the model"):
        model, info = AutoModelForCausalLM.from_pretrained(
            str(source),
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **arguments,
        )
    if info["missing_keys"]:
        raise ModelError(
            f"the checkpoint lacks {len(info['missing_keys'])} weights, {sorted(info['missing_keys'])[0]} among them",
            where=description.folder or config.name,
            allowed=ALLOWED,
            fix="give a checkpoint of the whole causal LM",
        )
    return cast(CausalModel, model.eval())


def _read_tokenizer(config: ModelConfig, description: ModelDescription) -> PreTrainedTokenizerBase:
    folder = fetch_small(config) if description.folder is None else Path(description.folder)
    if config.trust_remote_code:
        refuse_code_of_elsewhere(code_names(tokenizer_config(folder)), str(folder))
    with quiet_transformers(), _as_model_error(config, "the tokenizer", fix=_tokenizer_fix(folder)):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **_arguments(config))
    source = description.folder or config.name
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                "the tokenizer has neither a padding nor an end-of-text token",
                where=source,
                fix="set pad_token in tokenizer_config.json",
            )
        tokenizer.pad_token = tokenizer.eos_token
    outside = outside_embedding(tokenizer, description)
    return cast(PreTrainedTokenizerBase, _refusing(tokenizer, outside, source) if outside else tokenizer)


def outside_embedding(tokenizer: Any, description: ModelDescription) -> dict[str, int]:
    """Special tokens that a model has no embedding for, with their ids: Gemma 3 ships one for its pictures.

    Raises: ModelError when ordinary tokens or the one that ends texts are among them: the tokenizer is another model's.
    """
    limit = description.vocab_size
    if limit is None or len(tokenizer) <= limit:
        return {}
    outside = {token: number for token, number in tokenizer.get_vocab().items() if number >= limit}
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    ends = {tokenizer.bos_token, tokenizer.eos_token}
    if not set(outside) <= special or ends & set(outside):
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens, the model embeds {limit}",
            where=description.folder or "model.name",
            fix="put the tokenizer that the model was trained with into the folder",
        )
    return outside


def _refusing(tokenizer: Any, outside: Mapping[str, int], place: str) -> Any:
    """The tokenizer, which refuses texts that use a token without an embedding; it pads with another one."""
    if tokenizer.pad_token in outside:
        tokenizer.pad_token = tokenizer.eos_token
    kind = type(tokenizer)
    first = min(outside.values())

    def call(self: Any, *texts: Any, **settings: Any) -> Any:
        encoded = kind.__call__(self, *texts, **settings)
        rows = encoded["input_ids"]
        for row in [rows] if rows and isinstance(rows[0], int) else rows:
            if any(number >= first for number in row):
                token = next(name for name, number in outside.items() if number in row)
                raise ModelError(
                    f"a text uses the token {token!r}, which the model has no embedding for",
                    where=place,
                    fix="take it out of the data, or use a model that embeds it",
                )
        return encoded

    # The name stays: it is part of what names the tokens in the cache.
    tokenizer.__class__ = type(kind.__name__, (kind,), {"__call__": call, "__qualname__": kind.__qualname__})
    return tokenizer


def _folder(config: ModelConfig, description: ModelDescription) -> Path:
    return fetch(config) if description.folder is None else Path(description.folder)


def _arguments(config: ModelConfig) -> dict[str, Any]:
    """Keywords that model and tokenizer share; a folder is never looked up anywhere else."""
    return {"local_files_only": True, "trust_remote_code": config.trust_remote_code}


def _tokenizer_fix(folder: Path) -> str:
    """What to do where a tokenizer comes as a SentencePiece file alone, which this machine may lack the reader of."""
    alone = next((file for file in sorted(folder.glob("*.model")) if not (folder / "tokenizer.json").is_file()), None)
    if alone is None or importlib.util.find_spec("sentencepiece") is not None:
        return ""
    return (
        f"pip install sentencepiece, which reads {alone.name}; or save tokenizer.json beside it where that is "
        "installed: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    )


@contextlib.contextmanager
def _as_model_error(config: ModelConfig, what: str, *, fix: str = "") -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ModelError(
            f"{what} needs a library that is not installed: {first_line(error)}", where="model", fix="install it"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{what} of {config.name!r} cannot be loaded: {first_line(error)}",
            where="model.name",
            allowed=ALLOWED,
            fix=fix or "try AutoModelForCausalLM.from_pretrained on it; code of its own needs model.trust_remote_code",
        ) from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice on stdout while a checkpoint is read or written."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # The Rust tokenizers warn when a process forks after they were used in parallel; trials fork workers.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
