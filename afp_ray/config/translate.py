"""pydantic's errors as sentences of ours, at the place of the field in its file."""

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from afp_ray.config.document import Document, KeyPath
from afp_ray.config.evaluation import LANGUAGES_BY_TASK, LANGUAGES_FOR_ALL
from afp_ray.config.fields import did_you_mean, models_in, trial_fields
from afp_ray.errors import ConfigError

_OLD_WORDS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
"""What YAML 1.1 read as true and false; in 1.2 they are text."""
_TAGS = ("range", "choices", LANGUAGES_FOR_ALL, LANGUAGES_BY_TASK)
_EXPECTED = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}
_BOUNDS = {
    "greater_than": (">", "gt"),
    "greater_than_equal": (">=", "ge"),
    "less_than": ("<", "lt"),
    "less_than_equal": ("<=", "le"),
}


def translate(
    details: ErrorDetails, document: Document, *, model: type[BaseModel] | None = None, root: KeyPath = ()
) -> ConfigError:
    """One pydantic error as a `ConfigError` at its place.

    Args:
        details: the error.
        document: the file; without positions the dotted name is the place.
        model: what was validated, to name the fields that it allows.
        root: where the validated value stands.
    """
    kind, context, loc = details["type"], details.get("ctx", {}), (*root, *details["loc"])
    if loc and re.match(r"constrained-|literal\[", str(loc[-1])):  # the part of a union that the value came nearest to
        loc = loc[:-1]
    path = place_of(details, document, root=root)
    name, value = field_name(loc), details["input"]
    if kind == "value_error":
        message = details["msg"].removeprefix("Value error, ")
        problem, allowed, fix = parts_of(message)
        return error_at(document, path, problem, allowed=allowed, fix=fix)
    if kind == "extra_forbidden":
        beside = _beside(model, details["loc"])
        fix = did_you_mean(str(loc[-1]), beside)
        if not fix and str(loc[-1]) in trial_fields():
            fix = f"a field of a trial goes under fixed, compare or tune: fixed: {{{loc[-1]}: ...}}"
        return error_at(document, path, f"unknown field {name!r}", at_key=True, allowed=", ".join(beside), fix=fix)
    if kind == "missing":
        return error_at(document, path, f"{name} is missing", fix=f"add a line `{loc[-1]}: ...`")
    if loc[-1] == "[key]":  # a key of a mapping, of which pydantic names the value's place
        problem = f"{field_name(loc[:-1])} is not known"
        fix = _fix(kind, context, value, None)
        return error_at(document, path, problem, at_key=True, allowed=_allowed(kind, context), fix=fix)
    raw = document.raw(path)
    if isinstance(value, bool) and raw is not None and "bool" not in kind:
        problem = f"{name}: {raw} was read by YAML as {str(value).lower()}"
        return error_at(document, path, problem, allowed=_allowed(kind, context), fix=f'write "{raw}"')
    problem = _sentence(kind, context, name, value, details["msg"])
    return error_at(document, path, problem, allowed=_allowed(kind, context), fix=_fix(kind, context, value, raw))


def place_of(details: ErrorDetails, document: Document, *, root: KeyPath = ()) -> KeyPath:
    """Where in the document the mistake of a pydantic error stands; arguments as in `translate`."""
    path = path_of((*root, *details["loc"]), document)
    return _quoted(details["msg"], document, path) if details["type"] == "value_error" else path


def parts_of(message: str) -> tuple[str, str, str]:
    """Problem, what is allowed and the fix of a sentence: `problem; allowed: ...; fix: ...` or `problem; fix`."""
    problem, _, rest = message.partition("; ")
    if not rest.startswith("allowed: "):
        return problem, "", rest
    allowed, _, fix = rest.removeprefix("allowed: ").partition("; fix: ")
    return problem, allowed, fix


def error_at(
    document: Document, path: KeyPath, problem: str, *, at_key: bool = False, allowed: str = "", fix: str = ""
) -> ConfigError:
    """A `ConfigError` at `path` of the file, or at its dotted name where there is no file."""
    if document.positions:
        return document.error(path, problem, at_key=at_key, allowed=allowed, fix=fix)
    return ConfigError(problem, where=".".join(map(str, path)), allowed=allowed, fix=fix)


def path_of(loc: KeyPath, document: Document) -> KeyPath:
    """Where a pydantic location stands in the document, dotted and nested keys alike; the nearest parent if nowhere."""
    if not document.positions:
        return loc
    at: KeyPath = ()
    while loc:
        for size in range(len(loc), 0, -1):
            key = loc[0] if size == 1 else ".".join(map(str, loc[:size]))
            if (*at, key) in document.positions:
                at, loc = (*at, key), loc[size:]
                break
        else:
            if loc[0] not in _TAGS:
                break
            loc = loc[1:]  # the tag of a union, which the file does not have
    return at


