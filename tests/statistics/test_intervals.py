"""Intervals and tests: closed forms, symmetries, coverage and false positives on simulated sets."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from afp_ray.statistics import (
    clustered_standard_error,
    holm,
    holm_levels,
    mean_interval,
    paired_difference,
    paired_interval,
    pareto_front,
    permutation_test,
    probability_best,
    redrawn_contents,
    score_interval,
    shares_difference,
    t_quantile,
)
from afp_ray.statistics.bounded import difference_interval


def labels(contents: int, rows: int, tasks: int = 1, languages: int = 1) -> dict[str, list[str]]:
    """N = tasks * languages * contents * rows examples; every task has its contents, the same in every language."""
    grid = itertools.product(range(tasks), range(languages), range(contents), range(rows))
    names: dict[str, list[str]] = {"clusters": [], "tasks": [], "languages": []}
    for task, language, content, _ in grid:
        names["clusters"].append(f"{task}:{content}")
        names["tasks"].append(f"task{task}")
        names["languages"].append(f"language{language}")
    return names


def test_the_macro_mean_weighs_tasks_then_languages_alike() -> None:
    values = [1, 1, 1, 1, 0, 0, 1]
    tasks = ["a", "a", "a", "a", "a", "b", "b"]
    languages = ["th", "th", "th", "th", "sw", "th", "th"]
    for seeds in (values, [values, values]):
        interval = score_interval(seeds, range(7), tasks=tasks, languages=languages)
        assert interval.mean == pytest.approx(((1 + 0) / 2 + 0.5) / 2)
    assert score_interval(values, range(7)).mean == pytest.approx(5 / 7)


def test_the_standard_error_of_single_rows_is_the_usual_one() -> None:
    values = [1, 0, 1, 1, 0, 1, 1]
    assert clustered_standard_error(values, range(7)) == pytest.approx(np.std(values, ddof=1) / math.sqrt(7))


def test_the_standard_error_counts_copies_of_a_row_once() -> None:
    values = [1, 0, 1, 1, 0]
    alone = clustered_standard_error(values, range(5))
    assert clustered_standard_error(np.repeat(values, 4), np.repeat(range(5), 4)) == pytest.approx(alone)
    assert clustered_standard_error([1, 0], ["same", "same"]) is None


def test_swapping_the_sides_negates_the_interval() -> None:
    random = np.random.default_rng(3)
    names = labels(30, 2, tasks=2, languages=3)
    for seeds_a, seeds_b in ((1, 1), (3, 3), (3, 1), (2, 3)):
        a, b = (random.random((seeds, len(names["tasks"]))) < 0.6 for seeds in (seeds_a, seeds_b))
        there = paired_interval(a, b, **names)
        back = paired_interval(b, a, **names)
        assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low), abs=1e-12)
        assert permutation_test(a, b, **names, resamples=500) == permutation_test(b, a, **names, resamples=500)


def test_equal_sides_have_a_point_interval_at_zero_and_p_one() -> None:
    values = np.random.default_rng(0).random((3, 40)) < 0.5
    interval = paired_interval(values, values, range(40))
    assert (interval.mean, interval.low, interval.high) == (0, 0, 0)
    assert permutation_test(values, values, range(40)) == 1


def test_a_constant_difference_has_no_spread() -> None:
    names = labels(20, 3, tasks=2, languages=2)
    b = np.random.default_rng(1).random(len(names["tasks"]))
    interval = paired_interval(b + 0.25, b, **names)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.25, 0.25, 0.25), abs=1e-9)


def test_the_interval_reaches_1_96_standard_errors_where_that_is_right() -> None:
    difference = np.random.default_rng(5).normal(0.1, 1, 400)
    interval = paired_interval(difference, np.zeros(400), range(400))
    reach = 1.96 * difference.std(ddof=1) / 20
    assert (interval.low, interval.high) == pytest.approx(
        (difference.mean() - reach, difference.mean() + reach), abs=6e-3
    )


def test_the_interval_agrees_with_scipy() -> None:
    scipy = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(6)
    a, b = random.random(300) < 0.7, random.random(300) < 0.6
    ours = paired_interval(a, b, range(300))
    theirs = scipy.bootstrap(
        (a.astype(float) - b,), np.mean, n_resamples=20_000, method="percentile", random_state=random
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=6e-3)


def test_copies_of_a_row_in_one_content_add_no_certainty() -> None:
    random = np.random.default_rng(2)
    a, b = random.random(60) < 0.7, random.random(60) < 0.5
    alone = paired_interval(a, b, range(60))
    copied = paired_interval(np.repeat(a, 5), np.repeat(b, 5), np.repeat(range(60), 5))
    assert (alone.low, alone.high) == pytest.approx((copied.low, copied.high), abs=1e-12)
    assert permutation_test(a, b, range(60)) == pytest.approx(
        permutation_test(np.repeat(a, 5), np.repeat(b, 5), np.repeat(range(60), 5)), abs=1e-12
    )


def test_a_content_takes_its_rows_in_every_language_with_it() -> None:
    """Four perfect copies of a language tell no more than one; four independent ones tell more."""
    names = labels(80, 1, languages=4)
    difference = np.tile(np.random.default_rng(4).normal(0, 1, 80), 4)
    zeros = np.zeros(320)
    together = paired_interval(difference, zeros, **names)
    alone = paired_interval(difference[:80], zeros[:80], range(80))
    apart = paired_interval(difference, zeros, range(320), tasks=names["tasks"], languages=names["languages"])
    width = alone.high - alone.low
    assert together.high - together.low == pytest.approx(width, rel=1e-9)
    assert apart.high - apart.low == pytest.approx(width / 2, rel=0.1)


def test_seeds_that_differ_widen_the_headline_alone() -> None:
    random = np.random.default_rng(8)
    base = random.random(200) < 0.5
    a = np.array([base + shift for shift in (-0.2, 0.0, 0.2)])
    runs = paired_interval(a, base, range(200), resample_seeds=False)
    headline = paired_interval(a, base, range(200))
    assert runs.high - runs.low == pytest.approx(0, abs=1e-9)
    # No content says otherwise, so the interval is Student's over the three seeds, whose deviation is 0.2.
    reach = 4.302652729 * 0.2 / math.sqrt(3)
    assert (headline.low, headline.high) == pytest.approx((-reach, reach), rel=1e-6)


def simulate(
    random: np.random.Generator, *, contents: int, gain: float, spread: float = 0.7
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Right answers of two arms on 2 tasks x 3 languages: difficulty of a content is shared by its rows and languages,
    and so is what the second arm gains or loses on it."""
    names = labels(contents, 3, tasks=2, languages=3)
    order = {name: number for number, name in enumerate(dict.fromkeys(names["clusters"]))}
    index = np.array([order[name] for name in names["clusters"]])
    hardness, effect = random.normal(0, 1, len(order)), random.normal(0, spread, len(order))
    sides = [hardness[index], hardness[index] + gain + effect[index]]
    a, b = (side + random.normal(0, 1, len(index)) > 0 for side in sides)
    return b, a, names


