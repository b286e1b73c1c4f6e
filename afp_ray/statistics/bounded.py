"""Intervals of shares and of their differences that stay on their scale and have a width at its ends too.

Near 0 and 1 an estimate plus or minus some standard errors is wrong: the standard error is small, or nothing, just
where the estimate happens to be an end. A score interval asks instead which true values would make the estimate
unlikely, with the spread that they themselves would bring about. Its one measure of uncertainty is `relative`: the
squared reach of the interval as a share of the variance of a single answer, which is t squared over N for N answers
that are independent.
"""

import math

_HALVINGS = 60
"""Of a range of at most 2: what is left is below the rounding of numbers near 1."""


def share_interval(share: float, relative: float) -> tuple[float, float]:
    """Ends of the interval of a share in [0, 1].

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference (1927).
    """
    middle = (share + relative / 2) / (1 + relative)
    reach = math.sqrt(relative * share * (1 - share) + relative**2 / 4) / (1 + relative)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def difference_interval(difference: float, moved: float, relative: float) -> tuple[float, float]:
    """Ends of the interval of a paired difference of two shares, in [-1, 1].

    Args:
        difference: the estimate.
        moved: mean absolute difference of the pairs: of answers that are right or wrong, how many the two sides do not
            share.
    Source: Tango, Equivalence Test and Confidence Interval for the Difference in Proportions for the Paired-Sample
        Design (1998): the share of moved answers is estimated anew under each difference that is asked about.
    """
    up, down = (moved + difference) / 2, (moved - difference) / 2  # shares of pairs that move one way and the other

    def is_inside(asked: float) -> bool:
        return (difference - asked) ** 2 <= relative * _variance(up, down, asked)

    def end(beyond: float) -> float:
        inside = difference  # the estimate itself is always inside
        for _ in range(_HALVINGS):
            middle = (inside + beyond) / 2
            inside, beyond = (middle, beyond) if is_inside(middle) else (inside, middle)
        return inside

    return end(-1.0), end(1.0)


def _variance(up: float, down: float, asked: float) -> float:
    """Variance of one pair when the true difference is `asked`, from the likeliest share of moved answers then.

    With x of the pairs moving down, `asked` + x move up, and the variance is 2 x + asked - asked^2. The likeliest x is
    the larger root of 2 x^2 + linear x + constant = 0.
    """
    linear = -up - down + (2 - up + down) * asked
    constant = -down * asked * (1 - asked)
    fewer = (math.sqrt(max(0.0, linear**2 - 8 * constant)) - linear) / 4
    return max(0.0, 2 * fewer + asked * (1 - asked))
