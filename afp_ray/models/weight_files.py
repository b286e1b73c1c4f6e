"""Which weight files a checkpoint has, and whether they are whole: read from names, sizes and headers alone."""

import json
import re
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from afp_ray import lfs
from afp_ray.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ADAPTER = "adapter_config.json"
KINDS = (SINGLE, INDEX, PICKLED, PICKLED_INDEX)
"""In the order in which the library that loads them looks for them."""
ALLOWED = "model.safetensors or pytorch_model.bin, or their shards with their index"
_MAX_HEADER_BYTES = 100 * 2**20
Marks = tuple[tuple[str, int, int, int], ...]
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|embeddings?)\.weight$")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The weights of a folder.

    Attributes:
        is_pickled: PyTorch's own format, which is converted before it is used.
        files: what holds tensors, by name, and the index after them where there is one.
    """

    is_pickled: bool
    files: tuple[Path, ...]

    @property
    def shards(self) -> tuple[Path, ...]:
        """Files that hold tensors."""
        return tuple(file for file in self.files if file.suffix != ".json")


def find_weights(folder: Path) -> WeightFiles:
    """The files that loading reads, each there and whole.

    Raises: ModelError for weights that are missing, cut, outside the folder, Git LFS pointers or an adapter's.
    """
    try:
        marks = marks_of(sorted(path for path in folder.iterdir() if path.is_file()))
    except OSError:  # files come or go just now
        return _find_weights.__wrapped__(folder, ())
    return _find_weights(folder, marks)


def marks_of(files: Sequence[Path]) -> Marks:
    """Path, size, time of change and inode of files: they tell content apart without reading it."""
    stats = [(str(file), file.stat()) for file in files]
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)


@lru_cache(maxsize=64)
def _find_weights(folder: Path, marks: Marks) -> WeightFiles:
    """The weights of a folder, looked for once while its files stay as they are: one check asks for them often."""
    del marks
    refuse_adapter(folder)
    names = named_weights({path.name for path in folder.iterdir()}, lambda name: read_json(folder / name), str(folder))
    files = tuple(folder / name for name in names)
    for file in files:
        _check_file(file)
    return WeightFiles(names[-1] in (PICKLED, PICKLED_INDEX), files)


def named_weights(
    present: Collection[str], read_index: Callable[[str], Mapping[str, Any]], where: str
) -> tuple[str, ...]:
    """Names of the files that loading reads, the index last.

    Args:
        present: names of the files there are, in a folder or listed by a hub.
        read_index: gives the content of an index.
        where: for messages.
    Raises: ModelError when there are none, or an index names what is not there or lies elsewhere.
    """
    kind = next((name for name in KINDS if name in present), None)
    if kind is None:
        raise ModelError("the model folder has no weights", where=where, allowed=ALLOWED, fix=_missing_fix(present))
    if kind in (SINGLE, PICKLED):
        return (kind,)
    shards = read_index(kind).get("weight_map")
    index_file = f"{where}/{kind}"
    if not isinstance(shards, Mapping) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise ModelError("the index names no shard", where=index_file, fix="copy the whole folder again")
    names = sorted(set(shards.values()))
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise ModelError(
                f"the index names {name!r}, which lies outside the model's folder",
                where=index_file,
                allowed="names of files beside the index",
                fix="do not use this checkpoint before you know who wrote its index",
            )
        if name not in present:
            raise ModelError(
                f"shard {name} of {kind} is missing",
                where=f"{where}/{name}",
                fix="copy or download it beside the index",
            )
    return (*names, kind)


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder that holds an adapter: what a model of it computes would hang on what is installed here.

    Raises: ModelError with the base that it is an adapter of, and both remedies where there are weights beside it.
    """
    path = folder / ADAPTER
    if not path.is_file():
        return
    try:
        base = str(json.loads(path.read_bytes()).get("base_model_name_or_path") or "a base model")
    except (OSError, ValueError, AttributeError):
        base = "a base model"
    merge = f"merge it: PeftModel.from_pretrained(base, {folder.name!r}).merge_and_unload().save_pretrained(NEW_FOLDER)"
    if not any((folder / name).exists() for name in KINDS):
        raise ModelError(
            f"an adapter of {base}, not a whole model",
            where=str(folder),
            allowed="a folder with the weights of a whole causal LM",
            fix=merge,
        )
    raise ModelError(
        f"the folder holds whole weights and an adapter of {base}: which of them is meant cannot be told",
        where=str(path),
        allowed="one of them",
        fix=f"to use the weights alone, move adapter_config.json and adapter_model.* away; to use both, {merge}",
    )


