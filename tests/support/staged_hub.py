"""A hub cache as the hub's client lays it out, with tiny random weights in the form of each real checkpoint's files.

Every repository has `blobs/` named by content, `refs/main`, and `snapshots/<commit>/` whose files are links to blobs.
Widths and vocabularies are tiny; layers, positions, special tokens and the kinds and names of files are the real ones.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.utils import sentencepiece_model_pb2_new as sentencepiece

from afp_ray.languages import LANGUAGES

WIDTH, HEADS = 16, 2
PIECE = "\u2581"  # how SentencePiece writes a space
_SAFE = {"format": "pt"}
Files = dict[str, bytes]


def stage_hub(folder: Path) -> Path:
    """Write the cache of every model that a study file names; returns `folder`, the `HF_HUB_CACHE`."""
    with torch.random.fork_rng(), TemporaryDirectory() as scratch:
        for number, (name, make) in enumerate(REPOSITORIES.items()):
            torch.manual_seed(number)
            add_repository(folder, name, make(Path(scratch)))
    return folder


def add_repository(folder: Path, name: str, files: Mapping[str, bytes]) -> str:
    """Write one repository; returns the commit that its `main` stands for."""
    repository = folder / f"models--{name.replace('/', '--')}"
    commit = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
    snapshot = repository / "snapshots" / commit
    for part in (repository / "blobs", repository / "refs", snapshot):
        part.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    for file, content in files.items():
        blob = repository / "blobs" / _blob_name(file, content)
        blob.write_bytes(content)
        (snapshot / file).symlink_to(Path("..") / ".." / "blobs" / blob.name)
    return commit


def _blob_name(file: str, content: bytes) -> str:
    """The SHA-256 of a file of Git LFS, the object name of Git of any other."""
    if Path(file).suffix in (".bin", ".safetensors", ".model"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


# --- weights --------------------------------------------------------------------------------------------------------


def _bytes(scratch: Path, save: Callable[[Path], Any]) -> bytes:
    file = scratch / "weights"
    save(file)
    return file.read_bytes()


def pickled(scratch: Path, tensors: dict[str, Any]) -> Files:
    """`pytorch_model.bin`, as torch saves a state dict: tied weights share their storage."""
    return {"pytorch_model.bin": _bytes(scratch, lambda file: torch.save(tensors, file))}


def pickled_shards(scratch: Path, tensors: dict[str, Any], *, number: int = 2) -> Files:
    """`pytorch_model-0000n-of-0000N.bin` and their index."""
    return _shards(scratch, tensors, "pytorch_model", "bin", number, torch.save)


def safe(scratch: Path, tensors: dict[str, Any]) -> Files:
    """`model.safetensors`."""
    return {"model.safetensors": _bytes(scratch, lambda file: save_file(_apart(tensors), file, _SAFE))}


def safe_shards(scratch: Path, tensors: dict[str, Any], *, number: int = 3) -> Files:
    """`model-0000n-of-0000N.safetensors` and their index."""
    return _shards(
        scratch, tensors, "model", "safetensors", number, lambda part, file: save_file(_apart(part), file, _SAFE)
    )


def _shards(
    scratch: Path, tensors: dict[str, Any], stem: str, suffix: str, number: int, save: Callable[[Any, Path], Any]
) -> Files:
    names = list(tensors)
    size = -(-len(names) // number)
    files: Files = {}
    places: dict[str, str] = {}
    for index in range(number):
        part = {name: tensors[name] for name in names[index * size : (index + 1) * size]}
        file = f"{stem}-{index + 1:05}-of-{number:05}.{suffix}"
        files[file] = _bytes(scratch, lambda path, part=part: save(part, path))  # type: ignore[misc]
        places |= dict.fromkeys(part, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index_file = {"metadata": {"total_size": total}, "weight_map": places}
    name = f"{stem}.{suffix}.index.json"
    return {**files, name: _json(index_file)}


def _apart(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode()


def _tensors(config: Any, dtype: torch.dtype) -> dict[str, Any]:
    """The state dict of a random model; what is tied there shares its storage here."""
    model = transformers.AutoModelForCausalLM.from_config(config)
    return dict(model.to(dtype).state_dict())


def _config(config: Any, architecture: str, **more: Any) -> bytes:
    content = {key: value for key, value in config.to_diff_dict().items() if key != "transformers_version"}
    return _json({**content, "architectures": [architecture], "transformers_version": "4.16.0", **more})


# --- tokenizers -----------------------------------------------------------------------------------------------------


def characters() -> list[str]:
    """Those of the prompt words of every language, and of ASCII."""
    words = "".join(word for language in LANGUAGES.values() for word in language.words.values())
    return sorted({*map(chr, range(33, 127)), *words} - {" "})


def _unigram(specials: Iterable[str]) -> list[tuple[str, float]]:
    return [*((token, 0.0) for token in specials), (PIECE, -2.0), *((letter, -4.0) for letter in characters())]


def xglm_tokenizer() -> Files:
    """SentencePiece's model and the fast tokenizer; the end token stands before every text."""
    vocabulary = _unigram(("<s>", "<pad>", "</s>", "<unk>"))
    made_up = [f"<madeupword{number}>" for number in range(7)]
    tokenizer = Tokenizer(models.Unigram([*vocabulary, *((word, 0.0) for word in made_up)], unk_id=3))
    tokenizer.normalizer = normalizers.Replace(" {2,}", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=PIECE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=PIECE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> </s> $B", special_tokens=[("</s>", 2)]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", *made_up])
    named = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>"}
    special = {**named, "pad_token": "<pad>", "additional_special_tokens": made_up}
    settings = {
        **special,
        "tokenizer_class": "XGLMTokenizer",
        "model_max_length": 2048,
        "special_tokens_map_file": None,
    }
    return {
        # fairseq numbers its own special tokens; SentencePiece's model begins with its three.
        "sentencepiece.bpe.model": _sentencepiece(_unigram(("<unk>", "<s>", "</s>")), kind="unigram"),
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": _json(settings),
        "special_tokens_map.json": _json(special),
    }


