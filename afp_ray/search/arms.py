"""The arms of a study: the grid of `compare` and the named ones, each with its fields, pins and own search space.

Precedence: default < file (`fixed`, then `compare` or the named arm) < sample (`tune`) < method. What a method pins, or
a named arm sets, leaves the search space of that arm.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from afp_ray.config import ChoiceSpec, StudyConfig, TrialConfig, TuneSpec, canonical_json, flatten, nest
from afp_ray.errors import ConfigError
from afp_ray.methods import METHODS, pins
from afp_ray.search.conditions import require_conditions, searched, space_of_arm
from afp_ray.search.fields import require_fields


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of the comparison.

    Attributes:
        name: that of `arms`; of the grid `afp` where `method` alone is compared, else `method=afp,loss.layer=2`.
        method: the row of `methods.py`.
        recipe: the name that a grid would give it. Draws are seeded by it, so that a new name leaves them as they are.
        fields: every field that the study or the method sets, by dotted name.
        pinned: names of `fields` that the method pins, or a named arm sets; no sample changes them.
        tune: the arm's search space; empty where nothing is searched.
        aliases: combinations of `compare` that came out as this same recipe.
    """

    name: str
    method: str
    recipe: str
    fields: Mapping[str, Any]
    pinned: frozenset[str]
    tune: Mapping[str, TuneSpec]
    aliases: tuple[str, ...] = field(default=())

    @property
    def is_searched(self) -> bool:
        """Whether the arm has anything to search."""
        return bool(self.tune)


def make_arms(study: StudyConfig) -> tuple[Arm, ...]:
    """The arms of `study`: its `compare` grid in its order, combinations of one recipe merged, then the named ones.

    Raises: ConfigError for an unknown field, an unknown method, a value that no trial may have, or a named arm that is
        another arm.
    """
    fixed = flatten(study.fixed)
    require_fields(fixed, "fixed")
    require_fields(study.compare, "compare")
    require_fields(study.tune, "tune")
    require_conditions(study.tune)
    arms: dict[str, Arm] = {}
    for values in itertools.product(*study.compare.values()) if study.compare or not study.arms else ():
        arm = _arm(study, fixed, dict(zip(study.compare, values, strict=True)))
        twin = arms.get(arm.name)
        arms[arm.name] = arm if twin is None else _merged(twin, arm.aliases)
    for name, fields in study.arms.items():
        own = flatten(fields)
        require_fields(own, f"arms.{name}")
        if name in arms:
            raise ConfigError(f"{name!r} is an arm of the grid of `compare` too", where=f"arms.{name}", fix="rename it")
        arms[name] = _named_arm(study, name, fixed, own)
    for arm in arms.values():
        for params in check_points(arm):
            resolve(arm, params, study.seeds[0])
    _refuse_twins(study, list(arms.values()))
    _refuse_idle_conditions(study, tuple(arms.values()))
    return tuple(arms.values())


def _arm(study: StudyConfig, fixed: Mapping[str, Any], compared: Mapping[str, Any]) -> Arm:
    method = _method({**fixed, **compared})
    pinned = pins(method)
    free = {name: value for name, value in compared.items() if name not in pinned}
    fields = {**fixed, **compared, "method": method, **pinned}
    name = _name(free, method)
    return Arm(
        name=name,
        method=method,
        recipe=name,
        fields=fields,
        pinned=frozenset(pinned),
        tune=space_of_arm(study.tune, fields, pinned),
        aliases=(_name(compared, method),),
    )


def _named_arm(study: StudyConfig, name: str, fixed: Mapping[str, Any], own: Mapping[str, Any]) -> Arm:
    method = _method({**fixed, **own})
    if name in METHODS and name != method:
        raise ConfigError(
            f"the arm {name!r} has the method {method}", where=f"arms.{name}", fix="give it a name that is no method's"
        )
    by_method = pins(method)
    # As a grid would order them: the method first; the rest by name, so that their order in the file does not count.
    free = {field: own[field] for field in sorted(own, key=lambda field: (field != "method", field))}
    free = {field: value for field, value in free.items() if field not in by_method}
    fields = {**fixed, **own, "method": method, **by_method}
    pinned = frozenset({*by_method, *own})
    return Arm(
        name=name,
        method=method,
        recipe=_name(free, method),
        fields=fields,
        pinned=pinned,
        tune=space_of_arm(study.tune, fields, pinned),
        aliases=(name,),
    )


def _method(fields: Mapping[str, Any]) -> str:
    method = fields.get("method", TrialConfig.model_fields["method"].default)
    if method not in METHODS:
        raise ConfigError(f"method {method!r} is unknown", where="method", allowed=", ".join(METHODS))
    return str(method)


