"""Demonstrations that run once for all prompts of a cell: the same texts, fewer tokens, and where it is not done."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from afp_ray.evaluation.beginnings import MIN_TOKENS, beginnings
from afp_ray.evaluation.generation import Prompt, TextGenerator

FAMILIES = ("llama", "gpt2", "bloom", "xglm")
DEMONSTRATIONS = (
    "Mina is a doctor, right? Yes, Mina works in a hospital.",
    "亚当种下了一些种子所以他每天给花园浇水。",
)
QUESTIONS = ["Adam", "The trophy does not fit into the suitcase.", "Geçen hafta Adam", "a", "Adam planted some"]
PROMPTS = [Prompt(DEMONSTRATIONS, question) for question in QUESTIONS]


def count_inputs(model: Any) -> list[int]:
    sizes: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return sizes


def whole_writer(model: Any, tokenizer: Any, **options: Any) -> TextGenerator:
    """A generator that runs every prompt whole."""
    writer = TextGenerator(model, tokenizer, **{"max_new_tokens": 10, **options})
    with torch.inference_mode():
        writer._limits = replace(writer.limits, longest_shared=0)
    return writer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_a_shared_beginning_changes_no_text(tokenizer: Any, make_model: Any, family: str, temperature: float) -> None:
    model = make_model(family)
    options = {"temperature": temperature, "seed": 5}
    expected = whole_writer(model, tokenizer, **options).generate(PROMPTS)
    writer = TextGenerator(model, tokenizer, max_new_tokens=10, **options)
    assert writer.generate(PROMPTS) == expected
    assert writer.limits.longest_shared > 0
    assert len(set(expected)) > 3


def test_demonstrations_run_once(tokenizer: Any, make_model: Any) -> None:
    model = make_model("llama")
    sizes = count_inputs(model)
    writer = TextGenerator(model, tokenizer, max_new_tokens=1)
    writer.generate([PROMPTS[0]])
    sizes.clear()
    writer.generate(PROMPTS)
    ids = [writer._encode(prompt) for prompt in PROMPTS]
    ((depth, members),) = beginnings(ids)
    longest = max(len(row) for row in ids) - depth
    assert sum(sizes) == depth + len(members) * longest
    assert depth >= len(tokenizer("\n\n".join(DEMONSTRATIONS))["input_ids"]) - 2
    assert sum(sizes) < 0.6 * sum(map(len, ids))


def test_other_demonstrations_are_another_group(tokenizer: Any, make_model: Any) -> None:
    model = make_model("llama")
    mixed = [*PROMPTS, *(Prompt(DEMONSTRATIONS[::-1], question) for question in QUESTIONS), Prompt((), "Mina")]
    assert TextGenerator(model, tokenizer, max_new_tokens=6).generate(mixed) == whole_writer(
        model, tokenizer, max_new_tokens=6
    ).generate(mixed)


def test_prompts_beyond_a_window_are_run_whole(tokenizer: Any) -> None:
    """Padding between a beginning and its end would push the beginning out of sight."""
    from transformers import MistralConfig
    from transformers.models.mistral.modeling_mistral import MistralForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings = MistralConfig(vocab_size=400, num_key_value_heads=2, sliding_window=40, initializer_range=0.5, **shape)
    model = MistralForCausalLM(settings).eval()
    writer = TextGenerator(model, tokenizer, max_new_tokens=10)
    alone = [TextGenerator(model, tokenizer, max_new_tokens=10).generate([prompt])[0] for prompt in PROMPTS]
    assert writer.generate(PROMPTS) == alone
    assert 0 < writer.limits.longest_shared <= 40
    assert all(len(writer._encode(prompt)) + 10 > 40 for prompt in PROMPTS)


@pytest.mark.parametrize("seed", range(8))
def test_beginnings_hold_every_prompt_once_and_leave_each_a_token(seed: int) -> None:
    draw = random.Random(seed)
    stems = [tuple(draw.randrange(3) for _ in range(draw.randrange(20, 60))) for _ in range(3)]
    prompts = list({(*draw.choice(stems), *(draw.randrange(3) for _ in range(draw.randrange(4)))) for _ in range(30)})
    found = list(beginnings(prompts))
    assert sorted(ids for _, members in found for ids in members) == sorted(prompts)
    for depth, members in found:
        assert len({ids[:depth] for ids in members}) == 1
        assert depth == 0 or (depth >= MIN_TOKENS and len(members) > 1 and min(map(len, members)) > depth)


def test_short_or_single_beginnings_are_not_shared() -> None:
    short = tuple(range(MIN_TOKENS - 1))
    assert list(beginnings([(*short, 1), (*short, 2)])) == [(0, [(*short, 1), (*short, 2)])]
    assert list(beginnings([tuple(range(90))])) == [(0, [tuple(range(90))])]
    assert list(beginnings([])) == []
