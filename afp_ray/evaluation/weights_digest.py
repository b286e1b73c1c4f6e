"""Names a model in memory by everything that its scores depend on, and by nothing that they do not."""

import hashlib
import importlib.metadata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from afp_ray.config.base import canonical_json
from afp_ray.data.tokenizer_content import tokenizer_fingerprint
from afp_ray.models.plain_generation import stated_changes

_IDLE = (
    *("_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "architectures", "use_cache"),
    *("dtype", "torch_dtype"),  # each weight says its own
)
"""Fields of a configuration that say where a model is from, or nothing that is not said elsewhere."""
_THREADS = 4
"""Weights that are read at a time."""


def model_fingerprint(model: Any) -> str:
    """SHA-256 of the weights of `model`, of how it computes with them, and of the device that it does so on, in hex.

    Where the model came from does not enter: a folder whose weights were replaced is another model, a copy under
    another name is the same. Reading it takes about a second for a gigabyte and core.

    Args:
        model: a causal LM, on any device and in any precision.
    """
    return hashlib.sha256(f"{canonical_json(_computation(model))}\n{weights_digest(model)}".encode()).hexdigest()


def weights_digest(model: Any) -> str:
    """SHA-256 of the weights of `model` alone, with their names and types, in hex."""
    whole = hashlib.sha256()
    weights = sorted(model.state_dict().items())
    with ThreadPoolExecutor(_THREADS) as pool:
        for (name, tensor), digest in zip(weights, pool.map(_digest, (tensor for _, tensor in weights)), strict=True):
            whole.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + digest)
    return whole.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of what decides the tokens of a prompt, and those that begin and end it, in hex."""
    parts = [tokenizer_fingerprint(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.eos_token]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def code_digest() -> str:
    """SHA-256 of the code that turns a prompt into a number or a text, in hex: no line of it changes unseen."""
    package = Path(__file__).parent.parent
    whole = hashlib.sha256()
    for folder in ("evaluation", "models"):
        for file in sorted((package / folder).rglob("*.py")):
            whole.update(f"{file.relative_to(package)}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def _digest(tensor: torch.Tensor) -> bytes:
    """Of the bytes of a tensor, whatever its type."""
    held: Any = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(held, digest_size=32).digest()


def _computation(model: Any) -> dict[str, Any]:
    """What two models of equal weights may differ in."""
    device = next(model.parameters()).device
    generation = getattr(model, "generation_config", None)
    return {
        "class": type(model).__qualname__,
        "modules": repr(model),
        "config": _settings(model.config),
        "attention": getattr(model.config, "_attn_implementation", None),
        "ends": getattr(generation, "eos_token_id", None),
        "changes": repr(sorted(stated_changes(model).items())),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "matmul": torch.get_float32_matmul_precision(),
        "versions": [importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")],
    }


def _settings(config: Any) -> str:
    """A configuration as text, without where it came from."""
    held = {name: value for name, value in config.to_dict().items() if name not in _IDLE}
    return repr(sorted(held.items()))