def true_difference(gain: float, spread: float = 0.7) -> float:
    """P(second right) - P(first right): both scores are normal, around `gain` and 0."""
    return math.erf(gain / math.sqrt(2 + spread**2) / math.sqrt(2)) / 2


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(11)
    hits, truth = 0, true_difference(0.3)
    for _ in range(300):
        b, a, names = simulate(random, contents=30, gain=0.3)
        interval = paired_interval(b, a, **names)
        hits += interval.low <= truth <= interval.high
    assert 0.92 <= hits / 300 <= 0.98


def test_intervals_that_ignore_contents_would_not_cover_it() -> None:
    random = np.random.default_rng(12)
    hits, truth = 0, true_difference(0.3, 1.5)
    for _ in range(150):
        b, a, names = simulate(random, contents=30, gain=0.3, spread=1.5)
        interval = paired_interval(b, a, **(names | {"clusters": range(len(a))}))
        hits += interval.low <= truth <= interval.high
    assert hits / 150 < 0.85


def test_the_permutation_test_errs_as_rarely_as_it_says() -> None:
    random = np.random.default_rng(13)
    false, detected = 0, 0
    for number in range(300):
        b, a, names = simulate(random, contents=30, gain=0.0)
        false += permutation_test(b, a, **names, resamples=400, seed=number) <= 0.05
        b, a, names = simulate(random, contents=30, gain=0.6)
        detected += permutation_test(b, a, **names, resamples=400, seed=number) <= 0.05
    assert false / 300 <= 0.06
    assert detected / 300 >= 0.8


