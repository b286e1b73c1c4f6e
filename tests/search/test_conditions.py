"""Conditional fields: searched where their condition holds and nowhere else, each configuration once."""

from itertools import pairwise
from typing import Any

import pytest
from search_cases import Played, make_study, points

from afp_ray.config import StudyConfig, TrialConfig, flatten
from afp_ray.errors import ConfigError
from afp_ray.search import make_arms, resolve
from afp_ray.search.arms import check_points
from afp_ray.search.conditions import holds, ordered, searched
from afp_ray.search.space import grid_point, grid_size

POOLING = {"choices": ["last", "mean"]}
LAYERS = {"low": 1, "high": 3, "int": True, "when": {"loss.pooling": "mean"}}
WEIGHTS = {"choices": [0.5, 1.0], "when": {"loss.layer": [2, 3]}}
NESTED: dict[str, Any] = {"loss.pooling": POOLING, "loss.layer": LAYERS, "loss.instruction_weight": WEIGHTS}
"""last | mean with layer 1 | mean with layer 2 or 3 and two weights each: six points."""


def study(**fields: Any) -> StudyConfig:
    return make_study(**{"compare": {"method": ["afp"]}, **fields})


def test_one_value_is_a_list_of_one() -> None:
    short, long = ({"loss.layer": {**LAYERS, "when": {"loss.pooling": value}}} for value in ("mean", ["mean"]))
    assert study(tune={"loss.pooling": POOLING, **short}) == study(tune={"loss.pooling": POOLING, **long})


def test_a_grid_has_each_configuration_once_and_no_other() -> None:
    (arm,) = make_arms(study(tune=NESTED))
    assert grid_size(arm.tune) == 6
    drawn_points = [grid_point(arm.tune, index) for index in range(6)]
    assert drawn_points == [
        {"loss.pooling": "last"},
        {"loss.pooling": "mean", "loss.layer": 1},
        {"loss.pooling": "mean", "loss.layer": 2, "loss.instruction_weight": 0.5},
        {"loss.pooling": "mean", "loss.layer": 2, "loss.instruction_weight": 1.0},
        {"loss.pooling": "mean", "loss.layer": 3, "loss.instruction_weight": 0.5},
        {"loss.pooling": "mean", "loss.layer": 3, "loss.instruction_weight": 1.0},
    ]
    assert len({str(resolve(arm, point, 0)) for point in drawn_points}) == 6
    with pytest.raises(IndexError):
        grid_point(arm.tune, 6)


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "grid"])
@pytest.mark.parametrize("objective", [{}, {"also": [{"metric": "pivot_mean"}]}], ids=["one", "two"])
def test_every_sampler_tries_each_configuration_of_a_small_space_once(sampler: str, objective: dict[str, Any]) -> None:
    one = study(tune=NESTED, sampler={"name": sampler, "population": 2}, objective=objective, budget={"trials": 40})
    played = Played(one).run(at_once=4)
    assert len({job.trial_id for job in played.of("search")}) == len(played.of("search")) == 6


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_a_field_whose_condition_fails_keeps_its_default(sampler: str) -> None:
    tune = {"loss.pooling": POOLING, "loss.temperature": {"low": 0.1, "high": 0.5, "when": {"loss.pooling": "mean"}}}
    played = Played(study(tune=tune, sampler={"name": sampler, "population": 4}, budget={"trials": 10})).run()
    drawn = points(played.of("search"))
    assert {len(params) for params in drawn} == {1, 2}
    for job in played.of("search"):
        config = TrialConfig.model_validate(job.config)
        is_mean = config.loss.pooling == "mean"
        assert ("loss.temperature" in job.params) == is_mean
        assert is_mean or config.loss.temperature == TrialConfig().loss.temperature
    assert len(points([job for job in played.of("search") if job.params["loss.pooling"] == "last"])) == 1


def guided(config: TrialConfig) -> tuple[float, dict[str, float]]:
    """Best where pooling is `mean` and the temperature, searched there alone, is near 0.4."""
    return (1.0 - abs(config.loss.temperature - 0.4) if config.loss.pooling == "mean" else 0.0), {}


BRANCH = {
    "loss.pooling": POOLING,
    "loss.temperature": {"low": 0.01, "high": 0.5, "when": {"loss.pooling": "mean"}},
    "loss.layer": {"low": 0, "high": 6, "int": True},
}


def test_what_the_sampler_learns_of_a_conditional_field_guides_its_draws() -> None:
    distance = {}
    for sampler in ("tpe", "random"):
        one = study(tune=BRANCH, sampler={"name": sampler, "seed": 1}, budget={"trials": 30})
        late = points(Played(one, guided).run().of("search"))[10:]
        drawn = [params["loss.temperature"] for params in late if "loss.temperature" in params]
        distance[sampler] = sum(abs(value - 0.4) for value in drawn) / len(drawn)
    assert distance["tpe"] < 0.75 * distance["random"]


def test_a_branch_that_is_used_up_does_not_end_the_search() -> None:
    """`last` has seven points; a model that keeps proposing them must not take the whole space for used up."""
    one = study(tune=BRANCH, sampler={"name": "tpe", "seed": 1}, budget={"trials": 40})
    assert len(Played(one, guided).run().of("search")) == 40


