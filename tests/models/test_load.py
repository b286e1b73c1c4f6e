"""Loading: float32, tied heads stay tied, nothing is trained in place, damage is refused."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import build_model

from afp_ray.config.model import ModelConfig
from afp_ray.errors import ModelError
from afp_ray.models.load import load_model, load_tokenizer
from afp_ray.models.manifest import write_manifest
from afp_ray.models.model_cache import WarmModels

IDS = torch.tensor([[5, 6, 7, 8]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits  # type: ignore[no-any-return]


def test_the_loaded_model_gives_the_logits_of_the_saved_one(saved_model: Path) -> None:
    loaded = load_model(ModelConfig(name=str(saved_model)))
    assert torch.equal(logits(loaded.model), logits(build_model("llama")))
    assert (loaded.num_layers, loaded.hidden_size) == (3, 32)
    assert loaded.tokenizer.decode(loaded.tokenizer("w1 w2").input_ids) == "w1 w2"


def test_half_precision_weights_become_float32(saved_model: Path) -> None:
    half = build_model("llama").to(torch.bfloat16)
    half.save_pretrained(saved_model)
    model = load_model(ModelConfig(name=str(saved_model))).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.lm_head.weight, half.lm_head.weight.float())


def test_every_load_is_the_callers_own(saved_model: Path) -> None:
    cache = WarmModels(max_bytes=2**20)
    first = load_model(ModelConfig(name=str(saved_model)), cache=cache)
    expected = logits(first.model)
    with torch.no_grad():
        for parameter in first.model.parameters():
            parameter.fill_(1.0)
    first.tokenizer.pad_token = "</s>"
    second = load_model(ModelConfig(name=str(saved_model)), cache=cache)
    assert torch.equal(logits(second.model), expected)
    assert second.tokenizer.pad_token == "<pad>"


def test_a_copy_of_a_tied_model_is_tied(saved_model: Path) -> None:
    cache = WarmModels(max_bytes=2**20)
    for _ in range(2):
        model: Any = load_model(ModelConfig(name=str(saved_model)), cache=cache).model
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_cache_reads_once_and_forgets_what_was_used_longest_ago() -> None:
    reads: list[str] = []
    size = sum(tensor.nbytes for tensor in {*build_model("llama").parameters(), *build_model("llama").buffers()}) // 2
    cache = WarmModels(max_bytes=5 * size)

    def ask(name: str) -> None:
        cache.get((name,), lambda: (reads.append(name), (build_model("llama"), None))[1])  # type: ignore[arg-type, func-returns-value]

    for name in ("a", "b", "a", "c", "a", "b"):
        ask(name)
    assert reads == ["a", "b", "c", "b"]


def test_a_model_above_the_limit_is_not_kept() -> None:
    cache = WarmModels(max_bytes=10)
    models = [cache.get(("a",), lambda: (build_model("llama"), None))[0] for _ in range(2)]  # type: ignore[arg-type, return-value]
    assert models[0] is not models[1]
    assert not cache._kept


def test_a_changed_folder_is_read_again(saved_model: Path) -> None:
    cache = WarmModels(max_bytes=2**20)
    first = logits(load_model(ModelConfig(name=str(saved_model)), cache=cache).model)
    build_model("llama", seed=1).save_pretrained(saved_model)
    assert not torch.equal(logits(load_model(ModelConfig(name=str(saved_model)), cache=cache).model), first)


def test_a_warm_load_is_quick(saved_model: Path) -> None:
    load_model(ModelConfig(name=str(saved_model)))
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        load_model(ModelConfig(name=str(saved_model)))
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.1


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_setting_is_kept(saved_model: Path, attention: Any) -> None:
    for _ in range(2):
        model = load_model(ModelConfig(name=str(saved_model), attention=attention)).model
        assert model.config._attn_implementation == attention


def test_an_attention_that_is_not_installed_is_refused(saved_model: Path) -> None:
    with pytest.raises(ModelError, match=r"(?i)flash.?att"):
        load_model(ModelConfig(name=str(saved_model), attention="flash_attention_2"))


def test_a_tokenizer_without_padding_pads_with_the_end_of_text(saved_model: Path) -> None:
    file = saved_model / "tokenizer_config.json"
    document = json.loads(file.read_text())
    document.pop("pad_token")
    file.write_text(json.dumps(document))
    tokenizer = load_tokenizer(ModelConfig(name=str(saved_model)))
    assert tokenizer.pad_token == "</s>"


def test_a_tokenizer_larger_than_the_embedding_is_refused(saved_model: Path) -> None:
    tokenizer = load_tokenizer(ModelConfig(name=str(saved_model)))
    tokenizer.add_tokens([f"more{number}" for number in range(10)])
    tokenizer.save_pretrained(saved_model)
    with pytest.raises(ModelError, match="72 tokens, the model embeds 64"):
        load_model(ModelConfig(name=str(saved_model)))


def test_weights_that_are_missing_are_not_made_up(saved_model: Path) -> None:
    file = saved_model / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 4}))
    with pytest.raises(ModelError, match="lacks 9 weights"):
        load_model(ModelConfig(name=str(saved_model)))


def test_a_type_that_transformers_does_not_know_is_refused(saved_model: Path) -> None:
    file = saved_model / "config.json"
    document = {**json.loads(file.read_text()), "model_type": "unheard-of", "architectures": ["UnheardOfForCausalLM"]}
    file.write_text(json.dumps(document))
    with pytest.raises(ModelError, match="unheard-of"):
        load_model(ModelConfig(name=str(saved_model)))


def test_a_folder_whose_hashes_are_wrong_is_refused(saved_model: Path) -> None:
    write_manifest(saved_model)
    load_model(ModelConfig(name=str(saved_model)))
    weights = saved_model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors of the checkpoint is damaged"):
        load_model(ModelConfig(name=str(saved_model)))