def tensor_shapes(files: WeightFiles) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of safetensors files, from their headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files.shards:
        for name, entry in _header(file).items():
            if name != "__metadata__":
                shapes[name] = tuple(entry["shape"])
    return shapes


def compare_with_config(
    shapes: Mapping[str, tuple[int, ...]], *, num_layers: int, vocab_size: int | None, where: str
) -> None:
    """Refuse a config.json whose sizes are not those of the weights.

    Families name their tensors differently: a size that no known name tells is not compared.

    Raises: ModelError with both numbers.
    """
    blocks = {int(match.group(1)) for name in shapes if (match := _BLOCK.search(name))}
    if blocks and len(blocks) != num_layers:
        raise ModelError(
            f"config.json states {num_layers} layers, the weights have {len(blocks)}",
            where=where,
            fix="put the config.json of these weights into the folder",
        )
    rows = {shape[0] for name, shape in shapes.items() if _EMBEDDING.search(name) and len(shape) == 2}
    # Embeddings are often a little longer than the vocabulary, so that their rows divide well.
    if rows and vocab_size is not None and not max(rows) // 2 <= vocab_size <= max(rows):
        raise ModelError(
            f"config.json states vocab_size {vocab_size}, the weights embed {max(rows)} tokens",
            where=where,
            fix="put the config.json of these weights into the folder",
        )


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file.

    Raises: ModelError when it is none, or a Git LFS pointer.
    """
    refuse_pointer(path)
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} is not JSON: {error}", where=str(path), fix="copy the file again") from error
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error}", where=str(path), fix="copy the file again") from error
    if not isinstance(document, dict):
        raise ModelError(f"{path.name} holds no JSON object", where=str(path), fix="copy the file again")
    return document


def states_checksums(file: Path) -> bool:
    """Whether a zip archive states a checksum of every file in it, so that its directory tells its content.

    `torch.serialization.set_crc32_options(False)` writes zeros in their place.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return all(entry.CRC for entry in archive.infolist() if entry.file_size)
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def refuse_pointer(path: Path) -> None:
    """Refuse a Git LFS pointer that stands where a file of a model belongs."""
    if lfs.is_pointer_file(path):
        raise ModelError(f"{path.name} is {lfs.PROBLEM}", where=str(path), fix=lfs.FIX)


def _check_file(file: Path) -> None:
    """Refuse a file that is no whole weight file, as far as names, sizes and headers tell."""
    if not file.is_file():
        raise ModelError(
            f"{file.name} is a folder or a link to nothing", where=str(file), fix="copy or download the file again"
        )
    refuse_pointer(file)
    if file.suffix == ".safetensors":
        _header(file)
    elif file.suffix != ".json" and file.stat().st_size == 0:
        raise ModelError(f"{file.name} is empty", where=str(file), fix="download or copy the file again")


def _header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file whose length is the one that it promises."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if 8 + length <= min(size, _MAX_HEADER_BYTES) else b""
    try:
        tensors: dict[str, Any] = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
        end = max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        tensors, end = {}, -1
    if size != 8 + length + end:
        raise ModelError(
            f"{file.name} is truncated or no safetensors file ({size} bytes)",
            where=str(file),
            fix="download or copy the file again",
        )
    return tensors


def _missing_fix(present: Collection[str]) -> str:
    """What to do about a folder without weights, by what else it has."""
    variants = sorted(name for name in present if re.fullmatch(r"(model|pytorch_model)\..+\.(safetensors|bin)", name))
    if variants:
        return f"{variants[0]} is a variant; rename it to {variants[0].split('.')[0]}.{variants[0].rpartition('.')[2]}"
    other = sorted(name for name in present if name.endswith((".gguf", ".pth", ".pt", ".msgpack", ".h5", ".onnx")))
    if other:
        return f"{other[0]} is not read; save the model with transformers: model.save_pretrained(folder)"
    return "copy the weights into the folder"