def bloom_tokenizer() -> Files:
    """Byte-level BPE, padded on the left; it adds no special token to a text."""
    specials = ["<unk>", "<s>", "</s>", "<pad>"]
    letters = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    settings = {**special, "padding_side": "left", "tokenizer_class": "BloomTokenizerFast", "add_prefix_space": False}
    return {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": _json(settings),
        "special_tokens_map.json": _json(special),
    }


def llama_tokenizer(*, adds_bos: bool = True) -> Files:
    """SentencePiece's model of pieces and bytes, and the fast tokenizer beside it; no padding token."""
    specials = ["<unk>", "<s>", "</s>"]
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), PIECE, *characters()]
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {**special, "add_bos_token": adds_bos, "add_eos_token": False, "tokenizer_class": "LlamaTokenizer"}
    before = "<s> " if adds_bos else ""
    files = {
        "tokenizer.model": _sentencepiece([(piece, -float(rank)) for rank, piece in enumerate(pieces)], kind="bpe"),
        "tokenizer_config.json": _json({**settings, "legacy": False, "model_max_length": 2048}),
        "special_tokens_map.json": _json(special),
    }
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(PIECE), normalizers.Replace(" ", PIECE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(PIECE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{before}$A", pair=f"{before}$A {before}$B", special_tokens=[("<s>", 1)] if adds_bos else []
    )
    tokenizer.add_special_tokens(specials)
    return {**files, "tokenizer.json": tokenizer.to_str(pretty=True).encode()}


def _sentencepiece(pieces: Iterable[tuple[str, float]], *, kind: str) -> bytes:
    """A SentencePiece model with these pieces and scores."""
    model = sentencepiece.ModelProto()
    types = {"<unk>": 2, "<s>": 3, "</s>": 3}
    for piece, score in pieces:
        is_byte = piece.startswith("<0x")
        model.pieces.add(piece=piece, score=score, type=6 if is_byte else types.get(piece, 1))
    model.trainer_spec.model_type = {"unigram": 1, "bpe": 2}[kind]
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.byte_fallback = kind == "bpe"
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    return bytes(model.SerializeToString())


def _vocabulary(files: Files) -> int:
    """Rows of the embedding: more than the tokenizer has tokens, as the real models have."""
    return int(Tokenizer.from_str(files["tokenizer.json"].decode()).get_vocab_size()) + 5


# --- repositories ---------------------------------------------------------------------------------------------------


def _xglm(num_layers: int, write: Callable[..., Files]) -> Callable[[Path], Files]:
    def make(scratch: Path) -> Files:
        tokenizer = xglm_tokenizer()
        config = transformers.XGLMConfig(
            vocab_size=_vocabulary(tokenizer),
            d_model=WIDTH,
            ffn_dim=WIDTH,
            attention_heads=HEADS,
            num_layers=num_layers,
            max_position_embeddings=2048,
        )
        decoding = {"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
        return {
            "config.json": _config(config, "XGLMForCausalLM", torch_dtype="float16"),
            "generation_config.json": _json({**decoding, "decoder_start_token_id": 2}),
            **tokenizer,
            **write(scratch, _tensors(config, torch.float16)),
        }

    return make


def _bloom(num_layers: int, write: Callable[..., Files], *, prefix: str = "") -> Callable[[Path], Files]:
    """BLOOM's checkpoints are of the bare decoder, without the prefix and the head."""

    def make(scratch: Path) -> Files:
        tokenizer = bloom_tokenizer()
        config = transformers.BloomConfig(
            vocab_size=_vocabulary(tokenizer), hidden_size=WIDTH, n_head=HEADS, n_layer=num_layers, pad_token_id=3
        )
        tensors = {
            prefix + name.removeprefix("transformer."): tensor
            for name, tensor in _tensors(config, torch.float16).items()
            if name != "lm_head.weight"
        }
        return {
            "config.json": _config(config, "BloomForCausalLM", seq_length=2048, offset_alibi=100),
            **tokenizer,
            **write(scratch, tensors),
        }

    return make


def _polylm(num_layers: int, write: Callable[..., Files]) -> Callable[[Path], Files]:
    """GPT-2's class with the causal masks that it once saved, and a tokenizer of Llama's kind."""

    def make(scratch: Path) -> Files:
        tokenizer = llama_tokenizer(adds_bos=False)
        config = transformers.GPT2Config(
            vocab_size=_vocabulary(tokenizer),
            n_embd=WIDTH,
            n_head=HEADS,
            n_layer=num_layers,
            n_positions=2048,
            bos_token_id=1,
            eos_token_id=2,
        )
        masks = {
            f"transformer.h.{layer}.attn.{name}": value
            for layer in range(num_layers)
            for name, value in (
                ("bias", torch.ones(1, 1, 8, 8, dtype=torch.uint8)),
                ("masked_bias", torch.tensor(-1e4)),
            )
        }
        return {
            "config.json": _config(config, "GPT2LMHeadModel"),
            **tokenizer,
            **write(scratch, {**_tensors(config, torch.bfloat16), **masks}),
        }

    return make


def _llama(num_layers: int, write: Callable[..., Files]) -> Callable[[Path], Files]:
    def make(scratch: Path) -> Files:
        tokenizer = llama_tokenizer()
        config = transformers.LlamaConfig(
            vocab_size=_vocabulary(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            num_hidden_layers=num_layers,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
        )
        decoding = {"bos_token_id": 1, "eos_token_id": 2, "do_sample": True, "temperature": 0.6, "top_p": 0.9}
        return {
            "config.json": _config(config, "LlamaForCausalLM", torch_dtype="float16"),
            "generation_config.json": _json(decoding),
            **tokenizer,
            **write(scratch, _tensors(config, torch.float16)),
        }

    return make


REPOSITORIES: dict[str, Callable[[Path], Files]] = {
    "facebook/xglm-564M": _xglm(24, pickled),
    "facebook/xglm-7.5B": _xglm(32, pickled_shards),
    "bigscience/bloom-560m": _bloom(24, safe),
    "bigscience/bloomz-560m": _bloom(24, safe, prefix="transformer."),
    "bigscience/bloom-7b1": _bloom(30, safe_shards),
    "bigscience/bloomz-7b1": _bloom(30, safe_shards, prefix="transformer."),
    "DAMO-NLP-MT/polylm-1.7b": _polylm(24, pickled),
    "DAMO-NLP-MT/polylm-13b": _polylm(40, pickled_shards),
    "meta-llama/Llama-2-7b-hf": _llama(32, safe_shards),
}
