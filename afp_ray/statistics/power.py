"""The smallest true difference that a planned comparison is likely to find, from the spreads that it will have."""

import math

import numpy as np

from afp_ray.statistics.spread import t_quantile

_QUANTILES = 400
"""Equally likely values of an estimated variance over seeds that an expectation is taken over."""


def smallest_effect(
    contents: float, degrees: float, *, seeds: float = 0.0, num_seeds: int = 1, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The true difference whose paired interval leaves zero out with a probability of `power`.

    The interval is the one of `Spread.reach`: its reach adds the squares of Student's t times each standard error. The
    spread over contents is told well by many of them; that over seeds is itself estimated from few, so the expectation
    is taken over what will be estimated.

    Args:
        contents: variance of the difference over contents, of the mean over all of them.
        degrees: of freedom behind it.
        seeds: variance of the difference of one training run over runs; not counted with one seed, whose interval
            speaks of that very run.
        num_seeds: runs of the arm, 1 or more.
        alpha: level of the two-sided test.
        power: probability of finding it, in (0.5, 1).
    Returns: the difference, on the scale of the score; 0 where nothing varies.
    """
    from scipy.special import gammaincinv, ndtr

    of_runs = seeds / num_seeds if num_seeds > 1 else 0.0
    deviation = math.sqrt(contents + of_runs)
    if deviation == 0:
        return 0.0
    squares = np.full(1, contents * t_quantile(1 - alpha / 2, degrees) ** 2)
    if of_runs > 0:
        free = num_seeds - 1
        probabilities = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        estimated = of_runs * 2 * gammaincinv(free / 2, probabilities) / free  # chi squared over its degrees
        squares = squares + estimated * t_quantile(1 - alpha / 2, free) ** 2
    reaches = np.sqrt(squares)
    low, high = 0.0, float(reaches.max()) + 10 * deviation
    for _ in range(60):
        middle = (low + high) / 2
        is_found = float(ndtr((middle - reaches) / deviation).mean()) >= power
        low, high = (low, middle) if is_found else (middle, high)
    return high
