"""Kept models: given out as copies that may be trained, bounded, and read again when their files change."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import build_model

from afp_ray.config.model import ModelConfig
from afp_ray.errors import ConfigError
from afp_ray.models import load, model_cache
from afp_ray.models.load import load_model
from afp_ray.models.model_cache import WarmModels, max_model_bytes


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were read from their files."""
    found: list[str] = []
    read = load._read_model

    def counted(config: ModelConfig, description: Any) -> Any:
        found.append(config.name)
        return read(config, description)

    monkeypatch.setattr(load, "_read_model", counted)
    return found


@pytest.fixture
def memory_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A file that limits the memory of this process as a container does."""
    file = tmp_path / "memory.max"
    monkeypatch.setattr(model_cache, "_CGROUP_LIMITS", (str(tmp_path / "none"), str(file)))
    model_cache._memory.cache_clear()
    yield file
    model_cache._memory.cache_clear()


def test_training_a_copy_leaves_every_bit_of_the_kept_weights(saved_model: Path) -> None:
    cache = WarmModels(2**20)
    trained: Any = load_model(ModelConfig(name=str(saved_model)), cache=cache).model.train()
    ((kept, _, _),) = cache._kept.values()
    before = {name: value.clone() for name, value in kept.state_dict().items()}
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.1)
    for _ in range(2):
        ids = torch.tensor([[5, 6, 7, 8]])
        trained(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items())
    assert all(parameter.grad is None for parameter in kept.parameters())
    assert not kept.training
    assert not torch.equal(trained.lm_head.weight, kept.lm_head.weight)
    shared = {value.data_ptr() for value in kept.parameters()} & {value.data_ptr() for value in trained.parameters()}
    assert not shared


def test_a_file_that_was_touched_is_read_again_whatever_its_fingerprint(saved_model: Path, reads: list[str]) -> None:
    cache, config = WarmModels(2**20), ModelConfig(name=str(saved_model))
    for _ in range(3):
        load_model(config, cache=cache)
    assert len(reads) == 1
    os.utime(saved_model / "model.safetensors", ns=(1, 1))  # the content, and with it the fingerprint, is the same
    load_model(config, cache=cache)
    load_model(config, cache=cache)
    assert len(reads) == 2


def test_two_folders_never_share_weights_by_name(saved_model: Path, tmp_path: Path) -> None:
    cache, config = WarmModels(2**20), ModelConfig(name=str(saved_model))
    first: Any = load_model(config, cache=cache).model
    build_model("llama", seed=1).save_pretrained(tmp_path / "other")
    for file in saved_model.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
    saved_model.rename(tmp_path / "away")
    (tmp_path / "other").rename(saved_model)
    second: Any = load_model(config, cache=cache).model
    assert not torch.equal(first.lm_head.weight, second.lm_head.weight)


def test_no_more_models_are_kept_than_a_study_needs() -> None:
    cache = WarmModels(2**30, max_models=2)
    for name in "abc":
        cache.get(name, lambda: (build_model("llama"), None))
    assert list(cache._kept) == ["b", "c"]


def test_a_load_without_a_cache_keeps_nothing(saved_model: Path, reads: list[str]) -> None:
    kept = list(model_cache.WARM._kept)
    for _ in range(2):
        load_model(ModelConfig(name=str(saved_model)), cache=None)
    assert len(reads) == 2
    assert list(model_cache.WARM._kept) == kept


def test_tokenizers_share_the_vocabulary_and_nothing_that_is_set(saved_model: Path) -> None:
    cache, config = WarmModels(2**20), ModelConfig(name=str(saved_model))
    first, second = (load_model(config, cache=cache).tokenizer for _ in range(2))
    first.pad_token, first.padding_side, first.model_max_length = "</s>", "left", 7
    first.init_kwargs["anything"] = 1
    assert first.backend_tokenizer is second.backend_tokenizer
    assert (second.pad_token, second.padding_side) == ("<pad>", "right")
    assert second.model_max_length != 7
    assert "anything" not in second.init_kwargs
    first(["w1 w2 w3", "w1"], padding=True, truncation=True, max_length=2)
    assert second(["w1 w2 w3", "w1"])["input_ids"] == [second("w1 w2 w3").input_ids, second("w1").input_ids]


def test_a_share_of_the_containers_memory_is_kept_or_what_is_asked(
    memory_limit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AFP_KEEP_MODELS_GB", raising=False)
    memory_limit.write_text("16777216\n")
    assert max_model_bytes() == 2**20
    monkeypatch.setenv("AFP_KEEP_MODELS_GB", "0")
    assert max_model_bytes() == 0
    monkeypatch.setenv("AFP_KEEP_MODELS_GB", "1.5")
    assert max_model_bytes() == 1_500_000_000


def test_memory_without_a_limit_is_that_of_the_machine(memory_limit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AFP_KEEP_MODELS_GB", raising=False)
    memory_limit.write_text("max\n")
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert max_model_bytes() == int(whole * model_cache.MEMORY_SHARE)


@pytest.mark.parametrize("value", ["much", "-1", "inf", "nan"])
def test_a_limit_that_is_no_amount_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFP_KEEP_MODELS_GB", value)
    with pytest.raises(ConfigError, match="AFP_KEEP_MODELS_GB") as caught:
        max_model_bytes()
    assert value in caught.value.problem


def test_nothing_is_kept_where_nothing_may_be(
    saved_model: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFP_KEEP_MODELS_GB", "0")
    cache = WarmModels()
    for _ in range(2):
        load_model(ModelConfig(name=str(saved_model)), cache=cache)
    assert len(reads) == 2
    assert not cache._kept
