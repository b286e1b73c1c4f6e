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


def non_dominated(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other point dominates, in the order given; higher is better in every place.

    A point dominates another when it is nowhere lower and somewhere higher; equal points stay together.
    Source: NSGA-II, doi:10.1109/4235.996017, section III A.
    """
    front: list[int] = []
    # Whatever dominates a point is before it in this order, and so is one of the front that dominates it.
    for index in sorted(range(len(points)), key=lambda i: tuple(points[i]), reverse=True):
        point = points[index]
        if not any(_dominates(points[other], point) for other in front):
            front.append(index)
    return sorted(front)


def _dominates(point: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(point, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
