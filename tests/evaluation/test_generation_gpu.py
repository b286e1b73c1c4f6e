"""Texts on a GPU: those of a CPU, with steps captured as CUDA graphs or not, whatever ends when."""

from typing import Any

import pytest
import torch

from afp_ray.evaluation.continuous_batching import ON_DEVICE
from afp_ray.evaluation.generation import Prompt, TextGenerator
from afp_ray.models.cuda_graphs import cuda_graphs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.usefixtures("exact_products"),
]
FAMILIES = ("llama", "gpt2", "bloom", "xglm")
QUESTIONS = ("Adam", "The trophy does not fit.", "a", "Geçen hafta Adam", "亚当种下")
PROMPTS = [Prompt((), f"{question} {number}") for question in QUESTIONS for number in range(8)]
ENDS = frozenset(range(1, 400, 9))
"""So many ends that texts of random models have lengths of their own."""


def generator(model: Any, tokenizer: Any, **options: Any) -> TextGenerator:
    writer = TextGenerator(model, tokenizer, max_new_tokens=40, **options)
    writer.ends = ENDS
    return writer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_texts_are_those_of_a_cpu(tokenizer: Any, make_model: Any, family: str, temperature: float) -> None:
    model = make_model(family)
    options = {"temperature": temperature, "seed": 3}
    expected = generator(model, tokenizer, **options).generate(PROMPTS)
    model.to("cuda")
    writer = generator(model, tokenizer, **options)
    assert writer.pace == ON_DEVICE
    assert writer.generate(PROMPTS) == expected
    assert writer.limits.longest_in_slots > 100
    small = generator(model, tokenizer, max_batch_tokens=1200, **options)
    assert small.generate(PROMPTS) == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_captured_steps_write_the_same_texts(tokenizer: Any, make_model: Any, family: str, dtype: torch.dtype) -> None:
    model = make_model(family).to("cuda", dtype)
    expected = generator(model, tokenizer).generate(PROMPTS)
    captured = generator(model, tokenizer, capture=cuda_graphs())
    assert captured.generate(PROMPTS) == expected
    assert captured.warnings == []
    assert captured._slots is not None and captured._slots._captured, "steps were captured"
    assert captured.generate(PROMPTS[::-1]) == expected[::-1], "graphs serve the next texts, too"


@pytest.mark.parametrize("captures", [False, True])
def test_a_step_does_not_wait_for_the_device(tokenizer: Any, make_model: Any, captures: bool) -> None:
    """Torch raises where the host waits; a look at tokens waits for an event, which it does not count."""
    model = make_model("xglm").to("cuda")
    writer = generator(model, tokenizer, capture=cuda_graphs() if captures else None)
    writer.generate(PROMPTS)
    slots = writer._slots_of(8, 64)
    with torch.inference_mode():
        slots.step(8, 64)
        try:
            torch.cuda.set_sync_debug_mode("error")
            for _ in range(3):
                slots.advance(writer._next(slots.step(8, 64), [None] * 8))
        finally:
            torch.cuda.set_sync_debug_mode("default")
