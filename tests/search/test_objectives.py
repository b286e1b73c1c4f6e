"""Several objectives and limits: the front, the trial that is chosen, and what is said where none can be."""

import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_cases import TWO_GOALS, Played, finished, make_search, make_study

from afp_ray.config import TrialConfig
from afp_ray.errors import ConfigError
from afp_ray.records import TrialRecord, TrialStatus
from afp_ray.search import WAIT, asked_metrics, make_arms, search_fronts
from afp_ray.search.objectives import base_of_arm, chosen, front_of, violations
from afp_ray.statistics import non_dominated, pareto_front

GUARD = [{"metric": "pivot_mean", "max_drop": 0.12}]
"""Base has 1.0 and a layer costs 0.05: at temperature 0.1 layers up to 2 keep it."""
ONE_LAYER = {"loss.layer": {"low": 0, "high": 6, "int": True}}

coordinates = st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12)


def is_dominated(one: tuple[int, ...], points: list[tuple[int, ...]]) -> bool:
    return any(other != one and all(a >= b for a, b in zip(other, one, strict=True)) for other in points)


@given(coordinates)
def test_the_front_is_what_no_point_dominates(points: list[tuple[int, ...]]) -> None:
    assert non_dominated(points) == [index for index, one in enumerate(points) if not is_dominated(one, points)]


@given(coordinates, st.randoms(use_true_random=False))
def test_the_front_does_not_hang_on_the_order(points: list[tuple[int, ...]], chance: random.Random) -> None:
    shuffled = points[:]
    chance.shuffle(shuffled)
    assert sorted(points[i] for i in non_dominated(points)) == sorted(shuffled[i] for i in non_dominated(shuffled))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_two_objectives_have_the_front_of_quality_and_cost(points: list[tuple[int, int]]) -> None:
    by_cost = pareto_front([quality for quality, _ in points], [-other for _, other in points])
    assert sorted(by_cost) == non_dominated(points)


def test_what_a_study_asks_for_is_each_metric_once_and_never_the_first_objective() -> None:
    study = make_study(
        objective={"metric": "mean", "also": [{"metric": "pivot_mean"}, {"metric": "xcopa"}]},
        constraints=[{"metric": "mean", "min": 0.1}, *GUARD, {"metric": "alignment", "max": 2.0}],
    )
    assert asked_metrics(study) == ("pivot_mean", "xcopa", "alignment")
    assert asked_metrics(make_study()) == ()


def trial(number: int, objective: float | None, **fields: Any) -> TrialRecord:
    values = fields.pop("values", {})
    whole = {"arm": "afp", "seed": 1, "role": "search", "status": TrialStatus.DONE, "attempt": 1, "config": {}}
    return TrialRecord.model_validate(
        {"trial_id": str(number), "planned_at": 0.0, "objective": objective, "values": values, **whole, **fields}
    )


def test_the_chosen_trial_is_the_best_first_objective_of_the_front() -> None:
    study = make_study(objective=TWO_GOALS)
    rows = [(0.5, 0.9), (0.8, 0.4), (0.8, 0.6), (0.8, 0.6), (0.2, 0.95), (0.4, 0.5)]
    trials = [trial(index, first, values={"pivot_mean": second}) for index, (first, second) in enumerate(rows)]
    best = chosen(study, trials, None)
    assert best is not None
    assert best.trial_id == "2"  # not 1, which is as good in the first and worse in the second; the earlier of 2 and 3
    pairs = [(one, (one.objective or 0.0, one.values["pivot_mean"])) for one in trials]
    assert [one.trial_id for one, _ in front_of(study, pairs)] == ["2", "3", "0", "4"]
    for order in itertools.islice(itertools.permutations(pairs), 50):
        assert {one.trial_id for one, _ in front_of(study, list(order))} == {"2", "3", "0", "4"}


def test_lower_is_better_where_the_study_says_so() -> None:
    study = make_study(objective={"metric": "mean", "also": [{"metric": "uniformity", "direction": "minimize"}]})
    pairs = [(trial(0, 0.5), (0.5, -2.0)), (trial(1, 0.5), (0.5, -3.0)), (trial(2, 0.4), (0.4, -2.5))]
    assert [one.trial_id for one, _ in front_of(study, pairs)] == ["1"]


