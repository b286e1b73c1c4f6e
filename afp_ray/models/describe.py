"""What a checkpoint is, read from its files alone: no torch, no transformers, no weights in memory.

The fingerprint is a SHA-256 over config.json, the tokenizer files and the weight files. A weight file above
`WHOLE_FILE_BYTES` enters it by name, size, safetensors header and its first and last MiB: a change inside a
tensor of such a file that leaves all of these alone is not seen. Of PyTorch's own format the last MiB has a checksum of
every tensor; a file without them enters whole. A hub id is fingerprinted by its commit.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afp_ray.config.base import canonical_json
from afp_ray.config.model import EMBEDDED, ModelConfig
from afp_ray.errors import ModelError
from afp_ray.models.custom_code import code_names, pinned_code, refuse_code_of_elsewhere, writing_code
from afp_ray.models.decoding_fields import ends_of, logit_changes
from afp_ray.models.hub import COMMIT, hub_file, meant_model
from afp_ray.models.packaged import PACKAGED, packaged_folder
from afp_ray.models.stated_lengths import Lengths, stated_lengths
from afp_ray.models.weight_files import (
    Marks,
    find_weights,
    marks_of,
    read_json,
    refuse_adapter,
    refuse_pointer,
    states_checksums,
)

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
WHOLE_FILE_BYTES = 64 * 2**20
EDGE_BYTES = 2**20
"""Read at either end of a larger file."""
ALLOWED = "decoder-only causal language models (Llama, Mistral, Qwen, Gemma, XGLM, BLOOM, GPT-2, GPT-Neo, ...)"

_KEYS = {
    "num_layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "n_embed"),
    "vocab_size": ("vocab_size", "n_vocab"),
    "max_positions": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
}
_ENCODERS = """
    albert bert bert-generation big_bird camembert canine convbert deberta deberta-v2 distilbert electra ernie esm
    eurobert flaubert funnel ibert longformer luke megatron-bert mobilebert modernbert mpnet nezha nystromformer
    rembert roberta roberta-prelayernorm roformer squeezebert xlm xlm-roberta xlm-roberta-xl xmod
""".split()  # noqa: SIM905
_ENCODER_DECODERS = """
    bart bigbird_pegasus blenderbot blenderbot-small encoder-decoder fsmt led longt5 m2m_100 marian mbart mt5 mvp
    nllb-moe pegasus pegasus_x plbart prophetnet switch_transformers t5 t5gemma t5gemma2 umt5 whisper
""".split()  # noqa: SIM905
_LOOK_AHEAD = ("cpmant", "xlnet")
"""Families that write texts, but whose states depend on what stands behind a token."""
_CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "LMHead")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)
_TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
_fingerprints: dict[tuple[Any, ...], str] = {}


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What is known of a model before its weights are read.

    Attributes:
        model_type: the family, as config.json names it.
        num_layers: decoder blocks; `hidden_states` has one entry more.
        hidden_size: width of a token state.
        vocab_size: rows of the embedding; None when config.json leaves it to the family's default.
        max_positions: longest input in tokens; None where the family has no such limit (BLOOM).
        folder: where the files lie; None for a hub id.
        fingerprint: SHA-256, 64 hex digits.
        revision: commit of a hub id; None for a folder.
        lengths: which lengths of text it treats alike, as far as its configuration says.
    """

    model_type: str
    num_layers: int
    hidden_size: int
    vocab_size: int | None
    max_positions: int | None
    folder: str | None
    fingerprint: str
    revision: str | None = None
    lengths: Lengths = field(default_factory=Lengths)


