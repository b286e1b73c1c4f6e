"""An estimate with all that its interval is made from, at whatever confidence: spreads, and the scale that it lies on.

Shapes: C contents.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from afp_ray.statistics.bounded import difference_interval, share_interval
from afp_ray.statistics.spread import Spread, t_quantile

Scale = Literal["share", "difference", "free"]
"""What an estimate lies on: [0, 1], a difference of two such values, or no bounded scale."""
MIN_CONTENTS = 6
"""Fewer contents have no interval: no pattern of signs of five is rarer than 1 in 16, so that nothing could be told
from zero, and what is left of the scale says nothing."""
_NO_SPREAD = 1e-12
_BESIDE_ZERO = 1e-3
"""Share of an estimate at which the end of an interval lies that a test keeps from zero."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: the estimate.
        low, high: ends of the interval, on the scale of the mean.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Contents:
    """What the contents behind an estimate are.

    Attributes:
        number: C.
        share: summed squares of their weights in the estimate; 1 / C where all weigh alike.
        alike: variance that the estimate would have if all rows of a content were alike.
        deviating: number of contents with a row unlike the most frequent: of a score near 1 those with a wrong answer,
            of a difference those on which the sides differ.
    """

    number: int
    share: float
    alike: float
    deviating: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score, or a difference of two.

    Attributes:
        value: the estimate.
        spread: its variances.
        contents: what it is a mean over.
        scale: what it lies on.
        moved: of a difference, the mean absolute difference of the pairs.
    """

    value: float
    spread: Spread
    contents: Contents
    scale: Scale = "free"
    moved: float = 0.0

    def interval(self, confidence: float = 0.95) -> Interval:
        """The interval at a confidence."""
        if self.scale == "free":
            reach = self.spread.reach(confidence)
            return Interval(self.value, self.value - reach, self.value + reach)
        relative = self._relative(confidence)
        if self.scale == "share":
            low, high = share_interval(self.value, relative)
        else:
            low, high = difference_interval(self.value, self.moved, relative)
        return Interval(self.value, min(low, self.value), max(high, self.value))

    def p_value(self) -> float:
        """Two-sided p-value of a difference being zero: 1 minus the confidence whose interval just touches zero."""
        if self.value == 0:
            return 1.0
        if self.scale == "free":
            return _touching(lambda confidence: self.spread.reach(confidence) < abs(self.value))
        # Under a true difference of zero the variance of a pair is `moved`, in Tango's interval too: no root is needed.
        return _touching(lambda confidence: self._relative(confidence) * self.moved < self.value**2)

    @property
    def _of_one(self) -> float:
        """Variance of a single answer, or of a single pair."""
        second = self.value if self.scale == "share" else self.moved
        return max(0.0, second - self.value**2)

    def _relative(self, confidence: float) -> float:
        """Squared reach as a share of the variance of one answer.

        The variance over contents depends on how alike the rows of one content are, and only contents that deviate show
        that. So the measured variance, `plain`, is averaged with the cautious one, `alike`, as if one more content had
        deviated and shown its rows to be all alike: near an end of the scale, where few deviate, caution weighs most.
        Where nothing varies at all, the number of contents alone counts, as for answers that are right or wrong.

        Source: Howe (1974), as in `Spread.reach`; effective numbers from the clustered variance: Kish, Survey Sampling
            (1965), and Korn and Graubard, Confidence Intervals for Proportions With Small Expected Number of Positive
            Counts Estimated From Survey Data (1998).
        """
        probability = (1 + confidence) / 2
        of_one, contents = self._of_one, self.contents
        shown = (contents.deviating * self.spread.plain + contents.alike) / (contents.deviating + 1)
        over_contents = shown / of_one if of_one > _NO_SPREAD and shown > _NO_SPREAD else contents.share
        relative = over_contents * t_quantile(probability, self.spread.degrees) ** 2
        if of_one > _NO_SPREAD:
            relative += sum(variance / of_one * t_quantile(probability, n) ** 2 for variance, n in self.spread.seeds)
        return relative


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """A paired difference with its test, and intervals that agree with it.

    Attributes:
        estimate: the macro mean of the differences.
        p: two-sided, in (0, 1].
    """

    estimate: Estimate
    p: float

    @property
    def interval(self) -> Interval:
        """At 95 %."""
        return self.at(0.05)

    def at(self, alpha: float) -> Interval:
        """The interval at confidence 1 - `alpha`; it holds zero exactly where p is not below `alpha`.

        The permutation test is exact for few contents, where a score interval is not quite: the test has the last word,
        and the end near zero moves to the other side of it.
        """
        interval = self.estimate.interval(1 - alpha)
        mean = interval.mean
        if self.p >= alpha:
            return replace(interval, low=min(interval.low, 0.0), high=max(interval.high, 0.0))
        if interval.low <= 0 <= interval.high:
            near = _BESIDE_ZERO * mean
            return replace(interval, low=near) if mean > 0 else replace(interval, high=near)
        return interval


def _touching(is_short: Callable[[float], bool]) -> float:
    """1 minus the highest confidence whose interval does not reach zero, by halving: intervals only widen with it."""
    low, high = 0.0, 1.0
    for _ in range(50):
        confidence = (low + high) / 2
        if is_short(confidence):
            low = confidence
        else:
            high = confidence
    return max(1 - low, 1e-12)
