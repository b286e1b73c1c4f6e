"""Searched fields that count only under a condition: `when` names other fields and the values that they must have.

A condition on a field that the arm does not search is settled once for the arm; one on a searched field is settled by
every draw. A field whose own condition fails is not searched, and then no condition on it holds.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from afp_ray.config import ChoiceSpec, Scalar, TrialConfig, TuneSpec, flatten
from afp_ray.errors import ConfigError
from afp_ray.search.fields import require_fields

MAX_VALUES = 10_000
"""Most values of a searched field that a condition may be on."""


def require_conditions(tune: Mapping[str, TuneSpec]) -> None:
    """Refuse a condition that names no field, runs in a circle or can never hold.

    Raises: ConfigError naming the condition, its value and what is allowed.
    """
    for name, spec in tune.items():
        where = f"tune.{name}.when"
        require_fields(spec.when, where)
        for parent, allowed in spec.when.items():
            if parent == "seed":
                raise ConfigError("`seed` is no condition: an arm is searched at one seed", where=f"{where}.{parent}")
            if parent in tune:
                _require_values(tune[parent], allowed, f"{where}.{parent}")
    ordered(tune)


def _require_values(spec: TuneSpec, allowed: Sequence[Scalar], path: str) -> None:
    drawable = values_of(spec)
    if drawable is None:
        raise ConfigError(
            "a condition on a continuous range cannot be met",
            where=path,
            allowed=f"fields with choices, a step or whole numbers, of at most {MAX_VALUES:,} values",
            fix="give that field `choices` or a `step`, or take the condition out",
        )
    for value in allowed:
        if not holds(value, drawable):
            shown = ", ".join(map(str, drawable[:10])) + (", ..." if len(drawable) > 10 else "")
            raise ConfigError(f"{value!r} is never drawn, so the condition cannot hold", where=path, allowed=shown)


def values_of(spec: TuneSpec) -> Sequence[Scalar] | None:
    """Every value of a finite spec, in order; None for a continuous range or one of more than `MAX_VALUES`."""
    size = num_values(spec)
    return None if size is None or size > MAX_VALUES else [value_at(spec, index) for index in range(size)]


def num_values(spec: TuneSpec) -> int | None:
    """Number of values of a spec; None where a continuous range makes it infinite."""
    if isinstance(spec, ChoiceSpec):
        return len(spec.choices)
    if spec.low == spec.high:
        return 1
    if spec.step is None and not spec.int:
        return None
    return round((spec.high - spec.low) / (spec.step or 1)) + 1


def value_at(spec: TuneSpec, index: int) -> Any:
    """The value `place` of a finite spec, 0-based."""
    if isinstance(spec, ChoiceSpec):
        return spec.choices[index]
    value = spec.low + index * (spec.step or 1)
    return int(value) if spec.int else min(value, spec.high)


def holds(value: Any, allowed: Iterable[Any]) -> bool:
    """Whether a value is among those allowed; true is not 1."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in allowed)


def ordered(tune: Mapping[str, TuneSpec]) -> list[str]:
    """Names of the searched fields, each after those that its condition is on, else in their own order.

    Raises: ConfigError when conditions run in a circle.
    """
    placed: list[str] = []
    waiting = list(tune)
    while waiting:
        ready = [name for name in waiting if all(other in placed or other not in tune for other in tune[name].when)]
        if not ready:
            raise ConfigError(
                f"the conditions of {', '.join(waiting)} wait for each other",
                where=f"tune.{waiting[0]}.when",
                fix="take one of them out",
            )
        placed += ready
        waiting = [name for name in waiting if name not in ready]
    return placed


def is_searched(spec: TuneSpec, drawn: Mapping[str, Any]) -> bool:
    """Whether the condition of a spec holds at the values drawn so far."""
    return all(parent in drawn and holds(drawn[parent], allowed) for parent, allowed in spec.when.items())


def searched(tune: Mapping[str, TuneSpec], values: Mapping[str, Any]) -> dict[str, Any]:
    """Of `values`, those whose fields are searched there, in the order of the space.

    Args:
        tune: the space of an arm.
        values: a value for each of its fields; more than are searched, or fewer.
    """
    open_values: dict[str, Any] = {}
    for name in ordered(tune):
        if name in values and is_searched(tune[name], open_values):
            open_values[name] = values[name]
    return {name: open_values[name] for name in tune if name in open_values}


def space_of_arm(tune: Mapping[str, TuneSpec], fields: Mapping[str, Any], pinned: Iterable[str]) -> dict[str, TuneSpec]:
    """The space of one arm: without what its method pins and what the arm's own values rule out.

    Args:
        tune: the study's space.
        fields: values that the arm sets, by dotted name; what it does not set has its default.
        pinned: names of `fields` that the method pins.
    Returns: specs by name in the order of the study; conditions left in them are on fields of this space.
    """
    free = {name: spec for name, spec in tune.items() if name not in set(pinned)}
    if not any(spec.when for spec in free.values()):
        return free
    own = {**flatten(TrialConfig().model_dump()), **fields}
    space: dict[str, TuneSpec] = {}
    for name in ordered(free):
        left = {parent: allowed for parent, allowed in free[name].when.items() if parent in free}
        settled = {parent: allowed for parent, allowed in free[name].when.items() if parent not in free}
        if all(parent in space for parent in left) and all(holds(own.get(k), v) for k, v in settled.items()):
            space[name] = free[name].model_copy(update={"when": left})
    return {name: space[name] for name in free if name in space}