def test_a_trial_without_every_finite_value_is_never_chosen() -> None:
    study = make_study(objective=TWO_GOALS)
    assert chosen(study, [trial(0, 0.5)], None) is None
    assert chosen(study, [trial(0, None, values={"pivot_mean": 0.5})], None) is None
    feasible_trial = trial(0, 0.5, values={"pivot_mean": 0.5})
    for status in (TrialStatus.PAUSED, TrialStatus.PRUNED, TrialStatus.FAILED, TrialStatus.RUNNING):
        assert chosen(study, [feasible_trial.model_copy(update={"status": status})], None) is None
    broken = TrialRecord.model_construct(**{**feasible_trial.__dict__, "values": {"pivot_mean": math.nan}})
    assert chosen(study, [broken], None) is None
    assert chosen(study, [feasible_trial.model_copy(update={"role": "confirm"})], None) is None


def test_how_far_a_limit_is_passed() -> None:
    limits = [
        {"metric": "pivot_mean", "min": 0.4, "max": 0.6},
        {"metric": "pivot_mean", "max_drop": 0.1},
        {"metric": "alignment", "max_drop": 0.5},
    ]
    study = make_study(constraints=limits)
    base = trial(9, 0.3, values={"pivot_mean": 0.7, "alignment": 1.0}, arm="base", role="confirm")
    amounts = violations(study, trial(0, 0.5, values={"pivot_mean": 0.5, "alignment": 1.2}), base)
    assert amounts == {
        "pivot_mean >= 0.4": pytest.approx(-0.1),
        "pivot_mean <= 0.6": pytest.approx(-0.1),
        "drop of pivot_mean <= 0.1": pytest.approx(0.1),
        "drop of alignment <= 0.5": pytest.approx(-0.3),  # a higher alignment is a worse one
    }
    assert violations(study, trial(0, 0.5, values={"pivot_mean": 0.5}), base) is None
    assert violations(study, trial(0, 0.5, values={"pivot_mean": 0.5, "alignment": 1.0}), None) is None


def test_a_limit_that_is_just_reached_is_kept() -> None:
    study = make_study(constraints=[{"metric": "pivot_mean", "max_drop": 0.02}])
    base = trial(9, 0.3, values={"pivot_mean": 0.5}, arm="base", role="confirm")
    just = trial(0, 0.5, values={"pivot_mean": 0.48})  # 0.5 - 0.48 is more than 0.02 in binary
    assert 0.5 - 0.48 > 0.02
    assert violations(study, just, base) == {"drop of pivot_mean <= 0.02": 0.0}
    assert chosen(study, [just], base) == just


def test_base_is_scored_before_anything_is_searched() -> None:
    played = Played(make_study(constraints=GUARD))
    first = played.take()
    assert first
    assert (first.arm, first.role) == ("base", "confirm")
    assert played.search.next_job() is WAIT
    played.finish(first)
    following = played.take()
    assert following
    assert following.role == "search"


def test_without_a_limit_on_base_nothing_waits_for_it() -> None:
    played = Played(make_study(constraints=[{"metric": "pivot_mean", "min": 0.1}]))
    first, second = played.take(), played.take()
    assert first and second
    assert (first.arm, second.role) == ("base", "search")


def test_nothing_is_searched_when_base_has_failed() -> None:
    played = Played(make_study(constraints=GUARD))
    first = played.take()
    assert first
    played.fail(first)
    assert played.search.next_job() is None
    assert not played.search.has_more()
    (front,) = search_fronts(played.study, played.search.arms, played.records.values())
    assert front.verdict == "afp is not searched before base is scored, since a limit is against it"


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "grid"])
def test_what_forgets_too_much_is_never_confirmed(sampler: str) -> None:
    tune = ONE_LAYER
    fixed = {"loss.temperature": 0.1}
    study = make_study(tune=tune, fixed=fixed, constraints=GUARD, sampler={"name": sampler}, budget={"trials": 7})
    played = Played(study).run()
    confirmed = {job.params["loss.layer"] for job in (*played.of("test"), *played.of("confirm"))}
    assert confirmed == {2}  # the best `mean` that keeps the guard; layer 6 scores more
    free = Played(make_study(tune=tune, fixed=fixed, sampler={"name": sampler}, budget={"trials": 7})).run()
    assert {job.params["loss.layer"] for job in free.of("test")} == {6}


