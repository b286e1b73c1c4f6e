"""Texts after prompts of equal length, written by `generate` of transformers, whatever a family keeps between steps.

This serves every family that the library can write with: those that keep states and no keys and values (Mamba, RWKV),
and those whose rotary frequencies change while a text grows. It is slower than rows of any length side by side.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from afp_ray.errors import ModelError
from afp_ray.models.decoding_fields import logit_changes
from afp_ray.models.hidden_states import forget_lengths
from afp_ray.models.hub import first_line
from afp_ray.models.load import quiet_transformers
from afp_ray.models.stated_lengths import UNENDING

_ROW_BY_ROW = ("repetition_penalty", "no_repeat_ngram_size")


def is_of_transformers(model: Any) -> bool:
    """Whether a model has what the library writes texts with."""
    return isinstance(model, PreTrainedModel)


def stated_changes(model: Any) -> dict[str, Any]:
    """What the model's generation_config.json changes of its logits, by field; empty for most models."""
    stated = getattr(model, "generation_config", None)
    return {} if stated is None else logit_changes(vars(stated))


def row_processors(changes: dict[str, Any]) -> LogitsProcessorList | None:
    """The same changes for one row at a time; None where they need to know more than the tokens of the row.

    Args:
        changes: as `stated_changes` gives them.
    """
    if not set(changes) <= set(_ROW_BY_ROW):
        return None
    made = LogitsProcessorList()
    if "repetition_penalty" in changes:
        made.append(RepetitionPenaltyLogitsProcessor(changes["repetition_penalty"]))
    if "no_repeat_ngram_size" in changes:
        made.append(NoRepeatNGramLogitsProcessor(changes["no_repeat_ngram_size"]))
    return made


def write_by_library(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    step: Callable[[Tensor], tuple[Tensor, Sequence[bool]]],
    ends: Sequence[int],
    max_new_tokens: int,
) -> None:
    """Let `generate` run the model, one token after another, until every row is done.

    Args:
        model: a causal LM of transformers in evaluation mode.
        prompts: token ids of equal number, one sequence a row.
        step: called with the (B, V) scores of the next tokens, after what generation_config.json changes; gives the
            (B,) tokens to write and which rows are done with them.
        ends: ids that end a text.
        max_new_tokens: longest text.
    """
    changes = stated_changes(model)
    for name, longest in (("min_new_tokens", max_new_tokens), ("min_length", len(prompts[0]) + max_new_tokens)):
        if name in changes:
            changes[name] = min(changes[name], longest)
    settings = GenerationConfig(
        **changes,
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(ends) or None,
        pad_token_id=0,
    )
    ids = torch.tensor(prompts, device=next(model.parameters()).device)
    steps = _Steps(step)
    stated, model.generation_config = model.generation_config, settings  # it would fill what is left open here
    forget_lengths(model)
    if ids.shape[1] == 1:
        # RecurrentGemma keeps its states in its modules, and takes a prompt of one token for the next one of whatever
        # text came before; a forward without a cache makes it forget that.
        with torch.no_grad():
            model(ids, use_cache=False)
    try:
        with quiet_transformers():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=settings,
                logits_processor=LogitsProcessorList([steps]),
                stopping_criteria=StoppingCriteriaList([_Done(steps)]),
            )
    finally:
        model.generation_config = stated


def most_rows(model: Any) -> int:
    """How many rows of equal length `generate` may be given at a time: any number, or one where rows change each other.

    Tried on two rows and three new tokens (RWKV mixes its rows).
    """
    size = int(model.get_input_embeddings().weight.shape[0])
    rows = [[1 + place % (size - 1) for place in range(first, first + 5)] for first in (4, 0)]
    scores_of_each: list[Tensor] = []

    def step(scores: Tensor) -> tuple[Tensor, Sequence[bool]]:
        scores_of_each.append(scores[-1])
        return torch.ones(len(scores), dtype=torch.long, device=scores.device), [False] * len(scores)

    for prompts in (rows, rows[-1:]):
        write_by_library(model, prompts, step=step, ends=(), max_new_tokens=3)
    together, alone = (torch.stack(part).nan_to_num() for part in (scores_of_each[:3], scores_of_each[3:]))
    exact = next(model.parameters()).dtype == torch.float32
    limit = (1e-3 if exact else 0.1) * max(1.0, float(alone.abs().max()))
    return UNENDING if float((together - alone).abs().max()) <= limit else 1


@contextlib.contextmanager
def refused_where_impossible(model: Any) -> Iterator[None]:
    """A `ModelError` for what transformers raises in the block, in which a model writes its first tokens."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"transformers cannot write texts with {type(model).__name__}: {first_line(error)}",
            where="evaluation.tasks",
            allowed="choice tasks, for this model",
            fix="leave the generation tasks out, or choose another model.name",
        ) from error


class _Steps(LogitsProcessor):  # type: ignore[misc, unused-ignore]
    """Leaves the token that `step` chooses as the only one that is possible."""

    def __init__(self, step: Callable[[Tensor], tuple[Tensor, Sequence[bool]]]) -> None:
        self._step = step
        self.is_done: Sequence[bool] = ()

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        chosen, self.is_done = self._step(scores)
        return torch.full_like(scores, float("-inf")).scatter(1, chosen[:, None], 0.0)


class _Done(StoppingCriteria):  # type: ignore[misc, unused-ignore]
    """Ends the rows that the last step has ended."""

    def __init__(self, steps: _Steps) -> None:
        self._steps = steps

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.tensor(self._steps.is_done, device=input_ids.device)
