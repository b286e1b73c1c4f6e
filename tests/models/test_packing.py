"""A packed row gives each sample the states and gradients of a forward over it alone, on every family."""

from typing import Any

import pytest
import torch
import transformers
from tiny_models import FAMILIES, SIZES, build_model

from afp_ray.models import packed_attention
from afp_ray.models.head import vocabulary_head
from afp_ray.models.hidden_states import decoder_blocks, decoder_of, hidden_states_at, last_hidden_state
from afp_ray.models.packed_attention import Samples, ScoreForm, attend, samples_in_row
from afp_ray.models.packing import (
    packed_hidden_states_at,
    packed_last_hidden_state,
    packed_states_of_every_layer,
    supports_packing,
)

SHORT = (7, 3, 1, 9, 7)
LONG = (60, 9, 57, 63)
"""Longer than the windows of the tiny models; together longer than their positions reach."""


@pytest.fixture(params=["one by one", "side by side"])
def attention_form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of the attention, the second of which is that of a GPU."""
    monkeypatch.setattr(packed_attention, "_ONE_BY_ONE", {"cpu"} if request.param == "one by one" else set())


def samples_of(lengths: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(len(lengths))
    return [torch.randint(4, 60, (length,), generator=generator) for length in lengths]


def row_of(samples: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.cat(samples)[None],
        "positions": torch.cat([torch.arange(len(sample)) for sample in samples])[None],
        "lengths": torch.tensor([len(sample) for sample in samples]),
    }


def alone(model: Any, samples: list[torch.Tensor], layer: int) -> torch.Tensor:
    """(1, N, D) states of each sample from a forward of its own."""
    return torch.cat(
        [hidden_states_at(model, one[None], torch.ones_like(one)[None], layer=layer) for one in samples], dim=1
    )


def gradients(model: Any, states: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    weights = torch.linspace(-1, 1, states.numel()).view_as(states)
    (states * weights).sum().backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.usefixtures("attention_form")
@pytest.mark.parametrize("lengths", [SHORT, LONG, (30, 30, 30), (5,)])
def test_packing_equals_one_by_one_forward(family_model: Any, lengths: tuple[int, ...]) -> None:
    samples = samples_of(lengths)
    head = vocabulary_head(family_model)
    assert supports_packing(family_model) is None
    with torch.no_grad():
        expected = head.logits(alone(family_model, samples, 3))
        found = head.logits(packed_last_hidden_state(family_model, **row_of(samples)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("attention_form")
def test_gradients_equal_those_of_one_by_one_forwards(family_model: Any) -> None:
    samples = samples_of(LONG)
    expected = gradients(family_model, alone(family_model, samples, 3))
    found = gradients(family_model, packed_last_hidden_state(family_model, **row_of(samples)))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max().clamp(min=1))
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * scale, msg=name)


def test_every_layer_of_a_packed_row_and_a_truncated_forward_agree(family_model: Any) -> None:
    samples = samples_of(SHORT)
    row = row_of(samples)
    states = packed_states_of_every_layer(family_model, **row, reduce=lambda state: state)
    assert len(states) == 4
    for layer, state in enumerate(states):
        assert torch.equal(packed_hidden_states_at(family_model, **row, layer=layer), state), layer
        torch.testing.assert_close(state, alone(family_model, samples, layer), rtol=1e-5, atol=1e-5)


def test_nothing_above_the_layer_runs_on_a_packed_row(family_model: Any) -> None:
    ran: list[int] = []
    for number, block in enumerate(decoder_blocks(family_model)):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    packed_hidden_states_at(family_model, **row_of(samples_of(SHORT)), layer=1)
    assert ran == [0]


def test_no_sample_sees_another(family_model: Any) -> None:
    samples = samples_of(LONG)
    other = [samples[0], samples_of(LONG)[1] * 0 + 5, samples[2], samples[3]]
    with torch.no_grad():
        first, second = (packed_last_hidden_state(family_model, **row_of(rows)) for rows in (samples, other))
    same = torch.ones(sum(LONG), dtype=torch.bool)
    same[LONG[0] : LONG[0] + LONG[1]] = False
    assert torch.equal(first[0, same], second[0, same])
    assert not torch.equal(first, second)


@pytest.mark.parametrize("layer", [1, 3])
def test_the_stock_model_is_back_after_use_and_after_an_error(family_model: Any, layer: int) -> None:
    row = row_of(samples_of(SHORT))
    before = family_model.config._attn_implementation
    packed_hidden_states_at(family_model, **row, layer=layer)
    with pytest.raises(IndexError):
        packed_hidden_states_at(family_model, row["input_ids"] + 1000, row["positions"], row["lengths"], layer=layer)
    assert family_model.config._attn_implementation == before
    assert not any("forward" in module.__dict__ for module in family_model.modules())
    assert not any(block._forward_pre_hooks for block in decoder_blocks(family_model))


@pytest.mark.parametrize("family", ["xglm", "bloom", "gpt_neo", "gpt2", "qwen2"])
def test_attention_weights_are_dropped_in_training_alone(family: str) -> None:
    dropped = {"attention_dropout": 0.5, "attn_pdrop": 0.5}
    config = FAMILIES[family]()
    for name in dropped.keys() & set(config.to_dict()):
        setattr(config, name, 0.5)
    for name in ("dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "resid_dropout", "embed_dropout"):
        if name in config.to_dict():
            setattr(config, name, 0.0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    row = row_of(samples_of(SHORT))
    with torch.no_grad():
        still = [packed_last_hidden_state(model.eval(), **row) for _ in range(2)]
        moved = [packed_last_hidden_state(model.train(), **row) for _ in range(2)]
    assert torch.equal(still[0], still[1])
    assert not torch.equal(moved[0], moved[1])
    assert not torch.equal(moved[0], still[0])


def test_dropping_weights_keeps_their_expectation() -> None:
    value = torch.ones(1, 1, 64, 4)
    with samples_in_row(Samples((32, 32), value.device)):
        torch.manual_seed(0)
        found = torch.stack([attend(value, value, value, ScoreForm(0.5), dropout=0.3) for _ in range(300)])
    assert found.mean().item() == pytest.approx(1.0, abs=0.01)


def test_a_family_that_is_not_known_is_run_on_padded_rows() -> None:
    model = transformers.AutoModelForCausalLM.from_config(transformers.StableLmConfig(**SIZES)).eval()
    assert supports_packing(model) == "packed attention is not known for the family stablelm"
    samples = samples_of(SHORT)
    with torch.no_grad():
        for layer in range(4):
            found = packed_hidden_states_at(model, **row_of(samples), layer=layer)
            torch.testing.assert_close(found, alone(model, samples, layer), rtol=1e-5, atol=1e-5)
        pooled = packed_states_of_every_layer(model, **row_of(samples), reduce=lambda state: state.shape)
    assert pooled == [(1, sum(SHORT), 32)] * 4


def test_blocks_that_run_again_in_the_backward_are_not_packed() -> None:
    model = build_model("llama")
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    reason = supports_packing(model)
    assert reason is not None
    assert "gradient checkpointing" in reason
    samples = samples_of(SHORT)
    plain = build_model("llama")
    expected = gradients(plain, alone(plain, samples, 3))
    found = gradients(model, packed_last_hidden_state(model.train(), **row_of(samples)))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_positions_reach_no_further_than_the_longest_sample() -> None:
    model = build_model("xglm")
    rows = len(decoder_of(model).embed_positions.weights)
    with torch.no_grad():
        packed_last_hidden_state(model, **row_of(samples_of((60,) * 4)))
        assert len(decoder_of(model).embed_positions.weights) == rows
        sample = samples_of((90,))[0]
        found = packed_last_hidden_state(model, **row_of([sample, sample]))
        expected = last_hidden_state(build_model("xglm"), sample[None], torch.ones_like(sample)[None])
    torch.testing.assert_close(found[:, 90:], expected, rtol=1e-5, atol=1e-5)
