"""The fields of a trial by dotted name, and the nearest name to a misspelt one."""

import difflib
import types
from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo

from afp_ray.config.trial import TrialConfig


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Models inside an annotation such as `tuple[SourceConfig, ...]` or `X | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def is_section(field: FieldInfo) -> bool:
    """Whether a field is itself a model, or a model or null."""
    annotation = field.annotation
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return any(isinstance(part, type) and issubclass(part, BaseModel) for part in parts)


@cache
def trial_fields(model: type[BaseModel] = TrialConfig, prefix: str = "") -> dict[str, FieldInfo]:
    """Fields of a trial by dotted name; a section is there itself only where it may be null, or a word."""
    fields: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        if is_section(field):
            fields |= trial_fields(models_in(field.annotation)[0], f"{prefix}{name}.")
            if isinstance(field.annotation, type):
                continue
        fields[f"{prefix}{name}"] = field
    return fields


def value_type(name: str) -> TypeAdapter[Any]:
    """What reads and checks a value of a field of a trial, its range included."""
    field = trial_fields()[name]
    kind: Any = field.annotation
    for constraint in field.metadata:
        kind = Annotated[kind, constraint]
    return TypeAdapter(kind, config=None if is_section(field) else ConfigDict(allow_inf_nan=False))


@cache
def trial_sections(model: type[BaseModel] = TrialConfig, prefix: str = "") -> frozenset[str]:
    """Dotted names of the sections of a trial."""
    sections: set[str] = set()
    for name, field in model.model_fields.items():
        if is_section(field):
            sections |= {f"{prefix}{name}"} | trial_sections(models_in(field.annotation)[0], f"{prefix}{name}.")
    return frozenset(sections)


def did_you_mean(word: str, allowed: Iterable[str], *, separator: str = ".") -> str:
    """`did you mean X?` for the nearest of `allowed`, also by the last part of a dotted name; "" when none is near."""
    names = list(allowed)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not near:
        by_last = {name.rpartition(separator)[2]: name for name in names}
        last = difflib.get_close_matches(word.rpartition(separator)[2], list(by_last), n=1, cutoff=0.75)
        near = [by_last[match] for match in last]
    return f"did you mean {near[0]}?" if near else ""


def fields_beside(name: str, allowed: Iterable[str]) -> str:
    """The names of the same section as `name`, in one line."""
    names = list(allowed)
    section = name.rpartition(".")[0]
    return ", ".join([other for other in names if other.rpartition(".")[0] == section] or names)
