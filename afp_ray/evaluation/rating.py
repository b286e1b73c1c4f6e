"""Rates instructions by how likely a model finds their responses, so that the best can be chosen.

A response that is no likelier after its prompt than alone answers nothing; the gain per token is the rating. Source:
instruction-following difficulty, arXiv:2308.12032, with the sign turned: its ratio singles out hard rows, this keeps
rows whose response follows from the prompt, which is what mistranslation breaks.
"""

from collections.abc import Sequence
from typing import Any

from afp_ray.data.rows import ParallelInstruction
from afp_ray.evaluation.scoring import ContinuationScorer

MAX_CHARACTERS = 600
"""Characters of a prompt's end and of a response's beginning that are read, so that a long row costs no more."""


def rate_instructions(
    model: Any,
    tokenizer: Any,
    rows: Sequence[ParallelInstruction],
    *,
    max_batch_tokens: int | None = None,
) -> list[float]:
    """Mean gain of the response by its prompt, in nats a token, over the languages of each row.

    Args:
        model: a causal LM, as it is before training.
        tokenizer: its tokenizer.
        rows: instructions; prompt and response of one language are read together.
        max_batch_tokens: tokens of a padded batch; null takes the scorer's own.
    Returns: one rating a row, higher is better; it does not depend on the other rows beyond float rounding.
    """
    scorer = ContinuationScorer(model, tokenizer, max_batch_tokens=max_batch_tokens)
    questions, owners, lengths = [], [], []
    for index, row in enumerate(rows):
        for language, prompt in row.prompts.items():
            response = " " + row.responses[language][:MAX_CHARACTERS]
            questions.append([(prompt[-MAX_CHARACTERS:], response), ("", response)])
            owners.append(index)
            lengths.append(max(1, len(tokenizer(response, verbose=False)["input_ids"])))
    sums, counts = [0.0] * len(rows), [0] * len(rows)
    for index, length, (after_prompt, alone) in zip(owners, lengths, scorer.score(questions), strict=True):
        sums[index] += (after_prompt - alone) / length
        counts[index] += 1
    return [total / max(1, count) for total, count in zip(sums, counts, strict=True)]
