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
