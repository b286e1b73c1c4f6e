"""Simulated studies: intervals hold the truth, null effects are seldom claimed, planted ones are result."""

import dataclasses

import pytest

from benchmarks.coverage import PAIRS, SCORES, Setting, coverage, family_error

STUDIES = 300
"""The Monte-Carlo error of a share of 0.95 is 0.013."""


@pytest.mark.parametrize(
    "setting",
    [
        Setting(contents=40, seeds=1, resamples=200),
        Setting(contents=40, seeds=3, seed_spread=0.1, resamples=200),
        Setting(contents=200, languages=1, seeds=5, seed_spread=0.2, resamples=200),
        Setting(kind="rate", contents=60, seeds=3, seed_spread=0.1, resamples=200),
    ],
    ids=["few contents", "three seeds", "seeds outweigh contents", "rate"],
)
def test_intervals_hold_the_truth_as_often_as_they_say(setting: Setting) -> None:
    planted = coverage(setting, replications=STUDIES)
    null = coverage(dataclasses.replace(setting, gain=0.0), replications=STUDIES, seed=1)
    assert 0.92 <= planted.covered <= 0.985
    assert 0.92 <= null.covered <= 0.985
    assert null.claimed <= 0.05 + 2 * 0.013
    assert null.truth == pytest.approx(0.0)
    assert planted.claimed > 2 * null.claimed


def test_intervals_of_bleu_hold_the_truth_as_often_as_they_say() -> None:
    result = coverage(Setting(kind="bleu", contents=40, languages=2, seeds=1, resamples=200), replications=150)
    assert 0.9 <= result.covered <= 0.99
    assert result.claimed > 0.3


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("contents", "languages", "seeds"), [(40, 1, 1), (40, 3, 3), (100, 3, 1), (500, 1, 5)])
def test_intervals_of_scores_hold_the_truth_up_to_the_end_of_the_scale(
    score: float, contents: int, languages: int, seeds: int
) -> None:
    spread = 0.1 if seeds > 1 else 0.0
    setting = Setting("score", contents, languages, seeds, spread, scores=(score, score))
    result = coverage(setting, replications=STUDIES)
    # At the end itself every interval holds it: one that did not would leave it out of what it could be.
    assert 0.92 <= result.covered <= (1.0 if score == 1 else 0.995)
    assert result.width > 0


@pytest.mark.parametrize("scores", PAIRS)
@pytest.mark.parametrize(("contents", "languages", "seeds"), [(40, 3, 3), (100, 1, 1)])
def test_intervals_of_differences_hold_the_truth_up_to_the_end_of_the_scale(
    scores: tuple[float, float], contents: int, languages: int, seeds: int
) -> None:
    setting = Setting("ends", contents, languages, seeds, 0.1 if seeds > 1 else 0.0, resamples=200, scores=scores)
    result = coverage(setting, replications=STUDIES)
    # With a handful of contents on which the sides differ, an interval that errs at most 1 in 20 often errs less.
    assert result.covered >= 0.92
    assert result.claimed <= 0.05 + 2 * 0.013 or scores[0] != scores[1]


def test_two_seeds_are_paid_for_and_one_seed_says_nothing_about_training() -> None:
    noisy = Setting(contents=200, languages=1, seeds=2, seed_spread=0.3, resamples=100)
    assert coverage(noisy, replications=STUDIES).covered > 0.9
    # Of one run, the interval speaks of that run alone.
    assert coverage(dataclasses.replace(noisy, seeds=1), replications=STUDIES).covered < 0.75


def test_a_gain_of_nine_points_is_found_in_most_studies_of_two_hundred_contents() -> None:
    setting = Setting(contents=200, seeds=3, seed_spread=0.05, resamples=200)
    result = coverage(setting, replications=100)
    assert result.truth == pytest.approx(0.09, abs=0.005)
    assert result.claimed >= 0.8


def test_a_family_of_null_effects_is_claimed_as_seldom_as_one() -> None:
    setting = Setting(contents=60, seeds=3, seed_spread=0.05, gain=0.0, resamples=200)
    wrong, held = family_error(setting, arms=4, replications=STUDIES)
    assert wrong <= 0.05 + 2 * 0.013
    assert held >= 0.95 - 2 * 0.013
    assert held == pytest.approx(1 - wrong), "an interval of the family excludes zero just where it is claimed"
