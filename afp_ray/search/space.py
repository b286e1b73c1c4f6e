"""A study's `tune` specs as Optuna distributions, their values to and from Optuna, and the points of a grid.

Choices travel as JSON text, so that 1, 1.0, true and "1" stay apart and any scalar is a legal category.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from afp_ray.config import ChoiceSpec, RangeSpec, TuneSpec
from afp_ray.errors import ConfigError
from afp_ray.search.conditions import is_searched, num_values, ordered, value_at


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


def from_optuna(tune: Mapping[str, TuneSpec], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Optuna's values as trial fields, in the order of the space; fields that were not searched are not there."""
    return {
        name: json.loads(stored[name]) if isinstance(spec, ChoiceSpec) else stored[name]
        for name, spec in tune.items()
        if name in stored
    }


def grid_size(tune: Mapping[str, TuneSpec]) -> int | None:
    """Number of different points of a space; None where a continuous range makes it infinite."""
    if any(num_values(spec) is None for spec in tune.values()):
        return None
    return sum(_num_points(tune, leaves) for _, leaves in _cases(tune))


def require_grid(tune: Mapping[str, TuneSpec]) -> None:
    """Refuse a space that has no grid.

    Raises: ConfigError naming the first continuous field.
    """
    for name, spec in tune.items():
        if num_values(spec) is None:
            raise ConfigError(
                "a continuous range has no grid",
                where=f"tune.{name}",
                fix="give it a `step` or `choices`, or use sampler.name: tpe",
            )


def grid_point(tune: Mapping[str, TuneSpec], index: int) -> dict[str, Any]:
    """The point `index` of the grid, 0-based; the last field changes fastest, those with conditions on them slowest.

    A space with conditions is a row of small grids: one for each combination of the fields that conditions are on.
    """
    for chosen, leaves in _cases(tune):
        size = _num_points(tune, leaves)
        if index >= size:
            index -= size
            continue
        point = dict(chosen)
        for name in reversed(leaves):
            # Digits of a number whose base changes from field to field; `require_grid` has refused infinite fields.
            index, digit = divmod(index, num_values(tune[name]) or 1)
            point[name] = value_at(tune[name], digit)
        return {name: point[name] for name in tune if name in point}
    raise IndexError(f"the grid has no point {index}")


def _num_points(tune: Mapping[str, TuneSpec], names: Sequence[str]) -> int:
    return math.prod(num_values(tune[name]) or 1 for name in names)


def _cases(tune: Mapping[str, TuneSpec]) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Values of the fields that conditions are on, each with the other fields that are searched there."""
    parents = {parent for spec in tune.values() for parent in spec.when}

    def walk(names: Sequence[str], chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not names:
            yield chosen
        elif not is_searched(tune[names[0]], chosen):
            yield from walk(names[1:], chosen)
        else:
            for index in range(num_values(tune[names[0]]) or 1):
                yield from walk(names[1:], {**chosen, names[0]: value_at(tune[names[0]], index)})

    for chosen in walk([name for name in ordered(tune) if name in parents], {}):
        yield chosen, [name for name in tune if name not in parents and is_searched(tune[name], chosen)]