def describe(config: ModelConfig) -> ModelDescription:
    """Read what a checkpoint is and refuse what cannot be trained as a causal LM.

    Args:
        config: `embedded`, a local folder, or a hub id (its config.json comes from the local hub cache or the hub).
    Returns: the description, with a fingerprint of the content.
    Raises: ModelError naming the file, what is allowed and the fix.
    """
    folder = local_folder(config)
    if folder is None:
        return _describe_hub(config)
    refuse_adapter(folder)
    document = read_json(_existing(folder / "config.json", "not a model folder: it has no config.json"))
    _refuse_other_kinds(document, str(folder))
    tokenizer_files = _tokenizer_files(folder)
    fingerprint = files_fingerprint([folder / "config.json", *tokenizer_files, *find_weights(folder).files])
    names = [*code_names(document, tokenizer_config(folder)), *writing_code(folder)]
    code = pinned_code(config, folder, names)
    fingerprint = _with_rest(fingerprint, document, folder, code=code)
    return _description(document, folder=str(folder), fingerprint=fingerprint, revision=None)


def file_marks(folder: Path) -> Marks:
    """Path, size, time of change and inode of every file of a model folder, by name.

    Raises: ModelError when the folder cannot be read.
    """
    try:
        return marks_of(sorted(path for path in folder.iterdir() if path.is_file()))
    except OSError as error:
        raise ModelError(f"the model folder cannot be read: {error}", where=str(folder), fix="try again") from error


def local_folder(config: ModelConfig) -> Path | None:
    """Folder of `embedded`, of a packaged model or of a local path; None for a hub id.

    Raises: ModelError for a path that does not exist.
    """
    if config.name == EMBEDDED:
        return _existing(EMBEDDED_FOLDER, "the embedded model is missing from the installation")
    if config.name in PACKAGED:
        return packaged_folder(config.name)
    path = Path(config.name).expanduser()
    if path.is_dir():
        return path.resolve()
    looks_like_path = config.name.startswith((".", "/", "~")) or config.name.count("/") > 1
    if looks_like_path or path.exists():
        problem = "is a file, not a folder" if path.exists() else "does not exist"
        raise ModelError(
            f"model {config.name!r} {problem}",
            where="model.name",
            allowed="embedded, a local folder, or a hub id such as facebook/xglm-564M",
            fix=meant_model(config.name) or "give the folder that holds config.json",
        )
    return None


def _describe_hub(config: ModelConfig) -> ModelDescription:
    if config.trust_remote_code and not (config.revision and COMMIT.fullmatch(config.revision)):
        raise ModelError(
            f"model.trust_remote_code runs code of {config.name!r}, whose revision {config.revision!r} can change",
            where="model.revision",
            allowed="a full commit hash (40 hex digits)",
            fix="read that code, then pin model.revision to its commit",
        )
    path = hub_file(config, "config.json")
    document = read_json(path)
    _refuse_other_kinds(document, config.name)
    if config.trust_remote_code:
        refuse_code_of_elsewhere(code_names(document), config.name)
    # The cache keeps a file under snapshots/<commit>/: the commit names every byte of the repository.
    commit = path.parent.name
    fingerprint = hashlib.sha256(f"hub:{config.name}@{commit}".encode()).hexdigest()
    return _description(document, folder=None, fingerprint=fingerprint, revision=commit)


def _refuse_other_kinds(document: Mapping[str, Any], place: str) -> None:
    model_type = str(document.get("model_type", ""))
    architectures = [str(name) for name in document.get("architectures") or ()]
    kind = ""
    if model_type in _ENCODERS:
        kind = "an encoder-only model"
    elif model_type in _ENCODER_DECODERS or document.get("is_encoder_decoder") is True:
        kind = "an encoder-decoder model"
    elif model_type in _LOOK_AHEAD:
        kind = "no causal language model: its attention looks at later tokens"
    elif architectures and not any(name.endswith(_CAUSAL_ENDINGS) for name in architectures):
        # A multimodal checkpoint (Gemma 3) is named ForConditionalGeneration; its text model is a causal LM.
        if not ("text_config" in document and architectures[0].endswith("ForConditionalGeneration")):
            kind = f"no causal language model: its architecture is {architectures[0]}"
    elif not model_type:
        raise ModelError(
            "config.json names no model_type", where=place, allowed=ALLOWED, fix="save the model with transformers"
        )
    if kind:
        raise ModelError(
            f"{model_type or 'the model'} is {kind}", where=place, allowed=ALLOWED, fix="choose another model.name"
        )


