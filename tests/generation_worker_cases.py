"""What one worker of a test writes."""

from typing import Any

import torch
from tiny_models import WORDS, build_model, build_tokenizer

from afp_ray.errors import UserError
from afp_ray.evaluation.generation import Prompt, TextGenerator
from afp_ray.evaluation.generation_workers import generate_with_workers

SHOTS = tuple(" ".join(WORDS[start : start + 12]) for start in (0, 5))
PROMPTS = [
    Prompt(SHOTS, " ".join([*WORDS[number % 7 : number % 7 + 2 + number % 5], WORDS[number % 20]]))
    for number in range(30)
]
PROMPTS += [PROMPTS[3], Prompt((" ".join(WORDS * 6), *SHOTS), WORDS[4])]
"""One comes twice, and one is longer than the model's positions."""


def write(*, is_broken: bool = False) -> dict[str, Any]:
    """Texts, counts and prompts that were run, or the error's text; alone where there is no process group."""
    model = build_model("llama")
    torch.nn.init.normal_(model.lm_head.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    if is_broken:
        torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    generator = TextGenerator(model, build_tokenizer(), max_new_tokens=6)
    asked: list[int] = []
    whole = generator.generate

    def counted(prompts: Any, **options: Any) -> list[str]:
        asked.append(len(prompts))
        return whole(prompts, **options)

    generator.generate = counted  # type: ignore[method-assign]
    try:
        texts = generate_with_workers(generator, PROMPTS, stop=("\n",))
    except UserError as error:
        return {"error": str(error)}
    counts = [generator.num_without_demonstrations, generator.num_truncated, generator.num_capped]
    return {"texts": texts, "counts": counts, "asked": sum(asked)}
