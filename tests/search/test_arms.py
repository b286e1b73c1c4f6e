"""Arms: names, pins, precedence, merges and refusals."""

from typing import Any

import pytest

from afp_ray.config import StudyConfig, flatten
from afp_ray.errors import ConfigError
from afp_ray.methods import METHODS, pins
from afp_ray.search import make_arms, resolve
from afp_ray.search.arms import describe_merges


def study(**fields: Any) -> StudyConfig:
    return StudyConfig.model_validate({"name": "s", **fields})


def test_arms_are_named_by_what_is_compared() -> None:
    assert [arm.name for arm in make_arms(study())] == ["afp"]
    assert [arm.name for arm in make_arms(study(fixed={"method": "mcl"}))] == ["mcl"]
    assert [arm.name for arm in make_arms(study(compare={"method": ["base", "afp"]}))] == ["base", "afp"]
    assert [arm.name for arm in make_arms(study(compare={"loss.symmetric": [True, False]}))] == [
        "loss.symmetric=true",
        "loss.symmetric=false",
    ]
    grid = make_arms(study(compare={"method": ["afp", "mcl"], "loss.layer": [1, 2]}))
    assert [arm.name for arm in grid] == [
        f"method={method},loss.layer={layer}" for method in ("afp", "mcl") for layer in (1, 2)
    ]


def test_combinations_that_a_method_makes_equal_are_merged_and_said_so() -> None:
    arms = make_arms(study(compare={"method": ["base", "afp"], "loss.layer": [1, 2]}))
    assert [arm.name for arm in arms] == ["base", "method=afp,loss.layer=1", "method=afp,loss.layer=2"]
    (sentence,) = describe_merges(arms)
    assert "method=base,loss.layer=1 and method=base,loss.layer=2 are one recipe" in sentence


@pytest.mark.parametrize("method", METHODS)
def test_pinned_fields_leave_the_space_and_no_sample_changes_them(method: str) -> None:
    tune = {
        "loss.temperature": {"low": 0.01, "high": 0.5},
        "loss.instruction_weight": {"low": 0.5, "high": 3},
        "loss.layer": {"low": 0, "high": 6, "int": True},
        "data.cross_probability": {"low": 0.1, "high": 0.9},
    }
    (arm,) = make_arms(study(compare={"method": [method]}, tune=tune))
    assert set(arm.tune) == set(tune) - set(pins(method))
    config = resolve(arm, {"loss.temperature": 0.3, "data.cross_probability": 0.3}, 4)
    fields = flatten(config.model_dump())
    for name, value in pins(method).items():
        assert fields[name] == value


def test_the_file_beats_the_default_the_sample_the_file_and_the_method_all() -> None:
    (arm,) = make_arms(
        study(fixed={"loss.temperature": 0.2, "method": "cit"}, tune={"training.learning_rate": {"choices": [1e-4]}})
    )
    config = resolve(arm, {"training.learning_rate": 1e-4}, 3)
    assert config.loss.temperature == 0.05  # cit pins it
    assert config.training.learning_rate == 1e-4
    assert (config.seed, config.data.seed) == (3, None)


def test_base_is_one_trial_for_every_seed() -> None:
    (arm,) = make_arms(study(compare={"method": ["base"]}))
    assert resolve(arm, {}, 1) == resolve(arm, {}, 2)


def test_a_list_is_a_value_not_a_grid() -> None:
    (arm,) = make_arms(study(fixed={"data.languages": ["zh", "th"], "evaluation": {"shots": [0, 5]}}))
    config = resolve(arm, {}, 0)
    assert config.data.languages == ("zh", "th")
    assert config.evaluation.shots == (0, 5)


def test_a_part_that_may_be_null_is_set_whole_or_by_its_fields() -> None:
    (off,) = make_arms(study(fixed={"evaluation.representation": None}))
    assert resolve(off, {}, 0).evaluation.representation is None
    (few,) = make_arms(study(fixed={"evaluation.representation.num_pairs": 7}))
    config = resolve(few, {}, 0)
    assert config.evaluation.representation is not None
    assert config.evaluation.representation.num_pairs == 7