def _refuse_twins(study: StudyConfig, arms: Sequence[Arm]) -> None:
    """Refuse a named arm whose trials would be those of another arm.

    Raises: ConfigError naming both.
    """
    first: dict[str, str] = {}
    for arm in arms:
        trial = resolve(arm, check_points(arm)[0], study.seeds[0]).model_dump(mode="json")
        space = {name: spec.model_dump(mode="json") for name, spec in arm.tune.items()}
        twin = first.setdefault(canonical_json([trial, space]), arm.name)
        if twin != arm.name and arm.name in study.arms:
            raise ConfigError(
                f"the arm {arm.name!r} is the same recipe as {twin!r}: they would be the same trials under two names",
                where=f"arms.{arm.name}",
                fix=f"take one of them out, or set what is to differ (the method {arm.method} pins its own fields)",
            )


def _name(compared: Mapping[str, Any], method: str) -> str:
    if not set(compared) - {"method"}:
        return method
    return ",".join(f"{name}={_text(value)}" for name, value in compared.items())


def _text(value: Any) -> str:
    return canonical_json(value) if isinstance(value, bool | list | dict) or value is None else str(value)


def _merged(arm: Arm, aliases: tuple[str, ...]) -> Arm:
    return replace(arm, aliases=arm.aliases + aliases)


def resolve(arm: Arm, params: Mapping[str, Any], seed: int) -> TrialConfig:
    """The trial of an arm at sampled values and a seed; a pinned seed wins.

    Args:
        arm: the row of the comparison.
        params: sampled values by dotted name, for fields of `arm.tune` alone.
        seed: seed of the trial; `data.seed` follows it where the study leaves that null.
    Raises: ConfigError naming the field, its value and what is allowed.
    """
    fields = {"seed": seed, **arm.fields, **{name: params[name] for name in params if name not in arm.pinned}}
    try:
        return TrialConfig.model_validate(nest(fields))
    except ValidationError as error:
        raise _config_error(error, arm) from error


def _config_error(error: ValidationError, arm: Arm) -> ConfigError:
    """The first complaint of pydantic, in our words."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # a rule over several fields, whose text already holds the values
        return ConfigError(message, where=f"arm {arm.name}: {name}" if name else f"arm {arm.name}")
    allowed = first.get("ctx", {}).get("expected", message[:1].lower() + message[1:])
    return ConfigError(f"{name} = {first['input']!r} is not allowed", where=f"arm {arm.name}", allowed=str(allowed))


def check_points(arm: Arm) -> list[dict[str, Any]]:
    """Points of the arm's space at which every end and choice occurs, so that no trial fails for its configuration."""
    points = [_reached(arm.tune, {})]
    for name, spec in arm.tune.items():
        points += [_reached(arm.tune, {name: value}) for value in corners(spec)[0 if spec.when else 1 :]]
    return points


def _reached(tune: Mapping[str, TuneSpec], wanted: dict[str, Any]) -> dict[str, Any]:
    """The first end of every field, `wanted` in its place, and what lets the wanted ones be searched."""
    values = {name: corners(spec)[0] for name, spec in tune.items()} | wanted
    waiting = list(wanted)
    while waiting:
        for parent, allowed in tune[waiting.pop()].when.items():
            values[parent] = allowed[0]
            waiting.append(parent)
    return searched(tune, values)


def _refuse_idle_conditions(study: StudyConfig, arms: tuple[Arm, ...]) -> None:
    for name, spec in study.tune.items():
        open_to = [arm for arm in arms if name not in arm.pinned]
        if spec.when and open_to and not any(name in arm.tune for arm in open_to):
            raise ConfigError(
                f"the condition {spec.model_dump()['when']} holds in no arm, so the field is never searched",
                where=f"tune.{name}.when",
                fix="change the condition, or take the field out of `tune`",
            )


def corners(spec: TuneSpec) -> tuple[Any, ...]:
    """Both ends of a range, or every choice."""
    if isinstance(spec, ChoiceSpec):
        return spec.choices
    return (int(spec.low), int(spec.high)) if spec.int else (spec.low, spec.high)


def ends_of(arm: Arm, seed: int) -> Iterator[TrialConfig]:
    """The arm with every searched field at its first and at its last value."""
    ends = [corners(spec) for spec in arm.tune.values()]
    for values in ([end[0] for end in ends], [end[-1] for end in ends]):
        yield resolve(arm, searched(arm.tune, dict(zip(arm.tune, values, strict=True))), seed)


def describe_merges(arms: tuple[Arm, ...]) -> Iterator[str]:
    """One sentence for each arm that stands for several combinations of `compare`."""
    for arm in arms:
        if len(arm.aliases) > 1:
            yield f"{' and '.join(arm.aliases)} are one recipe, run once as {arm.name}: its method pins what differs"
