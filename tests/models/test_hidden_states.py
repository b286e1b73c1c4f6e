"""States of a layer equal those of a whole forward, on every family, and padding never changes them."""

import inspect
from typing import Any

import pytest
import torch

from afp_ray.models.head import vocabulary_head
from afp_ray.models.hidden_states import (
    all_hidden_states,
    decoder_blocks,
    decoder_of,
    hidden_states_at,
    last_hidden_state,
    position_ids,
)
from afp_ray.models.pooling import pool

LENGTHS = (7, 3, 5)


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        place = slice(0, length) if side == "right" else slice(max(LENGTHS) - length, None)
        ids[row, place] = torch.randint(4, 60, (length,), generator=generator)
        mask[row, place] = 1
    return ids, mask


def whole_forward(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    positions = {}
    if "position_ids" in inspect.signature(decoder_of(model).forward).parameters:
        positions["position_ids"] = position_ids(mask)
    output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False, **positions)
    states: tuple[torch.Tensor, ...] = output.hidden_states
    return states


def unpadded_embedding(model: Any, ids: torch.Tensor, layer: int, pooling: Any) -> torch.Tensor:
    mask = torch.ones_like(ids)[None]
    return pool(hidden_states_at(model, ids[None], mask, layer=layer), mask, pooling)[0]


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncated_forward_equals_the_whole_one(family_model: Any, side: str) -> None:
    ids, mask = padded(side)
    with torch.no_grad():
        expected = whole_forward(family_model, ids, mask)
        assert len(expected) == 4
        for layer, state in enumerate(expected):
            assert torch.equal(hidden_states_at(family_model, ids, mask, layer=layer), state), layer


@pytest.mark.parametrize("side", ["left", "right"])
def test_all_states_equal_the_whole_forward_and_reduce_sees_each_once(family_model: Any, side: str) -> None:
    ids, mask = padded(side)
    with torch.no_grad():
        expected = whole_forward(family_model, ids, mask)
    found = all_hidden_states(family_model, ids, mask)
    assert [torch.equal(state, other) for state, other in zip(found, expected, strict=True)] == [True] * 4
    pooled = all_hidden_states(family_model, ids, mask, reduce=lambda state: pool(state, mask, "mean"))
    assert all(torch.equal(vector, pool(state, mask, "mean")) for vector, state in zip(pooled, expected, strict=True))


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_padding_and_its_side_never_change_an_embedding(family_model: Any, pooling: Any) -> None:
    for layer in range(4):
        vectors = []
        with torch.no_grad():
            for side in ("left", "right"):
                ids, mask = padded(side)
                vectors.append(pool(hidden_states_at(family_model, ids, mask, layer=layer), mask, pooling))
            alone = [
                unpadded_embedding(family_model, row[real.bool()], layer, pooling)
                for row, real in zip(*padded("left"), strict=True)
            ]
        for vector in vectors:
            torch.testing.assert_close(vector, torch.stack(alone), rtol=1e-5, atol=1e-5)


def test_nothing_above_the_layer_runs_or_gets_a_gradient(family_model: Any) -> None:
    ids, mask = padded("right")
    blocks = decoder_blocks(family_model)
    ran = []
    for number, block in enumerate(blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    hidden_states_at(family_model, ids, mask, layer=1).square().sum().backward()
    assert ran == [0]
    assert any(parameter.grad is not None for parameter in blocks[0].parameters())
    assert all(parameter.grad is None for parameter in blocks[1].parameters())
    assert all(parameter.grad is None for parameter in blocks[2].parameters())


def test_gradient_of_the_truncated_forward_equals_the_whole_ones(family_model: Any) -> None:
    ids, mask = padded("left")
    hidden_states_at(family_model, ids, mask, layer=2)[mask.bool()].square().sum().backward()
    truncated = {
        name: parameter.grad.clone()
        for name, parameter in family_model.named_parameters()
        if parameter.grad is not None
    }
    family_model.zero_grad()
    whole_forward(family_model, ids, mask)[2][mask.bool()].square().sum().backward()
    for name, gradient in truncated.items():
        torch.testing.assert_close(gradient, family_model.get_parameter(name).grad, rtol=1e-5, atol=1e-6)


def test_hooks_are_gone_after_use_and_after_an_error(family_model: Any) -> None:
    ids, mask = padded("right")
    hidden_states_at(family_model, ids, mask, layer=0)
    all_hidden_states(family_model, ids, mask)
    with pytest.raises(IndexError):
        hidden_states_at(family_model, ids + 1000, mask, layer=1)
    assert not any(block._forward_pre_hooks for block in decoder_blocks(family_model))


def test_a_layer_beyond_the_model_is_refused(family_model: Any) -> None:
    ids, mask = padded("right")
    with pytest.raises(ValueError, match=r"layer 4 is not in 0\.\.3"):
        hidden_states_at(family_model, ids, mask, layer=4)


def test_the_head_gives_the_models_own_logits(family_model: Any) -> None:
    ids, mask = padded("right")
    with torch.no_grad():
        expected = family_model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
        logits = vocabulary_head(family_model).logits(last_hidden_state(family_model, ids, mask))[mask.bool()]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
