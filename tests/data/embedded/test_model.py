"""The model that ships with the package: made from this corpus, whole, and an ordinary Hugging Face folder."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import afp_ray
from afp_ray.data.embedded import LANGUAGES, corpus_fingerprint, documents, translation_pairs

FOLDER = Path(afp_ray.__file__).parent / "models" / "embedded"


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    stated: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    return stated


def test_the_model_was_made_from_this_corpus(manifest: dict[str, Any]) -> None:
    remedy = "the corpus changed: run tools/make_embedded_model.py again"
    assert manifest["corpus_fingerprint"] == corpus_fingerprint(), remedy


def test_every_file_has_the_hash_that_the_manifest_states(manifest: dict[str, Any]) -> None:
    names = {path.name for path in FOLDER.iterdir()} - {"manifest.json"}
    assert names == set(manifest["files"])
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name
    assert manifest["sha256"] == manifest["files"]["model.safetensors"]


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 4_000_000


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_tokenizer_gives_the_text_back(language: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    texts = [document.text for document in documents(language)[:200]] + ["Zürich 100 %, привет 😀"]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_model_has_read_every_language(manifest: dict[str, Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    for language in LANGUAGES:
        texts = [pair.target for pair in translation_pairs("en", language, "validation")[:40]]
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        with torch.no_grad():
            loss = model(**batch, labels=labels).loss.item()
        assert loss < 3.2, f"{language}: {loss:.2f} nats; a uniform guess costs {len(tokenizer):d} ways, about 8"
        assert manifest["losses"][language] < 2.5
