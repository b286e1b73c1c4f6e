"""What a forward saves is computed from the configuration as it is measured on real weights."""

from typing import Any

import pytest
import torch
import transformers
from tiny_models import FAMILIES, build_model

from afp_ray.config.model import ModelConfig
from afp_ray.config.training import LoraConfig
from afp_ray.models import footprint as module
from afp_ray.models.footprint import (
    Footprint,
    Precision,
    build_without_weights,
    footprint,
    from_shape,
    saved_for_backward,
)
from afp_ray.models.packing import packed_hidden_states_at, packed_last_hidden_state

LENGTH, NUM_LAYERS = 32, 3
DROPOUTS = "dropout attention_dropout activation_dropout embd_pdrop attn_pdrop resid_pdrop hidden_dropout embed_dropout"
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "bf16_resident")


def shape_of(family: str, *, dropout: float = 0.0) -> Any:
    shape = FAMILIES[family]()
    for name in (*DROPOUTS.split(), "resid_dropout"):
        if hasattr(shape, name):
            setattr(shape, name, dropout)
    return shape


def computed(shape: Any, precision: Precision = "fp32", *, length: int = LENGTH, layer: Any = 1) -> Footprint:
    return footprint(from_shape(shape), length=length, layer=layer, precision=precision, lora=None)


def measured(model: Any, num_samples: int, precision: Precision, *, layer: int = NUM_LAYERS) -> int:
    """Bytes that autograd saves of a packed forward of real weights on the CPU."""
    ids = torch.zeros(1, LENGTH * num_samples, dtype=torch.long)
    row = (ids, torch.arange(LENGTH).repeat(num_samples)[None], torch.tensor([LENGTH] * num_samples))
    with saved_for_backward(model) as sizes, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        states = packed_hidden_states_at(model, *row, layer=layer)
    assert states.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_computed_is_what_autograd_saves(
    family: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IN_FLOAT32", frozenset())  # the autocast of a CPU leaves powers in bf16
    found = computed(shape_of(family), precision)
    model = transformers.AutoModelForCausalLM.from_config(shape_of(family)).train()
    model.to(torch.bfloat16 if precision == "bf16_resident" else torch.float32)
    for layer, saved in ((NUM_LAYERS, found.whole), (1, found.lower)):
        for number in (1, 3):
            real = measured(model, number, precision, layer=layer)
            # Masks of windows and of ALiBi stand once, whatever the layers: they are left out.
            assert saved.fixed + number * saved.sample == pytest.approx(real, rel=0.015, abs=17_000)
    more = measured(model, 3, precision) - measured(model, 2, precision)
    assert found.whole.sample == pytest.approx(more, rel=0.015)
    assert found.num_weights == found.num_trained == sum(value.numel() for value in model.parameters())


def test_powers_are_float32_under_the_autocast_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = computed(shape_of("gpt2"), "bf16").whole.sample
    assert on_gpu == computed(shape_of("gpt2"), "bf16").whole.sample
    monkeypatch.setattr(module, "_IN_FLOAT32", frozenset())
    assert on_gpu > 1.2 * computed(shape_of("gpt2"), "bf16").whole.sample  # its GELU is made of powers


def test_dropout_adds_a_byte_for_each_element_that_it_looks_at() -> None:
    without, with_dropout = (computed(shape_of("xglm", dropout=share)) for share in (0.0, 0.1))
    width, hidden = 32, 48
    looked_at = width + NUM_LAYERS * (2 * width + hidden)  # embeddings; attention, feed-forward and its activation
    assert with_dropout.whole.sample - without.whole.sample == LENGTH * looked_at


def test_fused_attention_grows_with_the_tokens_and_capped_scores_with_their_square() -> None:
    for family, factor in (("llama", 2.0), ("gemma2", 2.2)):
        short, long = (computed(shape_of(family), length=length).whole.sample for length in (32, 64))
        assert (long == 2 * short) if factor == 2.0 else (long > factor * short)


@pytest.mark.parametrize("layer, blocks", [(0, 0), (2, 2), ("middle", 1), ("all", NUM_LAYERS)])
def test_the_contrastive_forward_stops_at_its_layer(layer: Any, blocks: int) -> None:
    found = computed(shape_of("llama"), layer=layer)
    of_blocks = found.block.sample * blocks
    assert 0 <= found.lower.sample - of_blocks <= found.whole.sample - NUM_LAYERS * found.block.sample
    model = build_model("llama")
    names = [name for name, _ in model.named_parameters()]
    lower = [name for name in names if not any(f"layers.{number}." in name for number in range(blocks, NUM_LAYERS))]
    assert found.num_lower == sum(model.get_parameter(name).numel() for name in lower)


def test_adapters_alone_are_trained() -> None:
    pytest.importorskip("peft")
    found = footprint(from_shape(shape_of("llama")), length=8, layer=1, precision="fp32", lora=LoraConfig(rank=2))
    width, hidden, of_keys = 32, 48, 16
    sides = 2 * (width + width) + 2 * (width + of_keys) + 3 * (width + hidden)  # of q, o; k, v; gate, up, down
    assert found.num_trained == NUM_LAYERS * 2 * sides
    assert found.num_weights == found.num_trained + computed(shape_of("llama")).num_weights
    assert not found.is_head_trained
    assert found.whole.sample < computed(shape_of("llama"), length=8).whole.sample * 1.5


def test_a_checkpoint_is_read_without_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safetensors.torch.load_file", None)
    model = build_without_weights(ModelConfig())
    assert {value.device.type for value in model.parameters()} == {"meta"}
    assert sum(value.numel() for value in model.parameters()) > 10**5


def test_the_packed_forward_is_the_one_of_training() -> None:
    """A state of the last layer and the forward of the instruction term save the same."""
    model = transformers.AutoModelForCausalLM.from_config(shape_of("llama")).train()
    ids = torch.zeros(1, LENGTH, dtype=torch.long)
    with saved_for_backward(model) as sizes:
        states = packed_last_hidden_state(model, ids, torch.arange(LENGTH)[None], torch.tensor([LENGTH]))
    assert states.requires_grad
    assert sum(sizes.values()) == measured(model, 1, "fp32")
