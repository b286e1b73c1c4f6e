"""What one worker of a test scores."""

from typing import Any

import torch
from tiny_models import WORDS, build_model, build_tokenizer

from afp_ray.errors import UserError
from afp_ray.evaluation import sharing
from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.evaluation.workers import score_with_workers

SHOTS = " ".join(WORDS[:20] * 2)
QUESTIONS = [
    tuple(
        (
            f"{SHOTS} {WORDS[number % 20]} {' '.join(WORDS[number % 7 : number % 7 + 4])}",
            f" {choice} {WORDS[number % 11]}",
        )
        for choice in (WORDS[1], WORDS[2])
    )
    for number in range(40)
]
QUESTIONS.append(tuple((f"{SHOTS} {SHOTS}", f" {choice}") for choice in WORDS[1:3]))
"""The last one is longer than the model's positions."""


def score(*, is_broken: bool = False) -> dict[str, Any]:
    """Log-likelihoods, counts and tokens that ran, or the error's text; alone where there is no process group."""
    sharing._MIN_SAVED = 64
    model = build_model("llama")
    if is_broken:
        torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    scorer = ContinuationScorer(model, build_tokenizer())
    sizes: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].numel()))
    try:
        values = score_with_workers(scorer, QUESTIONS)
    except UserError as error:
        return {"error": str(error)}
    return {"values": values, "num_truncated": scorer.num_truncated, "num_tokens": sum(sizes)}
