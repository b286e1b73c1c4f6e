"""Halving on simulated curves: better than whole trainings where they do not cross, worse and warned of elsewhere."""

import json

import pytest

from benchmarks import halving


def test_at_an_equal_budget_halving_finds_better_where_curves_do_not_cross() -> None:
    found = halving.compare("parallel", seeds=14, budget=10, rules=("random", "asha_random"))
    gain, low, _ = found["asha_random"]["less_than_random"]
    assert low > 0  # two-sided p < 0.05, paired over problems
    assert gain == pytest.approx(found["random"]["regret"] - found["asha_random"]["regret"])
    assert found["asha_random"]["most_steps"] <= found["budget_steps"] == found["random"]["most_steps"]
    assert found["asha_random"]["rho_of_all"] > 0.9
    assert found["asha_random"]["doubted"] < 0.5
    assert found["random"]["whole"] == 10


def test_where_the_best_start_worst_halving_loses_and_its_table_warns() -> None:
    found = halving.compare("crossing", seeds=5, budget=10, rules=("random", "asha_random"))
    assert found["asha_random"]["less_than_random"][2] < 0
    assert found["asha_random"]["rho"] < 0
    assert found["asha_random"]["doubted"] == 1


def test_the_curves_are_what_the_families_say() -> None:
    good = {name: (spec["low"] * spec["high"]) ** 0.5 if spec.get("log") else spec["high"] / 2 for name, spec in
            halving.TUNE.items()}  # fmt: skip
    bad = {name: spec["low"] for name, spec in halving.TUNE.items()}
    for family, is_right in (("parallel", True), ("crossing", False)):
        problem = halving.Problem(family, seed=3)
        assert problem.quality(good) > problem.quality(bad) + 0.2
        assert (problem.value(good, 3) > problem.value(bad, 3)) is is_right
        assert problem.value(good, halving.STEPS) == pytest.approx(problem.quality(good), abs=0.05)


def test_it_prints_a_line_for_each_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert halving.main(["--seeds", "2", "--budget", "3", "--family", "spread"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert set(halving.RULES) < set(json.loads(line))