def _description(
    document: Mapping[str, Any], *, folder: str | None, fingerprint: str, revision: str | None
) -> ModelDescription:
    text = document.get("text_config")
    sizes = {**document, **text} if isinstance(text, dict) else document

    def size(field: str) -> int | None:
        return next((int(sizes[key]) for key in _KEYS[field] if isinstance(sizes.get(key), int)), None)

    num_layers, hidden_size = size("num_layers"), size("hidden_size")
    if num_layers is None or hidden_size is None:
        missing = "num_layers" if num_layers is None else "hidden_size"
        raise ModelError(
            f"config.json states no {missing}",
            where=folder or "model.name",
            allowed=f"one of the keys {', '.join(_KEYS[missing])}",
            fix="save the model with transformers, which writes every size",
        )
    return ModelDescription(
        model_type=str(document.get("model_type", "")),
        num_layers=num_layers,
        hidden_size=hidden_size,
        vocab_size=size("vocab_size"),
        max_positions=size("max_positions"),
        folder=folder,
        fingerprint=fingerprint,
        revision=revision,
        lengths=stated_lengths(sizes),
    )


def _tokenizer_files(folder: Path) -> list[Path]:
    present = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not present:
        raise ModelError(
            "the model folder has no tokenizer",
            where=str(folder),
            allowed=f"one of {', '.join(_TOKENIZER_FILES)}",
            fix="save it beside the weights: tokenizer.save_pretrained(folder)",
        )
    files = present + [folder / name for name in _TOKENIZER_EXTRAS if (folder / name).is_file()]
    for file in files:
        refuse_pointer(file)
    return files


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json of a folder says; empty where there is none.

    Raises: ModelError when it is no JSON object, or a Git LFS pointer.
    """
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _with_rest(fingerprint: str, document: Mapping[str, Any], folder: Path, *, code: str | None) -> str:
    """The fingerprint with what else decides an answer; where there is nothing else it stays as it is.

    Ids that end a text, and changes of logits, count where generation_config.json states others than config.json,
    which is in the fingerprint as it is. Other fields of that file decide nothing: a study says itself how texts are
    generated.
    """
    path = folder / "generation_config.json"
    stated = read_json(path) if path.is_file() else document
    rest: dict[str, Any] = {"ends": ends_of(stated)} if ends_of(stated) != ends_of(document) else {}
    changes = logit_changes(stated)
    if changes != logit_changes(document):
        rest["changes"] = changes
    if code is not None:
        rest["code"] = code
    return hashlib.sha256(canonical_json([fingerprint, rest]).encode()).hexdigest() if rest else fingerprint


def files_fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 over names and contents; remembered by size and modification time of every file."""
    key = marks_of(files)
    if key not in _fingerprints:
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file.name}:{file.stat().st_size}\n".encode())
            _digest_file(file, digest)
        _fingerprints[key] = digest.hexdigest()
    return _fingerprints[key]


def _digest_file(file: Path, digest: Any) -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= WHOLE_FILE_BYTES:
            digest.update(stream.read())
            return
        if file.suffix == ".bin" and not states_checksums(file):
            digest.update(hashlib.file_digest(stream, "sha256").digest())
            return
        header = int.from_bytes(stream.read(8), "little") if file.suffix == ".safetensors" else 0
        stream.seek(0)
        digest.update(stream.read(min(8 + header, WHOLE_FILE_BYTES) + EDGE_BYTES))
        stream.seek(max(0, size - EDGE_BYTES))
        digest.update(stream.read())


def _existing(path: Path, problem: str) -> Path:
    if not path.exists():
        raise ModelError(problem, where=str(path), fix="copy the missing file, or give another model.name")
    return path
