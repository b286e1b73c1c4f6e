"""A study's `tune` specs as Optuna distributions, their values to and from Optuna, and the points of a grid.

Choices travel as JSON text, so that 1, 1.0, true and "1" stay apart and any scalar is a legal category.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from afp_ray.config import ChoiceSpec, RangeSpec, TuneSpec
from afp_ray.errors import ConfigError


def distributions(tune: Mapping[str, TuneSpec]) -> dict[str, BaseDistribution]:
    """Optuna's distribution of every tuned field."""
    return {name: _distribution(spec) for name, spec in tune.items()}


def _distribution(spec: TuneSpec) -> BaseDistribution:
    if isinstance(spec, ChoiceSpec):
        return CategoricalDistribution([json.dumps(choice) for choice in spec.choices])
    if spec.int:
        return IntDistribution(int(spec.low), int(spec.high), log=spec.log, step=_int_step(spec))
    return FloatDistribution(spec.low, spec.high, log=spec.log, step=spec.step)


def _int_step(spec: RangeSpec) -> int:
    if spec.step is not None and spec.step != math.floor(spec.step):
        raise ConfigError(f"step {spec.step:g} of an int range is not whole", fix="use a whole step, or int: false")
    return int(spec.step or 1)


def to_optuna(tune: Mapping[str, TuneSpec], params: Mapping[str, Any]) -> dict[str, Any]:
    """Sampled values as Optuna keeps them."""
    return {
        name: json.dumps(value) if isinstance(tune.get(name), ChoiceSpec) else value for name, value in params.items()
    }


def from_optuna(tune: Mapping[str, TuneSpec], kept: Mapping[str, Any]) -> dict[str, Any]:
    """Optuna's values as trial fields, in the order of the space."""
    return {name: json.loads(kept[name]) if isinstance(tune[name], ChoiceSpec) else kept[name] for name in tune}


def grid_size(tune: Mapping[str, TuneSpec]) -> int | None:
    """Number of points of a space; None where a continuous range makes it infinite."""
    sizes = [_num_values(spec) for spec in tune.values()]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def _num_values(spec: TuneSpec) -> int | None:
    if isinstance(spec, ChoiceSpec):
        return len(spec.choices)
    if spec.low == spec.high:
        return 1
    if spec.step is None and not spec.int:
        return None
    return round((spec.high - spec.low) / (spec.step or 1)) + 1


def require_grid(tune: Mapping[str, TuneSpec]) -> None:
    """Refuse a space that has no grid.

    Raises: ConfigError naming the first continuous field.
    """
    for name, spec in tune.items():
        if _num_values(spec) is None:
            raise ConfigError(
                "a continuous range has no grid",
                where=f"tune.{name}",
                fix="give it a `step` or `choices`, or use sampler.name: tpe",
            )


def grid_point(tune: Mapping[str, TuneSpec], index: int) -> dict[str, Any]:
    """The point `index` of the grid, 0-based; the last field changes fastest."""
    point: dict[str, Any] = {}
    for name, spec in reversed(list(tune.items())):
        index, place = divmod(index, _num_values(spec) or 1)  # `require_grid` has refused the infinite ones
        point[name] = _value_at(spec, place)
    return {name: point[name] for name in tune}


def _value_at(spec: TuneSpec, place: int) -> Any:
    if isinstance(spec, ChoiceSpec):
        return spec.choices[place]
    value = spec.low + place * (spec.step or 1)
    return int(value) if spec.int else min(value, spec.high)