def field_name(loc: KeyPath) -> str:
    """The name that a message gives a location: without the list position at its end and the place of a field."""
    parts = list(loc)
    while len(parts) > 1 and isinstance(parts[-1], int):
        parts.pop()
    if len(parts) > 1 and parts[0] in ("fixed", "compare"):
        parts = parts[1:]
    if len(parts) > 2 and parts[0] == "arms":
        parts = parts[2:]
    parts = [part for part in parts if part not in (LANGUAGES_FOR_ALL, LANGUAGES_BY_TASK)]
    tags = [index for index, part in enumerate(parts) if part in _TAGS]
    if tags and parts[0] == "tune" and len(parts) > tags[0] + 1:
        parts.pop(tags[0])
    return ".".join(map(str, parts))


def _quoted(message: str, document: Document, path: KeyPath) -> KeyPath:
    """The place of the value or field that a model's own message quotes, else `path`."""
    paths = [inner for inner in document.positions if inner[: len(path)] == path]
    message = message.removeprefix("Value error, ")
    paths.sort(key=lambda inner: document.positions[inner].origin is None)  # what --set gave is the likelier mistake
    for word in re.findall(r"'([^']*)'", message):
        for inner in paths:
            if document.positions[inner].raw == word:
                return inner
    dotted, quoted = re.findall(r"[a-z_]+(?:\.[a-z_]+)+", message), re.findall(r"`([^`]*)`", message)
    for word in [*dotted, *quoted, message.partition(" ")[0]]:
        for inner in paths:
            if f".{'.'.join(map(str, inner))}".endswith(f".{word}"):
                return inner
    return path


def _beside(model: type[BaseModel] | None, loc: tuple[str | int, ...]) -> list[str]:
    """Names that were allowed where the last part of `loc` stands."""
    models = [model] if model else []
    for part in loc[:-1]:
        if part in _TAGS:
            models = [candidate for candidate in models if ("choices" in candidate.model_fields) == (part == "choices")]
        fields = [candidate.model_fields[str(part)] for candidate in models if str(part) in candidate.model_fields]
        models = [inner for field in fields for inner in models_in(field.annotation)] or models
    return sorted({name for candidate in models for name in candidate.model_fields})


def _sentence(kind: str, context: Mapping[str, Any], name: str, value: Any, message: str) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    shown = shown if len(shown) <= 120 else f"{shown[:120]}..."
    if kind in _BOUNDS:
        sign, key = _BOUNDS[kind]
        return f"{name} = {shown} is not {sign} {_bound(context[key])}"
    if kind == "literal_error":
        return f"{name} = {shown} is not known"
    stem = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float")
    if stem in _EXPECTED:
        return f"{name} = {shown} is {_kind_of(value)}, {_EXPECTED[stem]} is expected"
    return f"{name} = {shown}: {message[:1].lower()}{message[1:]}"


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a whole number", float: "a fraction", str: "text", list: "a list"}
    return names.get(type(value), "a mapping")


def _allowed(kind: str, context: Mapping[str, Any]) -> str:
    if kind == "literal_error":
        return str(context["expected"]).replace(" or ", ", ").replace("'", "")
    if kind in _BOUNDS:
        sign, key = _BOUNDS[kind]
        return f"{sign} {_bound(context[key])}"
    return ""


def _bound(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _fix(kind: str, context: Mapping[str, Any], value: Any, raw: str | None) -> str:
    if kind == "literal_error" and isinstance(value, str):
        words = _allowed(kind, context).split(", ")
        near = difflib.get_close_matches(value, words, n=1, cutoff=0.5)
        return f"did you mean {near[0]}?" if near else ""
    if isinstance(value, str) and kind.startswith(("int", "float", "bool")):
        if kind.startswith("bool") and value.lower() in _OLD_WORDS:
            return f"write {_OLD_WORDS[value.lower()]}"
        return "remove the quotes" if re.fullmatch(r"[-+]?\d+(\.\d+)?|true|false", value) else ""
    if kind.startswith(("tuple", "list")) and not isinstance(value, (dict, type(None))):
        return f"write [{value}]"
    if kind.startswith("int") and isinstance(value, float):
        return f"write {round(value)}"
    if kind == "string_type" and isinstance(value, (int, float)):
        return f'write "{raw or json.dumps(value)}"'
    return ""
