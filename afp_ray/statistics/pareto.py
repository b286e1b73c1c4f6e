"""Choices between quality and cost."""

import math
from collections.abc import Sequence


def pareto_front(qualities: Sequence[float], costs: Sequence[float]) -> list[int]:
    """Indices of the points that no other point beats, cheapest first.

    A point beats another when its quality is not lower, its cost not higher, and one of the two is better; equal
    points stay together.
    """
    if len(qualities) != len(costs):
        raise ValueError(f"{len(qualities)} qualities and {len(costs)} costs")
    front: list[int] = []
    best = -math.inf
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i], i)):
        is_equal = bool(front) and (qualities[index], costs[index]) == (qualities[front[-1]], costs[front[-1]])
        if qualities[index] > best or is_equal:
            front.append(index)
            best = qualities[index]
    return front
