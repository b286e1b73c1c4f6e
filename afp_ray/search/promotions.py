"""How many trials asynchronous halving is expected to bring to each rung, where draws do not get better with time.

More than one in `factor` goes on: what is among the best of the first few may not be among the best of all.
"""

import random
from bisect import insort
from functools import lru_cache

_MAX_SIMULATED = 243
"""Larger searches promote in the same proportions, nearly."""
_ORDERS = 12


@lru_cache(maxsize=64)
def expected_at_rungs(num_trials: int, factor: int, num_rungs: int) -> tuple[float, ...]:
    """Mean number of trials that are trained to each rung and to the end, over random orders.

    Args:
        num_trials: trials that begin, one after the other.
        factor: one in so many goes on.
        num_rungs: below the end.
    Returns: (num_rungs + 1,) counts; the last is 1 at least, since the best of an arm goes on to its end.
    """
    size = min(num_trials, _MAX_SIMULATED)
    totals = [0] * (num_rungs + 1)
    for seed in range(_ORDERS):
        for rung, count in enumerate(_simulated(size, factor, num_rungs, seed)):
            totals[rung] += count
    means = [total / _ORDERS * num_trials / size for total in totals]
    return (*means[:-1], max(1.0, means[-1]))


def _simulated(num_trials: int, factor: int, num_rungs: int, seed: int) -> list[int]:
    draw = random.Random(seed)  # noqa: S311 - no secret
    reached: list[list[float]] = [[] for _ in range(num_rungs + 1)]  # ranks in [0, 1), the best (lowest) first
    went_on: list[set[float]] = [set() for _ in range(num_rungs)]
    for _ in range(num_trials):
        insort(reached[0], draw.random())
        rung = 0
        while rung < num_rungs:
            best = reached[rung][: len(reached[rung]) // factor]
            rank = next((rank for rank in best if rank not in went_on[rung]), None)
            if rank is None:
                rung += 1  # nobody goes on from here; a promotion from below may have let somebody go on above
                continue
            went_on[rung].add(rank)
            insort(reached[rung + 1], rank)
    return [len(ranks) for ranks in reached]
