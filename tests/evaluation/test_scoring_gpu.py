"""Choices on a GPU: those of a CPU in eleven families, in both precisions, under masks, padded, behind trunks."""

import pytest
import torch
from tiny_models import FAMILIES, build_model, build_tokenizer

from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.models import attention_totals
from afp_ray.models.attention_totals import kernel_obstacle, kernel_obstacles
from afp_ray.models.precision import weights_in

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.usefixtures("exact_products"),
]
GPU = torch.device("cuda:0")
WORDS = [f"w{number}" for number in range(58)]
BEGINNING = " ".join(WORDS[:40])
QUESTIONS = [
    [
        (f"{BEGINNING * (at < 140)} {WORDS[at % 58]} {WORDS[at % 57]} w3", f" {' '.join(WORDS[at % 50 + i :][:3])}")
        for i in range(3)
    ]
    for at in range(160)
]
"""Most of them behind a trunk of 40 tokens, the rest without one; choices of a question share its tokens."""


@pytest.mark.parametrize("max_batch_tokens", [None, 150])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_choices_in_float32_are_those_of_a_cpu(family: str, max_batch_tokens: int | None) -> None:
    """Small batches too: then most of them are prepared and read while others run."""
    tokenizer = build_tokenizer()
    expected = ContinuationScorer(build_model(family), tokenizer).score(QUESTIONS)
    scorer = ContinuationScorer(build_model(family).to(GPU), tokenizer, max_batch_tokens=max_batch_tokens)
    for values, others in zip(scorer.score(QUESTIONS), expected, strict=True):
        assert values == pytest.approx(others, abs=2e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_choices_in_bf16_are_near_those_of_a_cpu_in_float32(family: str) -> None:
    tokenizer, model = build_tokenizer(), build_model(family)
    expected = ContinuationScorer(model, tokenizer).score(QUESTIONS)
    model = model.to(GPU)
    with weights_in(model, "bf16"):
        scorer = ContinuationScorer(model, tokenizer)
        assert scorer.obstacle is None
        for values, others in zip(scorer.score(QUESTIONS), expected, strict=True):
            assert values == pytest.approx(others, abs=0.15)


@pytest.mark.parametrize("granularity", [1, 7, 512])
def test_padding_changes_nothing(granularity: int) -> None:
    tokenizer, model = build_tokenizer(), build_model("llama").to(GPU)
    scorer = ContinuationScorer(model, tokenizer)
    expected = scorer.score(QUESTIONS)
    scorer.granularity = granularity
    for values, others in zip(scorer.score(QUESTIONS), expected, strict=True):
        assert values == pytest.approx(others, abs=2e-4)


@pytest.mark.parametrize("width", [32, 64, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernel_takes_masks(dtype: torch.dtype, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails scores are right all the same, and slower: the result says so."""
    monkeypatch.setattr(attention_totals, "_obstacles", {})
    assert kernel_obstacle(torch.empty(1, 1, 1, width, dtype=dtype, device=GPU)) is None
    assert kernel_obstacles() == []