def test_the_permutation_test_counts_all_patterns_of_few_contents() -> None:
    # 5 contents, all better by one: of 32 sign patterns, two are as extreme.
    assert permutation_test([1] * 5, [0] * 5, range(5)) == pytest.approx(2 / 32)
    # One content of six is worse: 1 + 6 patterns with at most one minus, and their mirror images.
    assert permutation_test([1] * 5 + [0], [0] * 5 + [1], range(6)) == pytest.approx(14 / 64)


def test_a_clear_difference_keeps_a_small_p_value_in_a_large_family() -> None:
    """The share of drawn patterns alone would end at 1 / 10 001, too much for Holm over a thousand tests."""
    p = permutation_test([1] * 60, [0] * 60, range(60))
    assert 2 / 2**60 <= p == pytest.approx(2 * math.exp(-30), rel=1e-6)
    assert holm([p, *[0.5] * 999])[0] < 1e-6


def test_the_permutation_test_agrees_with_scipy() -> None:
    scipy = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(14)
    a, b = random.normal(0.5, 1, 10), random.normal(0, 1, 10)
    exact = scipy.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert permutation_test(a, b, range(10)) == pytest.approx(exact)
    many_a, many_b = random.normal(0.15, 1, 200), random.normal(0, 1, 200)
    assert permutation_test(many_a, many_b, range(200), resamples=40_000) == pytest.approx(
        scipy.ttest_rel(many_a, many_b).pvalue, abs=0.01
    )


def test_the_best_arm_is_sure_when_it_dominates_and_ties_are_shared() -> None:
    names = labels(25, 2, languages=2)
    low = np.random.default_rng(15).random(len(names["tasks"]))
    assert probability_best([low, low + 0.1, low - 0.1], **names, resamples=200) == [0, 1, 0]
    assert probability_best([low, low], **names, resamples=200) == [0.5, 0.5]
    noisy = [np.random.default_rng(seed).random(len(names["tasks"])) for seed in range(3)]
    assert sum(probability_best(noisy, **names, resamples=200)) == pytest.approx(1)


def test_holm_has_its_closed_form() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_scores_have_wilsons_interval() -> None:
    """38 of 40 answers right, each a content of its own, with Student's quantile for the normal one."""
    right = np.array([1] * 38 + [0] * 2)
    result = score_interval(right, range(40), is_share=True)
    z, share, n = t_quantile(0.975, 39), 0.95, 40
    middle, reach = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    expected = ((middle - reach) / (1 + z**2 / n), (middle + reach) / (1 + z**2 / n))
    assert (result.low, result.high) == pytest.approx(expected, abs=1e-9)
    assert score_interval([1] * 40, range(40), is_share=True).low == pytest.approx(1 / (1 + z**2 / 40))


def test_differences_have_tangos_interval() -> None:
    """Of 44 pairs the first side alone is right in 12, the second alone in 1: both ends are 1.96 errors away."""
    low, high = difference_interval(11 / 44, 13 / 44, 1.96**2 / 44)
    asked = np.array([low, high])
    up, down = 12 / 44, 1 / 44
    linear, constant = -up - down + (2 - up + down) * asked, -down * asked * (1 - asked)
    fewer = (np.sqrt(linear**2 - 8 * constant) - linear) / 4
    score = (11 / 44 - asked) / np.sqrt((2 * fewer + asked * (1 - asked)) / 44)
    assert score == pytest.approx([1.96, -1.96], abs=1e-6)
    # Nothing moved: what N answers can rule out.
    assert difference_interval(0.0, 0.0, 4 / 40) == pytest.approx((-4 / 44, 4 / 44), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=6, max_size=30), st.sampled_from([0.05, 0.01, 0.002]))
def test_intervals_and_p_values_never_contradict_each_other(pairs: list[tuple[bool, bool]], alpha: float) -> None:
    left, right = ([pair[side] for pair in pairs] for side in (0, 1))
    result = paired_difference(left, right, range(len(pairs)), is_share=True, resamples=300)
    interval = result.at(alpha)
    assert -1 <= interval.low <= interval.mean <= interval.high <= 1
    assert interval.low < interval.high
    assert (interval.low <= 0 <= interval.high) == (result.p >= alpha)


def test_holm_levels_reject_what_holm_rejects() -> None:
    assert holm_levels([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4])
    random = np.random.default_rng(0)
    for _ in range(200):
        p_values = list(random.random(5) ** 3 * 0.2)
        for p, level, adjusted in zip(p_values, holm_levels(p_values), holm(p_values), strict=True):
            assert (p < level) == (adjusted < 0.05)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms())
