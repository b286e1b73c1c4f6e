"""Ratings of instructions by a model's likelihood of their responses."""

from typing import Any

import pytest
import torch
from tiny_models import build_model, build_tokenizer
from torch.nn.functional import log_softmax

from afp_ray.data.rows import ParallelInstruction
from afp_ray.evaluation.rating import rate_instructions

ROWS = [
    ParallelInstruction({"en": "w1 w2 w3", "de": "w4 w5"}, {"en": "w6 w7", "de": "w8"}, "test:1", "x"),
    ParallelInstruction({"en": "w9"}, {"en": "w10 w11 w12"}, "test:2", "x"),
]


def log_likelihood(model: Any, ids: list[int], start: int) -> float:
    with torch.no_grad():
        gains = log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
    return sum(float(gains[place - 1, ids[place]]) for place in range(start, len(ids)))


def test_a_rating_is_the_gain_by_the_prompt_per_token_and_mean_over_languages() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()

    def gain(prompt: str, response: str) -> float:
        asked, answered = tokenizer(prompt)["input_ids"], tokenizer(response)["input_ids"]
        given = log_likelihood(model, asked + answered, len(asked))
        return (given - log_likelihood(model, [tokenizer.bos_token_id, *answered], 1)) / len(answered)

    first, second = rate_instructions(model, tokenizer, ROWS)
    assert first == pytest.approx((gain("w1 w2 w3", "w6 w7") + gain("w4 w5", "w8")) / 2, abs=1e-4)
    assert second == pytest.approx(gain("w9", "w10 w11 w12"), abs=1e-4)
    assert rate_instructions(model, tokenizer, ROWS[1:]) == pytest.approx([second], abs=1e-5)
