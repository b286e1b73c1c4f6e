"""Search spaces: round trips to Optuna and back, and the points of a grid."""

from typing import Any

import optuna
import pytest

from afp_ray.config import StudyConfig
from afp_ray.errors import ConfigError
from afp_ray.search.space import distributions, from_optuna, grid_point, grid_size, require_grid, to_optuna

TUNE: dict[str, Any] = {
    "a": {"low": 0.01, "high": 0.5, "log": True},
    "b": {"low": 0, "high": 6, "int": True},
    "c": {"low": 0.5, "high": 3, "step": 0.5},
    "d": {"choices": [1, 1.0, True, "1", False]},
    "e": {"low": 1, "high": 64, "int": True, "log": True},
}


def specs(tune: dict[str, Any]) -> Any:
    return StudyConfig.model_validate({"name": "s", "tune": tune}).tune


def test_values_keep_their_type_through_optuna() -> None:
    tune = specs(TUNE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(60):
        drawn = study.ask(distributions(tune)).params
        params = from_optuna(tune, drawn)
        assert to_optuna(tune, params) == drawn
        assert [type(params[name]) for name in "abce"] == [float, int, float, int]
        assert params["d"] in TUNE["d"]["choices"]
        seen.add((type(params["d"]), params["d"]))
    assert len(seen) == 5


def test_the_grid_has_every_point_once_and_the_last_field_changes_fastest() -> None:
    tune = specs({"b": {"low": 0, "high": 4, "int": True, "step": 2}, "d": {"choices": ["x", "y"]}})
    assert grid_size(tune) == 6
    points = [grid_point(tune, index) for index in range(6)]
    assert points[:3] == [{"b": 0, "d": "x"}, {"b": 0, "d": "y"}, {"b": 2, "d": "x"}]
    assert len({tuple(point.values()) for point in points}) == 6


def test_a_float_grid_ends_on_its_high_end() -> None:
    tune = specs({"c": {"low": 0.1, "high": 0.4, "step": 0.1}})
    assert grid_size(tune) == 4
    assert [grid_point(tune, index)["c"] for index in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert grid_point(tune, 3)["c"] <= 0.4


def test_a_continuous_range_has_no_grid() -> None:
    tune = specs(TUNE)
    assert grid_size(tune) is None
    with pytest.raises(ConfigError) as caught:
        require_grid(tune)
    assert caught.value.where == "tune.a"
