"""A study: arms to compare, fields to search inside each arm, seeds, budget and runtime."""

import math
import re
from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, model_validator

from afp_ray.config.base import StrictModel
from afp_ray.config.fields import trial_fields, trial_sections
from afp_ray.config.runtime import RuntimeConfig
from afp_ray.config.search import (
    BudgetConfig,
    ChoiceSpec,
    ConstraintConfig,
    ObjectiveConfig,
    PrunerConfig,
    RangeSpec,
    SamplerConfig,
    Scalar,
    _spec_kind,
)

MAX_ARMS = 1000
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_RESERVED = frozenset({"latest", "trials", "mlflow", "mlflow.db", "mlartifacts", "remote.json"})


class StudyConfig(StrictModel):
    """One study file, validated; the fields of `fixed`, `compare` and `tune` are dotted names of `TrialConfig`."""

    name: str
    """Folder name under the storage: lower-case letters, digits, `_`, `-`, `.`; at most 64 characters."""
    description: str = ""
    """One line for the tables and the report."""
    objective: ObjectiveConfig = ObjectiveConfig()
    fixed: dict[str, Any] = {}
    """Values that every trial shares, by dotted name (`training.max_steps: 200`) or nested; a named arm may give its
    own instead."""
    compare: dict[str, tuple[Scalar, ...]] = {}
    """Values of the arms; several fields make their grid. `method` is a field like any other."""
    arms: dict[str, dict[str, Any]] = {}
    """Named arms, each with the fields in which it differs from `fixed`: `{full: {method: afp}, mean_pool:
    {method: afp, loss.pooling: mean}}`. They come after the arms of `compare`, whose fields they do not have; without
    `compare` they are the only arms. A name has letters, digits, `_`, `-` and `.`, at most 64."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    """Trial seeds: an arm is searched at the first and confirmed at all."""
    tune: dict[
        str,
        Annotated[
            Annotated[RangeSpec, Tag("range")] | Annotated[ChoiceSpec, Tag("choices")],
            Discriminator(_spec_kind),
        ],
    ] = {}
    """Fields searched inside each arm that does not pin them."""
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = PrunerConfig()
    """Early stopping of search trials; `none` or `asha` alone stand for their defaults."""
    constraints: tuple[ConstraintConfig, ...] = ()
    """Limits that a configuration has to keep to be chosen."""
    warm_start: tuple[str, ...] = ()
    """Studies of the same storage whose finished search trials the sampler learns from; none of them counts as a trial
    of this study."""
    budget: BudgetConfig = BudgetConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    published: tuple[str, ...] = ()
    """Published tables that `compare` prints beside this study's own, by their names in the reference data."""
    small: dict[str, Any] = {}
    """The same comparison for two CPU cores on the embedded corpus: fields that `--small` puts in the place of the
    file's own. `fixed` is merged name by name, a null there takes a name or section out, and `-small` is added to the
    study's name; a small form that is loaded is a study whose own `small` is empty."""

    @model_validator(mode="after")
    def _name_is_a_folder(self) -> Self:
        if not _NAME.fullmatch(self.name) or self.name in _RESERVED or self.name.endswith("."):
            raise ValueError(
                f"name {self.name[:80]!r} cannot be a study's name; allowed: 1 to 64 of a-z 0-9 _ - . beginning with a "
                f"letter or digit, not {', '.join(sorted(_RESERVED))}"
            )
        return self

    @model_validator(mode="after")
    def _lists_are_sets(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"`seeds` repeats a value: {list(self.seeds)}")
        for field, values in self.compare.items():
            if not values:
                raise ValueError(f"compare.{field} is empty; give at least one value")
            if len({(type(value), value) for value in values}) != len(values):
                raise ValueError(f"compare.{field} repeats a value: {list(values)}")
        if (arms := math.prod(len(values) for values in self.compare.values())) > MAX_ARMS:
            raise ValueError(f"compare makes {arms:,} arms; allowed: at most {MAX_ARMS:,}")
        if len(self.arms) > MAX_ARMS:
            raise ValueError(f"arms has {len(self.arms):,} arms; allowed: at most {MAX_ARMS:,}")
        return self

    @model_validator(mode="after")
    def _arms_have_names(self) -> Self:
        for name, fields in self.arms.items():
            if problem := arm_name_problem(name):
                raise ValueError(problem)
            if "seed" in flatten(fields):
                raise ValueError(f"arms.{name}: `seed` is never an arm's own; list the seeds under `seeds`")
        return self

    @model_validator(mode="after")
    def _warm_start_is_from_others(self) -> Self:
        if self.name in self.warm_start:
            raise ValueError(f"warm_start names {self.name!r} itself; its own trials count anyway")
        if len(set(self.warm_start)) != len(self.warm_start):
            raise ValueError(f"warm_start repeats a study: {list(self.warm_start)}")
        if self.warm_start and self.sampler.name in ("random", "grid"):
            raise ValueError(f"sampler {self.sampler.name!r} learns nothing from warm_start; use tpe or nsga2")
        return self

    @model_validator(mode="after")
    def _field_has_one_place(self) -> Self:
        fixed = set(flatten(self.fixed))
        for left, right, names in (
            ("fixed", "compare", fixed & set(self.compare)),
            ("fixed", "tune", fixed & set(self.tune)),
            ("compare", "tune", set(self.compare) & set(self.tune)),
        ):
            if names:
                raise ValueError(f"{', '.join(sorted(names))} is in both `{left}` and `{right}`; keep one")
        if "seed" in fixed | set(self.compare) | set(self.tune):
            raise ValueError("`seed` is never fixed, compared or tuned; list the seeds under `seeds`")
        if "method" in self.tune:
            raise ValueError("`method` is compared, not tuned; move it to `compare`")
        return self


def arm_name_problem(name: str) -> str:
    """Why `name` cannot name an arm, what is allowed after a semicolon; "" where it can."""
    if _ARM_NAME.fullmatch(name):
        return ""
    allowed = "1 to 64 letters a-z A-Z, digits, _ - . beginning with a letter or digit"
    return f"{name[:80]!r} cannot be an arm's name; allowed: {allowed}"


def flatten(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of nested fields: `{"a": {"b": 1}, "c.d": 2}` becomes `{"a.b": 1, "c.d": 2}`.

    A field of a trial that is itself a mapping stays whole.
    """
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and (name not in trial_fields() or name in trial_sections()):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def nest(fields: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`: dotted names become nested mappings."""
    nested: dict[str, Any] = {}
    for name, value in fields.items():
        *parents, last = name.split(".")
        section = nested
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return nested
