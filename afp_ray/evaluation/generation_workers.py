"""Several workers share the prompts of one evaluation, and each ends with all texts."""

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from afp_ray.errors import TaskError, UserError
from afp_ray.evaluation.generation import Prompt

_COUNTS = ("num_without_demonstrations", "num_truncated", "num_capped")


def generate_with_workers(
    generator: Any, prompts: Sequence[Prompt], *, stop: Sequence[str] = (), group: dist.ProcessGroup | None = None
) -> list[str]:
    """What `generator.generate` gives, each worker of the group having written a part.

    Prompts are dealt by length, so that no worker has the long ones; equal ones go to one worker. The counts of the
    generator grow by those of all workers.

    Args:
        generator: a `TextGenerator`, or one that asks a cache first, with equal weights on every worker.
        prompts: the same on every worker.
        stop: texts that end an answer.
        group: the workers; null takes all of them, and this process alone where there is no process group.
    Returns: one text per prompt, equal on every worker.
    Raises: what a part raises, on its worker; TaskError on the others, so that none waits for ever.
    """
    if not dist.is_initialized():
        return list(generator.generate(prompts, stop=stop))
    rank, number = dist.get_rank(group), dist.get_world_size(group)
    ordered = sorted(set(prompts), key=lambda prompt: (len(prompt.question), prompt.question, prompt.demonstrations))
    owner = {prompt: place % number for place, prompt in enumerate(ordered)}
    own = [prompt for prompt in prompts if owner[prompt] == rank]
    before = [getattr(generator, name) for name in _COUNTS]
    texts: dict[Prompt, str] | None = None
    failure: UserError | None = None
    try:
        texts = dict(zip(own, generator.generate(own, stop=stop), strict=True)) if own else {}
    except UserError as error:
        failure = error
    grown = [getattr(generator, name) - count for name, count in zip(_COUNTS, before, strict=True)]
    gathered: list[Any] = [None] * number
    dist.all_gather_object(gathered, (texts, grown), group=group)
    if failure is not None:
        raise failure
    if failed := sum(part is None for part, _ in gathered):
        raise TaskError(f"{failed} of the workers could not write their part", fix="see the error of that worker")
    for name, count, *parts in zip(_COUNTS, before, *(counts for _, counts in gathered), strict=True):
        setattr(generator, name, count + sum(parts))
    whole = {prompt: text for part, _ in gathered for prompt, text in part.items()}
    return [whole[prompt] for prompt in prompts]
