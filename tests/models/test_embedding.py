"""Embeddings of many texts equal those of each text alone."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import build_model, build_tokenizer

from afp_ray.models.embedding import embed_texts
from afp_ray.models.hidden_states import hidden_states_at
from afp_ray.models.pooling import pool

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10", "w4", "w11 w12"]


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_text_is_embedded_as_if_it_were_alone(layer: int, pooling: Any) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    states = embed_texts(model, tokenizer, TEXTS, layer=layer, pooling=pooling, max_batch_tokens=7)
    for row, text in zip(states, TEXTS, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        mask = torch.ones_like(ids)
        with torch.no_grad():
            alone = pool(hidden_states_at(model, ids, mask, layer=layer), mask, pooling)[0]
        np.testing.assert_allclose(row, alone.numpy(), atol=1e-5)
    assert states[1].tolist() == states[3].tolist()


def test_long_texts_are_cut_and_the_mode_is_left_as_it_was() -> None:
    model, tokenizer = build_model("llama").train(), build_tokenizer()
    whole = embed_texts(model, tokenizer, ["w1 w2", "w1 w2 w3 w4"], layer=1, max_length=2)
    np.testing.assert_allclose(whole[0], whole[1], atol=1e-6)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_texts_and_texts_without_tokens() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    assert embed_texts(model, tokenizer, [], layer=1).shape == (0, 32)
    with pytest.raises(ValueError, match="the text '' has no tokens"):
        embed_texts(model, tokenizer, ["w1", ""], layer=1)
    with pytest.raises(ValueError, match="layer 9"):
        embed_texts(model, tokenizer, ["w1"], layer=9)
