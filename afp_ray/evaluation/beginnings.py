"""Which prompts begin alike, so that what they share runs through the model once."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

MIN_TOKENS, MIN_PROMPTS = 32, 2
"""A beginning that is shorter, or shared by fewer prompts, is not worth a call of its own."""
Ids = tuple[int, ...]


def beginnings(prompts: Sequence[Ids]) -> Iterator[tuple[int, list[Ids]]]:
    """Prompts by their shared beginning, and last those without one.

    Of all depths the one is taken that saves most tokens: the demonstrations of a cell, where all prompts have them.

    Args:
        prompts: distinct token ids.
    Yields: the tokens that are shared (0 for none) and the prompts that begin with them, each longer than that; every
        prompt once.
    """
    ordered = sorted(prompts)
    shared = sorted((_common(first, second) for first, second in pairwise(ordered)), reverse=True)
    # At depth d, every pair of neighbours that shares d tokens or more saves d of them.
    saved = {length: length * (rank + 1) for rank, length in enumerate(shared) if length >= MIN_TOKENS}
    depth = max(saved, key=saved.__getitem__, default=0)
    alike: dict[Ids, list[Ids]] = defaultdict(list)
    rest: list[Ids] = []
    for ids in ordered:
        if depth and len(ids) > depth:
            alike[ids[:depth]].append(ids)
        else:
            rest.append(ids)
    for members in alike.values():
        if len(members) >= MIN_PROMPTS:
            yield depth, members
        else:
            rest += members
    if rest:
        yield 0, rest


def _common(first: Ids, second: Ids) -> int:
    """Tokens that both begin with, at least one of either left over."""
    limit = min(len(first), len(second)) - 1
    return next((index for index in range(limit) if first[index] != second[index]), limit)
