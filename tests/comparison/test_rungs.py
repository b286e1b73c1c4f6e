"""Rungs against the end of the training: correlations of the right trials, and a warning where a rung says little."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from fabricate import FINGERPRINTS, event, fabricate, make_config, make_study

from afp_ray.comparison import best, compare
from afp_ray.comparison.rungs import rung_correlations, rung_warnings
from afp_ray.config import PrunerConfig, trial_id
from afp_ray.ledger import Ledger
from afp_ray.records import TrialRecord, TrialStatus, Until

ASHA = PrunerConfig(name="asha", min=10, factor=3)


def record(number: int, rungs: Sequence[float], objective: float | None = None, *, arm: str = "afp") -> TrialRecord:
    last = len(rungs) - 1
    return TrialRecord(
        trial_id=f"{number:016x}",
        arm=arm,
        seed=0,
        role="search",
        status=TrialStatus.PRUNED if objective is None else TrialStatus.DONE,
        attempt=1,
        config={},
        rungs=tuple(rungs),
        objective=objective,
        until=Until(rung=last, unit="steps", amount=10 * 3**last) if objective is None else None,
        planned_at=0.0,
    )


def test_each_rung_is_held_against_every_later_one_and_the_end() -> None:
    ends = {0: 0.9, 1: 0.8, 2: 0.7, 3: 0.6}
    trials = [record(n, (0.5 - n / 10, 0.6 - n / 10), end) for n, end in ends.items()]
    trials += [record(9, (0.0,)), record(8, (0.05, 0.9))]
    rows = {(row.amount, row.later): row for row in rung_correlations(trials, ASHA)}
    assert set(rows) == {(10, 30), (10, None), (30, None)}
    assert [rows[key].n for key in ((10, 30), (10, None), (30, None))] == [5, 4, 4]
    assert rows[10, None].rho == pytest.approx(1)
    assert rows[10, 30].rho == pytest.approx(0)  # ranks 5 4 3 2 1 against 4 3 2 1 5
    assert rows[10, None].verdict.startswith("afp: the ranking at 10 steps against that at the end: rank correlation 1")
    assert rung_warnings(list(rows.values())) == []


def test_a_rung_that_misleads_is_warned_about_by_name() -> None:
    trials = [record(n, (n / 10,), 1 - n / 10) for n in range(9)] + [record(20, (0.0,))]
    (warning,) = rung_warnings(rung_correlations(trials, ASHA, prefix="demo/"))
    assert warning == (
        "demo/afp: the ranking at 10 steps says little about the ranking at the end: "
        "rank correlation -1.00 over 9 trials; raise pruner.min"
    )


def test_the_order_of_the_best_alone_is_told_from_a_rung_that_misleads() -> None:
    """Forty trials in line; of the five best that went on, noise has turned the order."""
    ends = {39: 0.90, 38: 0.92, 37: 0.91, 36: 0.89, 35: 0.86}
    trials = [record(n, (n / 40,), ends.get(n)) for n in range(40)]
    (row,) = rung_correlations(trials, ASHA)
    assert (row.n, row.rho) == (5, pytest.approx(0.7))
    assert row.of_all is not None
    assert row.of_all > 0.98
    assert rung_warnings([row]) == []
    turned = {39: 0.88, 38: 0.86, 37: 0.91, 36: 0.90, 35: 0.85}
    (row,) = rung_correlations([record(n, (n / 40,), turned.get(n)) for n in range(40)], ASHA)
    assert row.rho == pytest.approx(0.2)
    (warning,) = rung_warnings([row])
    assert "the trials that went on from 10 steps were ranked otherwise at the end" in warning
    assert f"about {row.of_all:.2f} for all" in warning


def test_where_too_few_reached_the_end_the_latest_rung_judges() -> None:
    trials = [record(0, (0.3, 0.1), 0.9), record(1, (0.2, 0.2)), record(2, (0.1, 0.3))]
    (warning,) = rung_warnings(rung_correlations(trials, ASHA))
    assert "the ranking at 10 steps says little about the ranking at 30 steps" in warning


def test_with_two_trials_nothing_can_be_told_and_that_is_said() -> None:
    rows = rung_correlations([record(0, (0.3,), 0.9), record(1, (0.2,), 0.8), record(2, (0.1,))], ASHA)
    assert [(row.n, row.rho) for row in rows] == [(2, None)]
    assert rows[0].verdict.endswith("cannot be told: 2 trials were scored at both, and 3 are needed")
    (warning,) = rung_warnings(rows)
    assert warning.startswith("afp: whether the ranking at a rung tells the ranking at the end is not known: 2 of its")


def test_arms_are_judged_apart_and_failures_left_out() -> None:
    trials = [record(n, (n / 10,), n / 10, arm="afp") for n in range(4)] + [record(30, (0.0,), arm="afp")]
    trials += [record(10 + n, (n / 10,), -n / 10, arm="mcl") for n in range(4)] + [record(31, (0.0,), arm="mcl")]
    failed = record(40, (0.9,), 0.0).model_copy(update={"status": TrialStatus.FAILED, "objective": None})
    rows = rung_correlations([*trials, failed], ASHA)
    assert [(row.arm, row.n, row.rho) for row in rows] == [
        ("afp", 4, pytest.approx(1)),
        ("mcl", 4, pytest.approx(-1)),
    ]


def test_a_study_without_rungs_has_none() -> None:
    assert rung_correlations([record(0, (), 0.9)], PrunerConfig()) == ()


def test_the_table_and_the_best_configuration_say_so(tmp_path: Path) -> None:
    study = make_study(methods=("base", "afp"), seeds=(0,)).model_copy(update={"pruner": ASHA})
    paths = fabricate(tmp_path, study=study, methods=("base", "afp"), seeds=(0,), with_failure=False)
    with Ledger.open(paths, study) as ledger:
        for number in range(5):
            config = make_config(study, "afp", 0, {"loss.temperature": 0.1 + number / 100})
            common = {"trial_id": trial_id(config, FINGERPRINTS), "arm": "afp", "seed": 0, "role": "search"}
            until = Until(rung=0, unit="steps", amount=10)
            event(ledger, TrialStatus.PLANNED, 1.0, **common, config=config.model_dump(mode="json"), until=until)
            event(ledger, TrialStatus.PAUSED, 2.0, **common, objective=number / 10, until=until, gpu_hours=0.1)
            if number < 4:
                event(ledger, TrialStatus.DONE, 3.0, **common, objective=-number / 10, splits=("validation",))
            else:
                event(ledger, TrialStatus.PRUNED, 3.0, **common)
        ledger.close("complete")
    warning = "afp: the ranking at 10 steps says little about the ranking at the end"
    table = compare(paths)
    assert [(row.arm, row.n, row.rho) for row in table.rungs] == [("afp", 4, pytest.approx(-1))]
    assert sum(line.startswith(warning) for line in table.warnings) == 1
    assert sum(line.startswith(warning) for line in best(paths).warnings) == 1