@pytest.mark.parametrize(
    ("fields", "where", "fix"),
    [
        ({"fixed": {"languages": ["zh"]}}, "fixed.languages", "data.languages"),
        ({"fixed": {"loss.temprature": 1}}, "fixed.loss.temprature", "loss.temperature"),
        ({"compare": {"loss.poolling": ["last"]}}, "compare.loss.poolling", "loss.pooling"),
        ({"tune": {"lr": {"low": 0, "high": 1}}}, "tune.lr", ""),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_one(fields: dict[str, Any], where: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_arms(study(**fields))
    assert caught.value.where == where
    assert fix in caught.value.fix
    assert caught.value.allowed


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"compare": {"method": ["afp", "afq"]}}, "'afq' is unknown"),
        ({"fixed": {"loss.temperature": -1}}, "loss.temperature = -1 is not allowed"),
        ({"tune": {"loss.temperature": {"low": 0, "high": 1}}}, "loss.temperature = 0.0 is not allowed"),
        ({"tune": {"loss.pooling": {"choices": ["last", "first"]}}}, "loss.pooling = 'first' is not allowed"),
        ({"fixed": {"data.languages": ["xx"]}}, "language 'xx' is unknown"),
        ({"tune": {"data.num_pairs": {"choices": [100, 1]}}}, "needs data.num_pairs >= 2"),
        ({"compare": {"method": ["base", "afp"]}, "fixed": {"data.num_instructions": 0}}, "arm afp"),
    ],
)
def test_a_value_that_no_trial_may_have_is_refused_before_anything_starts(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_arms(study(**fields))
    assert text in str(caught.value)


ABLATION = {
    "full": {"method": "afp"},
    "no_contrastive": {"method": "cit"},
    "mean_pool": {"method": "afp", "loss.pooling": "mean"},
}


def test_named_arms_follow_the_grid_and_are_alone_without_one() -> None:
    assert [arm.name for arm in make_arms(study(arms=ABLATION))] == ["full", "no_contrastive", "mean_pool"]
    both = make_arms(study(compare={"method": ["base", "mcl"]}, arms=ABLATION))
    assert [arm.name for arm in both] == ["base", "mcl", *ABLATION]


def test_a_named_arm_has_its_own_fields_over_the_fixed_ones_and_never_searches_them() -> None:
    tune = {"loss.pooling": {"choices": ["last", "mean"]}, "loss.temperature": {"low": 0.01, "high": 0.5}}
    arms = make_arms(study(fixed={"loss.layer": 2}, arms={**ABLATION, "deep": {"loss": {"layer": 3}}}, tune=tune))
    spaces = {arm.name: set(arm.tune) for arm in arms}
    assert spaces == {"full": set(tune), "no_contrastive": set(), "mean_pool": {"loss.temperature"}, "deep": set(tune)}
    layers = {arm.name: resolve(arm, {}, 0).loss.layer for arm in arms}
    assert layers == {"full": 2, "no_contrastive": 1, "mean_pool": 2, "deep": 3}  # cit pins its idle layer
    assert {arm.name: arm.method for arm in arms}["deep"] == "afp"


def test_the_recipe_of_a_named_arm_is_the_name_that_a_grid_gives_it() -> None:
    grid = make_arms(study(compare={"method": ["afp", "mcl"], "loss.layer": [1, 2]}))
    named = make_arms(study(arms={"a": {"loss.layer": 2, "method": "afp"}, "b": {"method": "afp"}}))
    assert [arm.recipe for arm in grid] == [arm.name for arm in grid]
    assert [arm.recipe for arm in named] == [grid[1].name, "afp"]


@pytest.mark.parametrize(
    ("fields", "where", "text"),
    [
        ({"full": {"method": "afp"}, "again": {"loss.temperature": 0.05}}, "arms.again", "same recipe as 'full'"),
        ({"one": {"method": "cit"}, "two": {"method": "cit", "loss.layer": 3}}, "arms.two", "same recipe as 'one'"),
        ({"plain": {"method": "mcl"}}, "arms.plain", "same recipe as 'mcl'"),
        ({"mcl": {"method": "mcl", "loss.layer": 2}}, "arms.mcl", "an arm of the grid of `compare` too"),
        ({"base": {"method": "afp"}}, "arms.base", "the arm 'base' has the method afp"),
        ({"x": {"loss.poling": "mean"}}, "arms.x.loss.poling", "'loss.poling' is no field of a trial"),
        ({"x": {"loss.temperature": -1}}, "arm x", "loss.temperature = -1 is not allowed"),
    ],
)
def test_a_named_arm_that_is_another_or_cannot_be_is_refused(fields: dict[str, Any], where: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_arms(study(compare={"method": ["mcl"]}, arms=fields))
    assert text in str(caught.value)
    assert caught.value.where == where
