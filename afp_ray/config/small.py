"""The small form of a study: what stands under `small` replaces the rest of the file, each value at its own line."""

import copy
from collections.abc import Mapping
from typing import Any

from afp_ray.config.document import Document, KeyPath, Position
from afp_ray.config.dotted import dot
from afp_ray.config.fields import did_you_mean, trial_fields, trial_sections
from afp_ray.config.study import StudyConfig

SUFFIX = "-small"
_ALLOWED = tuple(name for name in StudyConfig.model_fields if name not in ("name", "small"))


def small_form(document: Document) -> Document:
    """The study that a file becomes when its `small` section replaces what it names.

    `fixed` is merged name by name, and a null there takes out the name, or all names of a section; every other field is
    replaced whole. The name gets the suffix `-small`.

    Args:
        document: the file, with dotted names under `fixed`, `compare` and `tune`; it is not changed.
    Returns: a document without `small`, whose errors point into that section of the file; a field that a small form
        cannot replace is among the mistakes of both.
    Raises: ConfigError when `small` is no mapping.
    """
    reduced = Document(document.name, document.lines, copy.deepcopy(document.values), dict(document.positions))
    reduced.mistakes = document.mistakes
    replacing = reduced.values.pop("small")
    if not isinstance(replacing, dict):
        raise document.error(("small",), "`small` is no mapping of fields", fix="write `small: {seeds: [0], ...}`")
    dot(reduced, replacing, ("small",))
    for field, value in replacing.items():
        with document.mistakes:
            _require(field, document)
        if field not in _ALLOWED:
            continue
        if field == "fixed" and isinstance(value, dict) and isinstance(reduced.values.get("fixed"), dict):
            _merge(reduced, value)
        else:
            reduced.values[field] = value
            _move(reduced, ("small", field), (field,))
    if isinstance(name := reduced.values.get("name"), str):
        reduced.values["name"] = f"{name}{SUFFIX}"
    reduced.positions = {path: position for path, position in reduced.positions.items() if path[:1] != ("small",)}
    return reduced


def _require(field: str, document: Document) -> None:
    if field in _ALLOWED:
        return
    fix = did_you_mean(field, _ALLOWED)
    if not fix and field in trial_fields():
        fix = f"a field of a trial goes under fixed: fixed: {{{field}: ...}}"
    if field == "name":
        fix = f"remove it: the name gets {SUFFIX} at its end"
    problem = f"a small form has no field {field!r}"
    raise document.error(("small", field), problem, at_key=True, allowed=", ".join(_ALLOWED), fix=fix)


def _merge(reduced: Document, values: Mapping[str, Any]) -> None:
    """Put `small.fixed` over `fixed`."""
    fixed = reduced.values["fixed"]
    for name, value in values.items():
        here: KeyPath = ("fixed", name)
        if value is not None or name not in {*trial_fields(), *trial_sections()}:
            fixed[name] = value  # a name that is no field is refused later, with those of the whole file
            _move(reduced, ("small", *here), here)
            continue
        gone = [other for other in fixed if f"{other}.".startswith(f"{name}.")]
        if not gone:
            problem = f"small.fixed takes out {name}, which `fixed` does not have"
            reduced.mistakes.add(reduced.error(("small", *here), problem, at_key=True, fix="remove the line"))
        for other in gone:
            del fixed[other]
            _drop(reduced, ("fixed", other))


def _drop(document: Document, path: KeyPath) -> None:
    document.positions = {at: position for at, position in document.positions.items() if at[: len(path)] != path}


def _move(document: Document, old: KeyPath, new: KeyPath) -> None:
    """Let what stands at `old` in the file be found at `new`."""
    moved: dict[KeyPath, Position] = {
        (*new, *at[len(old) :]): position for at, position in document.positions.items() if at[: len(old)] == old
    }
    _drop(document, new)
    document.positions |= moved