def test_holm_never_lowers_a_p_value_and_follows_its_order(values: list[float], random: object) -> None:
    adjusted = holm(values)
    assert all(after >= before for before, after in zip(values, adjusted, strict=True))
    assert adjusted[int(np.argmin(values))] == pytest.approx(min(1, min(values) * len(values)))
    shuffled = list(range(len(values)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert holm([values[i] for i in shuffled]) == pytest.approx([adjusted[i] for i in shuffled])


def test_the_interval_over_seeds_is_students() -> None:
    interval = mean_interval([0.5, 0.6, 0.7])
    assert interval.mean == pytest.approx(0.6)
    assert interval.high - 0.6 == pytest.approx(4.302652729 * 0.1 / math.sqrt(3), rel=1e-6)
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval([0.5])


def test_t_quantiles_have_their_closed_forms() -> None:
    for p in (0.6, 0.975, 1 - 1e-9):
        assert t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-6)  # Cauchy
        assert t_quantile(p, 2) == pytest.approx((2 * p - 1) * math.sqrt(2 / (1 - (2 * p - 1) ** 2)), rel=1e-6)
    assert t_quantile(0.975, 1) == pytest.approx(math.tan(math.pi * 0.475), rel=1e-13)
    assert t_quantile(0.975, 1e9) == pytest.approx(1.959963984540054, rel=1e-8)  # nearly normal


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_pareto_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    front = pareto_front([quality for quality, _ in points], [cost for _, cost in points])

    def is_beaten(index: int) -> bool:
        quality, cost = points[index]
        return any(q >= quality and c <= cost and (q, c) != (quality, cost) for q, c in points)

    assert sorted(front) == [index for index in range(len(points)) if not is_beaten(index)]
    assert [points[index][1] for index in front] == sorted(points[index][1] for index in front)


def test_different_examples_and_single_contents_are_refused() -> None:
    with pytest.raises(ValueError, match="same ones"):
        paired_interval([1, 0], [1, 0, 1], range(2))
    with pytest.raises(ValueError, match="same ones"):
        permutation_test([1, 0], [1, 0, 1], range(2))
    with pytest.raises(ValueError, match="at least 2"):
        paired_interval([1, 0], [1, 1], ["a", "a"])
    with pytest.raises(ValueError, match="labels"):
        paired_interval([1, 0], [1, 1], ["a"])


def test_cells_without_shared_contents_keep_their_size_in_every_resample() -> None:
    """A task of two contents beside one of five hundred: were all redrawn together, it would often be empty."""
    tasks = ["large"] * 500 + ["small"] * 2
    counts = np.concatenate(list(redrawn_contents(range(502), tasks, resamples=400)))
    assert (counts[:, :500].sum(axis=1) == 499).all()
    assert (counts[:, 500:].sum(axis=1) == 1).all()


def test_ten_thousand_resamples_of_twenty_cells_are_fast() -> None:
    names = labels(50, 3, tasks=5, languages=4)
    a, b = (np.random.default_rng(seed).random((3, 3000)) < 0.6 for seed in (1, 2))
    begin = time.process_time()
    paired_interval(a, b, **names)
    permutation_test(a, b, **names)
    assert time.process_time() - begin < 3


def test_a_difference_of_shares_is_as_wide_as_any_pairing_of_the_answers() -> None:
    number, after, before = 40, 26, 10
    bound = shares_difference([after / number], [before / number], number)
    assert bound.estimate.value == pytest.approx(0.4)
    for both in range(max(0, after + before - number), min(after, before) + 1):
        ours = [1.0] * after + [0.0] * (number - after)
        theirs = [1.0] * both + [0.0] * (after - both) + [1.0] * (before - both)
        theirs += [0.0] * (number - len(theirs))
        pair = paired_interval(ours, theirs, range(number), is_share=True)
        assert bound.interval.low <= pair.low + 1e-9 and bound.interval.high >= pair.high - 1e-9, both
    assert bound.interval.low == pytest.approx(
        paired_interval(ours[::-1], [1.0] * before + [0.0] * (number - before), range(number), is_share=True).low
    )
    # Under no difference a pair has the variance of what moved, 0.9 here: t is 0.4 times the square root of 40 / 0.9.
    assert bound.p == pytest.approx(2 * (1 - stats.t.cdf(0.4 * math.sqrt(40 / 0.9), 39)), rel=1e-6)
    assert (
        shares_difference([0.5, 0.9], [0.1], 400).interval.low < 0 < shares_difference([0.7], [0.1], 400).interval.low
    )
