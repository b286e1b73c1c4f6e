"""Which requests begin alike, and where to cut them so that their shared tokens run through the model once.

A trunk is a long beginning of many requests (the demonstrations of a k-shot cell); a stem is a beginning of two or more
requests of one trunk (the context that the choices of a question share). Stems are cut at multiples of a few tokens
after their trunk, so that many have one length and run side by side without padding.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

_STEP = 8
"""Tokens between the places where a stem may end."""
_MIN_TRUNK, _MIN_TRUNK_REQUESTS = 32, 8
_MIN_SAVED = 512
"""Tokens that the stems of one length must save together: two more calls of a small model take as long as these."""


@dataclass(frozen=True, slots=True)
class Request:
    """A tokenised choice.

    Attributes:
        ids: token ids of context and continuation.
        start: index of the first continuation token, at least 1.
    """

    ids: tuple[int, ...]
    start: int


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of leading elements that both share."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))


def trunks(requests: Sequence[Request]) -> Iterator[tuple[int, list[Request]]]:
    """Requests by trunk, and last those without one.

    Args:
        requests: distinct.

    Yields: the tokens of the trunk (0 for none) and the requests that begin with it; every request once.
    """
    ordered = sorted(requests, key=lambda request: request.ids)
    shared = [min(common_prefix(a.ids, b.ids), a.start - 1, b.start - 1) for a, b in pairwise(ordered)]
    ranked = sorted((length for length in shared if length >= _MIN_TRUNK), reverse=True)
    # At depth d, every neighbour that shares d tokens saves d.
    depth = max(ranked, key=lambda length: length * sum(other >= length for other in ranked), default=0)
    alike: dict[tuple[int, ...], list[Request]] = defaultdict(list)
    rest: list[Request] = []
    for request in ordered:
        if depth and request.start > depth:
            alike[request.ids[:depth]].append(request)
        else:
            rest.append(request)
    for members in alike.values():
        if len(members) >= _MIN_TRUNK_REQUESTS:
            yield depth, members
        else:
            rest += members
    if rest:
        yield 0, rest


def stems(requests: Sequence[Request], trunk: int) -> tuple[dict[int, list[list[Request]]], list[Request]]:
    """Requests of one trunk by stem.

    Args:
        requests: distinct, with the first `trunk` tokens in common.
        trunk: tokens of the trunk.

    Returns: groups of requests with one stem by the stem's length (tokens, trunk included), and the requests without.
    """
    ordered = sorted(requests, key=lambda request: request.ids)
    lengths = [0] * len(ordered)
    for index in range(1, len(ordered)):
        length = common_prefix(ordered[index - 1].ids, ordered[index].ids)
        lengths[index - 1], lengths[index] = max(lengths[index - 1], length), length
    waiting: dict[int, list[Request]] = defaultdict(list)
    for request, length in zip(ordered, lengths, strict=True):
        waiting[max(0, min(length, request.start - 1) - trunk) // _STEP].append(request)
    found: dict[int, list[list[Request]]] = {}
    for steps in range(max(waiting, default=0), 0, -1):
        length = trunk + steps * _STEP
        groups: dict[tuple[int, ...], list[Request]] = defaultdict(list)
        for request in waiting[steps]:
            groups[request.ids[:length]].append(request)
        kept = [group for group in groups.values() if len(group) > 1]
        if sum(len(group) - 1 for group in kept) * steps * _STEP < _MIN_SAVED:
            kept = []
        else:
            found[length] = kept
        # Whoever stays alone here may share a shorter stem.
        done = {id(request) for group in kept for request in group}
        waiting[steps - 1] += [request for request in waiting[steps] if id(request) not in done]
    return found, waiting[0]
