"""Student's t distribution, without a library for it."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_ANGLES = np.linspace(0, math.pi / 2, 200_001)


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t distribution, for 0.5 <= probability < 1 and degrees >= 1.

    With t = sqrt(degrees) tan(angle) the density becomes cos(angle) ** (degrees - 1), smooth on a bounded range.
    """
    angle = float(np.interp(2 * probability - 1, _cumulative(degrees), _ANGLES))
    return math.sqrt(degrees) * math.tan(angle)


@lru_cache(maxsize=32)
def _cumulative(degrees: float) -> NDArray[np.float64]:
    """P(|t| below that of each angle)."""
    density = np.cos(_ANGLES) ** (degrees - 1)
    cumulative = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2)))
    return np.asarray(cumulative / cumulative[-1], dtype=np.float64)
