"""Blocks that run again in the backward pass give the same gradients, also with dropout and packed rows."""

import contextlib
from typing import Any

import pytest
import torch

from afp_ray.errors import ConfigError
from afp_ray.models.hidden_states import hidden_states_at
from afp_ray.models.packing import (
    packed_hidden_states_at,
    packed_last_hidden_state,
    packed_states_of_every_layer,
    supports_packing,
)
from afp_ray.models.recomputing import recomputed

LENGTHS = torch.tensor([7, 3, 5])
POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS])[None]
ROW = torch.randint(4, 60, (1, 15), generator=torch.Generator().manual_seed(1))


def gradients(model: Any, *, recomputes: bool, layer: int | str) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of a packed forward in train mode, and the bytes that it kept for them."""
    model.zero_grad(set_to_none=True)
    model.train()
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    torch.manual_seed(0)  # GPT-2, GPT-Neo, BLOOM and XGLM have dropout
    place = (model, ROW, POSITIONS, LENGTHS)
    with recomputed(model) if recomputes else contextlib.nullcontext():
        assert supports_packing(model) is None
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            if layer == "all":
                value = torch.stack(packed_states_of_every_layer(*place, reduce=lambda state: state.square().mean()))
            elif layer == "whole":
                value = packed_last_hidden_state(*place).square()
            else:
                value = packed_hidden_states_at(*place, layer=int(layer)).square()
        value.sum().backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}, kept


@pytest.mark.parametrize("layer", [1, 2, "all", "whole"])
def test_gradients_are_the_same_bit_for_bit(family_model: Any, layer: int | str) -> None:
    plain, kept = gradients(family_model, recomputes=False, layer=layer)
    again, kept_again = gradients(family_model, recomputes=True, layer=layer)
    assert again.keys() == plain.keys()
    assert all(torch.equal(again[name], plain[name]) for name in plain)
    assert kept_again < 0.25 * kept


def test_padded_rows_too(family_model: Any) -> None:
    mask = torch.ones_like(ROW.view(3, 5))
    mask[1, 3:] = 0
    found = []
    for surroundings in (contextlib.nullcontext(), recomputed(family_model)):
        family_model.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        with surroundings:
            hidden_states_at(family_model.train(), ROW.view(3, 5), mask, layer=2)[mask.bool()].square().sum().backward()
        found.append({name: value.grad for name, value in family_model.named_parameters() if value.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_it_ends_with_the_block(family_model: Any) -> None:
    with recomputed(family_model):
        assert family_model.is_activation_checkpointing
    assert not family_model.is_activation_checkpointing


def test_a_family_without_it_is_refused(family_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(family_model), "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match="has no gradient checkpointing"), recomputed(family_model):
        pass
