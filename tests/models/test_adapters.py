"""Adapters change nothing until they are trained; merged, they leave a stock checkpoint that computes the same."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import build_model

from afp_ray.config.training import LoraConfig
from afp_ray.errors import ConfigError, ModelError
from afp_ray.models.adapters import add_adapters, merge_adapters, num_trainable
from afp_ray.models.head import vocabulary_head
from afp_ray.models.hidden_states import decoder_blocks, hidden_states_at
from afp_ray.models.packing import packed_last_hidden_state, supports_packing

IDS = torch.arange(4, 20).reshape(2, 8)
MASK = torch.ones_like(IDS)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, attention_mask=MASK, use_cache=False).logits
    return found


def disturb(model: Any) -> None:
    """Give the second matrix of every adapter random weights; it starts as zeros."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("targets", ["linear", "attention"])
def test_merged_weights_compute_what_the_adapters_did(family_model: Any, targets: Any) -> None:
    plain, names = logits(family_model), list(family_model.state_dict())
    kind = type(family_model)
    add_adapters(family_model, LoraConfig(rank=4, targets=targets))
    assert torch.equal(logits(family_model), plain), "an adapter starts as the identity"
    disturb(family_model)
    adapted = logits(family_model)
    assert float((adapted - plain).abs().max()) > 0.1
    merge_adapters(family_model)
    torch.testing.assert_close(logits(family_model), adapted, rtol=1e-5, atol=1e-5)
    assert list(family_model.state_dict()) == names
    assert type(family_model) is kind
    assert all(parameter.requires_grad for parameter in family_model.parameters())


def test_adapters_alone_are_trained_up_to_the_layer(family_model: Any) -> None:
    add_adapters(family_model, LoraConfig(rank=2))
    disturb(family_model)
    hidden_states_at(family_model, IDS, MASK, layer=2).square().sum().backward()
    trained = {name for name, value in family_model.named_parameters() if value.grad is not None}
    blocks = decoder_blocks(family_model)
    place = next(name for name, module in family_model.named_modules() if module is blocks)
    assert trained
    assert all("lora_" in name and name.startswith((f"{place}.0.", f"{place}.1.")) for name in trained)
    assert all("lora_" in name for name, value in family_model.named_parameters() if value.requires_grad)


def test_packed_forward_and_head_of_an_adapted_model(family_model: Any) -> None:
    add_adapters(family_model, LoraConfig(rank=2))
    disturb(family_model)
    head = vocabulary_head(family_model)
    assert supports_packing(family_model) is None
    positions = torch.arange(8).repeat(2)[None]
    with torch.no_grad():
        states = packed_last_hidden_state(family_model, IDS.reshape(1, -1), positions, torch.tensor([8, 8]))
        found = head.logits(states).reshape(2, 8, -1)
    torch.testing.assert_close(found, logits(family_model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "xglm"])
def test_the_merged_checkpoint_is_stock(family: str, tmp_path: Path) -> None:
    model = add_adapters(build_model(family), LoraConfig(rank=4))
    disturb(model)
    adapted = logits(model)
    merge_adapters(model).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("adapter*"))
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(stock), adapted, rtol=1e-5, atol=1e-5)
    told = stock.generate(input_ids=IDS, attention_mask=MASK, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert told.shape == (2, 11)


def test_trainable_weights_are_counted() -> None:
    model = build_model("llama")  # 3 blocks: q 32 x 32, k and v 32 x 16, o 32 x 32; gate and up 32 x 48, down 48 x 32
    total = sum(parameter.numel() for parameter in model.parameters())
    assert num_trainable(model) == total
    attention = 3 * 4 * (2 * (32 + 32) + 2 * (32 + 16))
    assert num_trainable(add_adapters(model, LoraConfig(rank=4, targets="attention"))) == attention
    linear = attention + 3 * 4 * 3 * (32 + 48)
    assert num_trainable(add_adapters(build_model("llama"), LoraConfig(rank=4))) == linear


def test_the_first_weights_follow_the_seed_alone() -> None:
    def first(seed: int) -> torch.Tensor:
        model = add_adapters(build_model("llama"), LoraConfig(rank=4), seed=seed)
        return torch.cat([value.flatten() for name, value in model.named_parameters() if "lora_A" in name])

    torch.manual_seed(1)
    expected, found = torch.rand(1), first(0)
    torch.manual_seed(1)
    again = first(0)
    assert torch.equal(torch.rand(1), expected), "the global random state is left as it was"
    assert torch.equal(again, found)
    assert not torch.equal(first(1), found)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'afp-ray\[lora\]'"):
        add_adapters(build_model("llama"), LoraConfig())


def test_blocks_without_attention_projections_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("llama")
    for block in decoder_blocks(model):
        block.mixer = block.self_attn
        del block.self_attn
    with pytest.raises(ModelError, match="no linear layer for targets 'attention'"):
        add_adapters(model, LoraConfig(targets="attention"))
