"""Rank correlation: closed forms, invariance, an interval that covers and a test that keeps its level."""

import math

import numpy as np
import pytest

from afp_ray.statistics import rank_correlation, unrestricted_correlation


def test_four_pairs_have_their_closed_form() -> None:
    result = rank_correlation([1, 2, 3, 4], [1, 3, 2, 4])
    assert result is not None
    assert result.rho == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert result.p == pytest.approx(8 / 24)  # |rho| >= 0.8: both ends, three exchanges of neighbours at each


def test_equal_values_share_their_mean_rank() -> None:
    result = rank_correlation([1, 2, 2, 3], [1, 2, 3, 4])
    assert result is not None
    assert result.rho == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_it_reads_ranks_alone_and_turns_with_its_sides() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=12), random.normal(size=12)
    result = rank_correlation(list(a), list(b))
    assert result is not None
    assert rank_correlation(list(np.exp(a)), list(b**3)) == result
    turned = rank_correlation(list(-a), list(b))
    assert turned is not None
    assert (turned.rho, turned.low, turned.high) == pytest.approx((-result.rho, -result.high, -result.low))


def test_perfect_rankings_still_leave_doubt_when_they_are_short() -> None:
    short, long = rank_correlation(range(4), range(4)), rank_correlation(range(40), range(40))
    assert short is not None
    assert long is not None
    assert (short.rho, short.high, long.rho) == pytest.approx((1, 1, 1))
    assert short.low < 0.5 < 0.95 < long.low
    assert short.p == pytest.approx(2 / 24)
    assert long.p < 0.001


@pytest.mark.parametrize(("a", "b"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([], [])])
def test_too_few_or_equal_values_say_nothing(a: list[float], b: list[float]) -> None:
    assert rank_correlation(a, b) is None


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        rank_correlation([1, 2, 3], [1, 2])


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("n", [6, 12, 120])
def test_intervals_cover_the_true_correlation(n: int, correlation: float) -> None:
    random, truth, covered, claimed = np.random.default_rng(n), 6 / math.pi * math.asin(correlation / 2), 0, 0
    for _ in range(300):
        a = random.normal(size=n)
        b = correlation * a + math.sqrt(1 - correlation**2) * random.normal(size=n)
        result = rank_correlation(list(a), list(b), resamples=500)
        assert result is not None
        covered += result.low <= truth <= result.high
        claimed += result.p < 0.05
    assert covered / 300 > 0.92
    if correlation == 0:
        assert claimed / 300 < 0.088  # 0.05 and three standard errors
    elif n == 120:
        assert claimed == 300


@pytest.mark.parametrize("truth", [0.0, 0.4, 0.8, -0.6])
def test_what_selection_took_from_a_correlation_is_given_back(truth: float) -> None:
    random, result, naive = np.random.default_rng(1), [], []
    for _ in range(200):
        first = random.normal(size=200)
        second = truth * first + math.sqrt(1 - truth**2) * random.normal(size=200)
        best = np.argsort(first)[-60:]
        result.append(unrestricted_correlation(list(first[best]), list(second[best]), list(first)))
        naive.append(np.corrcoef(first[best], second[best])[0, 1])
    assert np.mean(result) == pytest.approx(truth, abs=0.05)
    assert abs(np.mean(naive)) <= abs(truth) / 1.2 + 0.02


def test_without_selection_nothing_is_given_back() -> None:
    first, second = [1.0, 2.0, 4.0, 3.0], [1.0, 3.0, 2.0, 5.0]
    assert unrestricted_correlation(first, second, first) == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert unrestricted_correlation(first[:2], second[:2], first) is None