def test_limits_guide_what_is_drawn() -> None:
    """The share of late draws that keep the guard is higher than where the sampler knows of none."""

    def pivot_score(constraints: list[Any]) -> float:
        shares = []
        for seed in range(2):
            study = make_study(constraints=constraints, sampler={"name": "tpe", "seed": seed}, budget={"trials": 30})
            late = Played(study).run().of("search")[15:]
            layers = [TrialConfig.model_validate(job.config).loss.layer for job in late]
            shares.append(sum(layer <= 2 for layer in layers) / len(layers))
        return sum(shares) / len(shares)

    assert pivot_score([{"metric": "pivot_mean", "max_drop": 0.2}]) > pivot_score([]) + 0.2


def test_where_nothing_is_feasible_nothing_is_confirmed_and_it_is_said() -> None:
    study = make_study(constraints=[{"metric": "pivot_mean", "min": 2.0}], budget={"trials": 4})
    played = Played(study).run()
    assert [job.role for job in played.jobs if job.arm == "afp"] == ["search"] * 4
    assert played.search.best("afp") is None
    assert played.search.next_job() is None and not played.search.has_more()
    (front,) = search_fronts(study, played.search.arms, played.records.values())
    assert (front.arm, front.points, front.num_scored, front.num_feasible) == ("afp", (), 4, 0)
    best = max(record.values["pivot_mean"] for record in finished(played.records) if record.arm == "afp")
    assert "none of 4 scored trials keeps the limits, so nothing of afp is confirmed" in front.verdict
    assert f"passes pivot_mean >= 2 by {2.0 - best:.3g}" in front.verdict


def test_the_front_of_a_search_is_told_with_its_values() -> None:
    study = make_study(objective=TWO_GOALS, constraints=GUARD, budget={"trials": 20})
    played = Played(study).run()
    (front,) = search_fronts(study, played.search.arms, played.records.values())
    assert front.objectives == ("maximize mean", "maximize pivot_mean")
    assert [point.is_chosen for point in front.points] == [True] + [False] * (len(front.points) - 1)
    assert {job.trial_id for job in played.of("test")} == {front.points[0].trial_id}
    firsts = [point.values["mean"] for point in front.points]
    seconds = [point.values["pivot_mean"] for point in front.points]
    assert firsts == sorted(firsts, reverse=True) and seconds == sorted(seconds)  # two objectives: a staircase
    assert all(point.limited["pivot_mean"] >= 1.0 - 0.12 - 1e-9 for point in front.points)
    for point in front.points:
        record = played.records[point.trial_id]
        assert point.params == record.params
        assert point.values == {"mean": record.objective, **record.values}


def test_one_objective_has_its_best_trials_for_a_front() -> None:
    played = Played(make_study(budget={"trials": 6})).run()
    (front,) = search_fronts(played.study, played.search.arms, played.records.values())
    best = played.search.best("afp")
    assert best is not None
    assert [point.trial_id for point in front.points] == [best.trial_id]
    assert front.verdict == ""


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"compare": {"method": ["afp", "cit"]}}, "the study has no such arm"),
        ({"tune": {**ONE_LAYER, "evaluation.limit": {"choices": [10, 20]}}}, "arm base is itself searched over"),
    ],
)
def test_a_drop_without_one_base_is_refused_with_the_way_out(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_search(make_study(constraints=GUARD, **fields))
    assert text in str(caught.value)
    assert caught.value.where == "constraints.max_drop"
    assert "min" in caught.value.fix


def test_the_base_of_an_arm_is_the_one_with_its_settings() -> None:
    arms = make_arms(make_study(compare={"method": ["base", "afp"], "model.name": ["embedded", "smollm2"]}, tune={}))
    for arm in arms:
        base = base_of_arm(arm, arms)
        assert base is not None
        assert (base.method, base.fields["model.name"]) == ("base", arm.fields["model.name"])