def test_a_condition_on_what_the_arm_sets_is_settled_for_the_arm() -> None:
    when = {"low": 0.1, "high": 0.5, "when": {"method": "afp"}}
    arms = make_arms(study(compare={"method": ["afp", "mcl"]}, tune={"loss.temperature": when}))
    assert [set(arm.tune) for arm in arms] == [{"loss.temperature"}, set()]
    assert arms[0].tune["loss.temperature"].when == {}
    fixed = {"loss.temperature": {"low": 0.1, "high": 0.5, "when": {"loss.layer": [1, 2]}}}
    arms = make_arms(study(compare={"loss.layer": [1, 2, 3]}, tune=fixed))
    assert [bool(arm.tune) for arm in arms] == [True, True, False]
    default = {"loss.temperature": {"low": 0.1, "high": 0.5, "when": {"loss.pooling": TrialConfig().loss.pooling}}}
    assert make_arms(study(tune=default))[0].is_searched


def test_no_condition_holds_on_a_field_that_is_itself_not_searched() -> None:
    tune = {
        "loss.layer": {"choices": [1, 2], "when": {"method": "mcl"}},
        "loss.temperature": {"low": 0.1, "high": 0.5, "when": {"loss.layer": 1}},
    }
    afp, mcl = make_arms(study(compare={"method": ["afp", "mcl"]}, tune=tune))
    assert set(afp.tune) == set()
    assert set(mcl.tune) == set(tune)


def test_a_pinned_field_settles_a_condition_by_its_value() -> None:
    tune = {"loss.pooling": POOLING, "data.num_instructions": {"choices": [100, 200], "when": {"loss.pooling": "last"}}}
    afp, mit = make_arms(study(compare={"method": ["afp", "mit"]}, tune=tune))
    assert afp.tune["data.num_instructions"].when == {"loss.pooling": ("last",)}
    assert mit.tune["data.num_instructions"].when == {}  # mit pins `last`


@pytest.mark.parametrize(
    ("tune", "where", "text"),
    [
        ({"loss.layer": {**LAYERS, "when": {"loss.poling": "mean"}}}, "tune.loss.layer.when.loss.poling", "no field"),
        ({"loss.layer": {**LAYERS, "when": {"seed": 1}}}, "tune.loss.layer.when.seed", "no condition"),
        ({"loss.layer": LAYERS, "loss.pooling": {**POOLING, "when": {"loss.layer": 1}}}, None, "wait for each other"),
        ({"loss.layer": {**LAYERS, "when": {"loss.layer": 1}}}, None, "wait for each other"),
        (
            {"loss.layer": {**LAYERS, "when": {"loss.temperature": 0.1}}, "loss.temperature": {"low": 0.1, "high": 1}},
            "tune.loss.layer.when.loss.temperature",
            "continuous",
        ),
        (
            {"loss.pooling": POOLING, "loss.layer": {**LAYERS, "when": {"loss.pooling": ["mean", "max"]}}},
            "tune.loss.layer.when.loss.pooling",
            "'max' is never drawn",
        ),
        ({"loss.layer": {**LAYERS, "when": {"loss.pooling": "first"}}}, "tune.loss.layer.when", "holds in no arm"),
        (
            {"loss.pooling": POOLING, "loss.temperature": {"low": -1, "high": 1, "when": {"loss.pooling": "mean"}}},
            None,
            "-1",
        ),
    ],
)
def test_a_condition_that_cannot_be_is_refused_with_its_place(tune: Any, where: str | None, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_arms(study(tune=tune))
    assert text in str(caught.value)
    assert where is None or caught.value.where == where


def test_an_empty_condition_is_refused() -> None:
    with pytest.raises(ValueError, match="allows no value"):
        study(tune={"loss.layer": {**LAYERS, "when": {"loss.pooling": []}}})


def test_a_combination_that_a_condition_rules_out_is_not_asked_for() -> None:
    """Pairs need at least two: 1 is no legal number, and is never drawn."""
    tune = {"loss.pooling": POOLING, "data.num_pairs": {"choices": [4, 1], "when": {"loss.pooling": "mean"}}}
    with pytest.raises(ConfigError, match="num_pairs"):
        make_arms(study(tune=tune))
    (arm,) = make_arms(study(tune=NESTED))
    checked = check_points(arm)
    assert all(searched(arm.tune, point) == point for point in checked)
    for name, values in (
        ("loss.layer", {1, 3}),
        ("loss.instruction_weight", {0.5, 1.0}),
        ("loss.pooling", {"last", "mean"}),
    ):
        assert values <= {point[name] for point in checked if name in point}


def test_conditions_are_read_in_the_order_that_they_need() -> None:
    (arm,) = make_arms(study(tune=dict(reversed(NESTED.items()))))
    order = ordered(arm.tune)
    assert all(one in NESTED for one in order)
    assert [name for name in NESTED if name in order] == order
    assert all(list(NESTED).index(a) < list(NESTED).index(b) for a, b in pairwise(order))
    assert list(grid_point(arm.tune, 5)) == list(arm.tune)  # shown in the order of the study


def test_true_is_not_one() -> None:
    assert holds(True, [True]) and holds(1, [1.0]) and holds("1", ["1"])
    assert not holds(True, [1]) and not holds(1, [True]) and not holds(1, ["1"])


def test_a_space_without_conditions_is_as_it_was() -> None:
    (arm,) = make_arms(study(tune={"loss.pooling": POOLING, "loss.layer": {"low": 1, "high": 2, "int": True}}))
    assert [grid_point(arm.tune, index) for index in range(4)] == [
        {"loss.pooling": pooling, "loss.layer": layer} for pooling in ("last", "mean") for layer in (1, 2)
    ]
    assert flatten({"a": {"b": 1}}) == {"a.b": 1}
