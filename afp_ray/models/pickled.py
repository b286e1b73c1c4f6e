"""Reads weights in PyTorch's own format without running what they hold, and converts them once to safetensors.

`pytorch_model.bin` is a pickle, which can run any code when it is read. `torch.load(weights_only=True)` builds tensors
and plain containers alone and refuses everything else, and so does this module. The converted folder lies under
`$AFP_CACHE/models`, named by the content of the weights and of the files that loading reads beside them. Folders that
were used longest ago are removed beyond `$AFP_CACHE_GB` (20), but none that was used within a day.
"""

import json
import os
import pickle
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import save_file

from afp_ray.cache import cache_folder, evict_folders, mark_used, max_cache_bytes
from afp_ray.errors import ModelError, StorageError
from afp_ray.models.describe import files_fingerprint
from afp_ray.models.weight_files import INDEX, SINGLE, WeightFiles

Tensors = dict[str, torch.Tensor]
PIECE_BYTES = 2 * 2**30
"""Of weights that are held in memory and written at a time."""
_BESIDE = ("config.json", "generation_config.json")
"""Files that loading a model reads beside its weights, and `*.py`."""
_HEADS = ("lm_head.", "embed_out.", "output.")


def converted(folder: Path, weights: WeightFiles) -> Path:
    """The folder with the weights of `folder` as safetensors, made where it is not there yet.

    Memory: one piece of at most `PIECE_BYTES`, or the largest tensor; files of before PyTorch 1.6 are held whole, one
    shard at a time.

    Args:
        folder: holds pickled weights and config.json; nothing is written there.
        weights: what `find_weights` found in it.
    Raises: ModelError for a file that is damaged or holds more than weights; StorageError when the disk refuses;
        ConfigError for a bad `$AFP_CACHE_GB`.
    """
    target = converted_folder(folder, weights)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            is_there = (target / "config.json").is_file()
            if not is_there:
                for left in target.parent.glob(f".{target.name}.*"):  # by a process that was killed in the middle
                    shutil.rmtree(left, ignore_errors=True)
                _convert(weights, _beside(folder), target, ties=_ties(folder))
            mark_used(target)
        if not is_there:
            evict_folders(target, "pickled-", max_cache_bytes())
    except OSError as error:
        if (target / "config.json").is_file():  # converted by somebody else; here it may only be read
            return target
        size = sum(shard.stat().st_size for shard in weights.shards)
        raise StorageError(f"cannot write {target} (about {size:,} bytes): {error}") from error
    return target


def converted_folder(folder: Path, weights: WeightFiles) -> Path:
    """Where the converted weights of `folder` lie, or will."""
    return cache_folder("models") / f"pickled-{files_fingerprint([*weights.files, *_beside(folder)])[:32]}"


def _beside(folder: Path) -> list[Path]:
    return [folder / name for name in _BESIDE if (folder / name).is_file()] + sorted(folder.rglob("*.py"))


def pickled_shapes(weights: WeightFiles) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor; weights of PyTorch 1.6 and later are not read for it.

    Raises: ModelError for a file that is damaged or holds more than weights.
    """
    return {name: tuple(tensor.shape) for shard in weights.shards for name, tensor in _read(shard).items()}


def _convert(weights: WeightFiles, beside: Sequence[Path], target: Path, *, ties: bool) -> None:
    """Write the converted folder, which appears whole or not at all."""
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        pieces: list[list[str]] = []
        total = 0
        for shard in weights.shards:
            for piece in _pieces(_distinct(_read(shard), ties=ties)):
                pieces.append(list(piece))
                total += sum(tensor.nbytes for tensor in piece.values())
                save_file(piece, staging / _piece_name(len(pieces)), metadata={"format": "pt"})
        if len(pieces) == 1:
            os.replace(staging / _piece_name(1), staging / SINGLE)
        else:
            names = {name: _piece_name(number) for number, piece in enumerate(pieces, 1) for name in piece}
            index = {"metadata": {"total_size": total}, "weight_map": names}
            (staging / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
        for file in beside:
            copy = staging / file.relative_to(weights.files[0].parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        os.replace(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _read(file: Path) -> Tensors:
    """The tensors of one file; those of a zip archive are mapped into memory, not read."""
    with file.open("rb") as stream:
        beginning = stream.read(2)
    if beginning != b"PK" and beginning[:1] != b"\x80":  # a zip archive, or a bare pickle of before PyTorch 1.6
        raise ModelError(
            f"{file.name} is damaged or no PyTorch file: it begins with {beginning!r}",
            where=str(file),
            fix="download or copy the file again",
        )
    with _as_model_error(file):
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file) or None)
    other = (
        next((repr(name) for name, value in content.items() if not isinstance(value, torch.Tensor)), None)
        if isinstance(content, dict)
        else f"a {type(content).__name__}"
    )
    if other is not None:
        raise ModelError(
            f"{file.name} holds more than weights: {other} is no tensor",
            where=str(file),
            allowed="a state dict: names and tensors",
            fix="save the model with transformers: model.save_pretrained(folder)",
        )
    return dict(content)


@contextmanager
def _as_model_error(file: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual protocol: what cannot be read raises
            yield
    except pickle.UnpicklingError as error:
        reason = next(
            (line.strip() for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line), ""
        )
        reason = reason or "it is no pickle of tensors"
        raise ModelError(
            f"{file.name} holds more than weights, and reading it could run code: {reason}",
            where=str(file),
            allowed="tensors alone (what torch.load reads with weights_only=True)",
            fix="use a checkpoint of the model in safetensors, or of somebody you trust",
        ) from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        IndexError,
        TypeError,
        zipfile.BadZipFile,
    ) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{file.name} is damaged or no PyTorch file: {lines[0]}",
            where=str(file),
            fix="download or copy the file again",
        ) from error


def _distinct(tensors: Tensors, *, ties: bool) -> Tensors:
    """Tensors that share no memory: a tied head is left out where the model ties it again, anything else is copied."""
    seen: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors.items():
        storage = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        first = seen.get(storage)
        # The embedding stays and the head goes, whichever comes first.
        if first is None or first.startswith(_HEADS):
            seen[storage] = name
    first_names = set(seen.values())
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name in first_names or not (ties and name.startswith(_HEADS))
    }


def _pieces(tensors: Tensors) -> Iterator[Tensors]:
    """Parts of at most `PIECE_BYTES`, each tensor whole, contiguous and with memory of its own."""
    piece: Tensors = {}
    size = 0
    for name, tensor in tensors.items():
        if piece and size + tensor.nbytes > PIECE_BYTES:
            yield piece
            piece, size = {}, 0
        piece[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
        size += tensor.nbytes
    yield piece


def _piece_name(number: int) -> str:
    return f"model-{number:05d}.safetensors"


def _ties(folder: Path) -> bool:
    """Whether the model ties its head to its embedding by itself; one whose own code would tell is taken not to."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError):
        return False
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
