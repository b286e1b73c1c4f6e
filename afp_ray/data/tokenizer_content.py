"""Tells by content whether two tokenizers give the same ids."""

import hashlib
import importlib.metadata
from collections import OrderedDict
from pathlib import Path
from typing import Any

from afp_ray.config.base import canonical_json

PROBE = (
    "",
    "The boat, 12.5 km away!",
    " two  spaces\n\tand lines ",
    "船在哪里？",
    "เรืออยู่ที่ไหน",
    "Où? naïve façade",
    "🚢 क्या",
)
"""Texts whose ids enter the fingerprint, for what the code of a tokenizer does beyond what it stores."""
IDLE_ARGUMENTS = frozenset(
    {
        *("_commit_hash", "_from_auto", "auto_map", "local_files_only", "name_or_path", "tokenizer_file"),
        *("special_tokens_map_file", "tokenizer_class", "trust_remote_code", "chat_template", "model_max_length"),
        *("clean_up_tokenization_spaces", "padding_side", "truncation_side"),
    }
)
"""Arguments that do not change the ids of a text that is neither padded nor cut."""
_MAX_KNOWN = 2
_known: OrderedDict[int, tuple[Any, str, str]] = OrderedDict()
"""The last backends by identity, each with what is looked at again and the digest of all that it stores."""


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 of what decides the ids that a tokenizer gives for a text, in hex.

    The folder it was loaded from, its padding and its limit of length do not enter. The version of the library that
    splits the texts does: another one may split them differently, and tokenising again costs seconds.

    Args:
        tokenizer: of Hugging Face, with a `backend_tokenizer` or a vocabulary.
    Raises: TypeError when it has neither.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts: dict[str, Any] = {
        "class": type(tokenizer).__qualname__,
        "end": tokenizer.eos_token_id,
        "split_special_tokens": getattr(tokenizer, "split_special_tokens", False),
        "probe": [list(ids) for ids in tokenizer(list(PROBE), verbose=False)["input_ids"]],
    }
    if backend is not None and hasattr(backend, "to_str"):
        # The probe, which neither pads nor cuts, has just reset what earlier calls had left of padding and cutting.
        parts["backend"] = _backend_digest(backend)
        parts["version"] = importlib.metadata.version("tokenizers")
    elif hasattr(tokenizer, "get_vocab"):
        parts["vocabulary"] = tokenizer.get_vocab()
        parts["arguments"] = {
            name: _argument(value)
            for name, value in getattr(tokenizer, "init_kwargs", {}).items()
            if name not in IDLE_ARGUMENTS
        }
        parts["version"] = importlib.metadata.version("transformers")
    else:
        raise TypeError(f"{type(tokenizer).__qualname__} has neither a backend tokenizer nor a vocabulary")
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def _backend_digest(backend: Any) -> str:
    """SHA-256 of what a backend stores, in hex; computed once for each that a process keeps from trial to trial.

    Writing out a vocabulary of 250,000 tokens takes more than half a second, and a trial asks several times. Its size
    and the parts around it are looked at each time.
    """
    parts = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    around = [str(getattr(backend, name, None)) for name in parts]
    model = getattr(backend, "model", None)
    own = [getattr(model, name, None) for name in ("dropout", "unk_token", "fuse_unk", "byte_fallback")]
    seen = repr([backend.get_vocab_size(), around, type(model).__name__, own])
    held, before, digest = _known.get(id(backend), (None, "", ""))
    if held is not backend or before != seen:
        digest = hashlib.sha256(backend.to_str().encode()).hexdigest()
        _known[id(backend)] = backend, seen, digest
        while len(_known) > _MAX_KNOWN:
            _known.popitem(last=False)
    _known.move_to_end(id(backend))
    return digest


def _argument(value: Any) -> str:
    """A file by its content, anything else as it is written."""
    if isinstance(value, str) and Path(value).is_file():
        return hashlib.sha256(Path(value).read_bytes()).hexdigest()
    return repr(value)
