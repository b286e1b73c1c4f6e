"""The study file as a JSON schema, in which an editor completes and checks the dotted names of a trial as well.

pydantic's own schema of the models is the source of every type, bound and text. What it cannot know is added: which
names `fixed`, `compare`, `tune` and `arms` take, dotted or nested, and what a small form replaces.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from afp_ray.config.fields import models_in, trial_fields, trial_sections
from afp_ray.config.study import StudyConfig
from afp_ray.config.trial import TrialConfig

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
TITLE: Final = "afp_ray study file"
_NUMBERS = frozenset(("integer", "number"))


def study_schema() -> Schema:
    """The schema of a study file; it refuses no file that `load_study` accepts."""
    study, trial = StudyConfig.model_json_schema(), TrialConfig.model_json_schema()
    fields = {name: _of_field(name, trial) for name in trial_fields() if name != "seed"}
    definitions: Schema = {**trial["$defs"], **study["$defs"]}
    definitions |= {f"field:{name}": field for name, field in fields.items()}
    definitions |= {
        "Fields": _names("", _ref),
        "SmallFields": _names("", _ref, or_null=True),
        "Compared": _names("", _compared),
        "Searched": _names("", lambda name: _searched(name, fields[name])),
        "When": _when(fields),
    }
    for kind in ("RangeSpec", "ChoiceSpec"):
        definitions[kind]["properties"]["when"] |= {"$ref": "#/$defs/When"}
        definitions[kind]["properties"]["when"].pop("additionalProperties")
    own = study["properties"]
    for name, definition in (("fixed", "Fields"), ("compare", "Compared"), ("tune", "Searched")):
        own[name] |= {"$ref": f"#/$defs/{definition}", "additionalProperties": True}
    own["arms"] |= {"additionalProperties": {"$ref": "#/$defs/Fields"}}
    pruner = own["pruner"]
    own["pruner"] = {
        "anyOf": [{"$ref": pruner.pop("$ref")}, definitions["PrunerConfig"]["properties"]["name"]],
        **pruner,
    }
    replaced = {name: field for name, field in own.items() if name not in ("name", "small")}
    own["small"] |= _mapping({**replaced, "fixed": {**own["fixed"], "$ref": "#/$defs/SmallFields"}})
    schema: Schema = _plain({"$schema": DIALECT, **study, "$defs": definitions})
    return schema | {"title": TITLE}


def _mapping(properties: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/field:{name}"}


def _of_field(name: str, trial: Schema) -> Schema:
    """The schema of a field of a trial by dotted name, with its text and default."""
    *sections, last = name.split(".")
    model: Any = TrialConfig
    for section in sections:
        model = models_in(model.model_fields[section].annotation)[0]
    owner = trial["$defs"][model.__name__] if sections else trial
    return dict(owner["properties"][last])


def _names(prefix: str, leaf: Callable[[str], Schema], *, or_null: bool = False) -> Schema:
    """A mapping of the fields below `prefix`, dotted or nested in their sections.

    Args:
        prefix: dotted, with the dot at its end; "" for all.
        leaf: what a field takes, by its dotted name.
        or_null: whether a null takes the field out.
    """
    names = [name for name in trial_fields() if name.startswith(prefix) and name != "seed"]
    below = {name.removeprefix(prefix): leaf(name) for name in names}
    for name in sorted(trial_sections()):
        if name.startswith(prefix):
            short, inner = name.removeprefix(prefix), _names(f"{name}.", leaf)
            below[short] = {"anyOf": [inner, below[short]]} if short in below else inner
    if or_null:
        below = {name: {"anyOf": [field, {"type": "null"}]} for name, field in below.items()}
    return _mapping(below)


def _compared(name: str) -> Schema:
    return {"type": "array", "minItems": 1, "items": _ref(name), "description": f"Values of {name}, one an arm."}


def _searched(name: str, field: Schema) -> Schema:
    """What `tune` takes for a field: choices, and a range where it is a number."""
    values = {"type": "array", "minItems": 1, "items": _ref(name), "description": "Values to choose from."}
    choices = _mapping({"choices": values, "when": {"$ref": "#/$defs/When"}}) | {"required": ["choices"]}
    kinds = {part.get("type") for part in (field, *field.get("anyOf", ()))}
    either = {"anyOf": [{"$ref": "#/$defs/RangeSpec"}, choices]} if kinds & _NUMBERS else choices
    return {**either, "description": field.get("description", "")}


def _when(fields: Mapping[str, Schema]) -> Schema:
    """A value or several of each field under which another one is searched."""
    return _mapping({name: {"anyOf": [_ref(name), {"type": "array", "items": _ref(name)}]} for name in fields})


def _plain(schema: Any, *, holds_names: bool = False) -> Any:
    """The same without pydantic's titles, and each text in one line; `holds_names` where keys are names of fields."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {}
    for key, value in schema.items():
        if holds_names:
            plain[key] = _plain(value)
        elif key == "description":
            plain[key] = " ".join(value.split())
        elif key in ("properties", "$defs"):
            plain[key] = _plain(value, holds_names=True)
        elif key in ("default", "const", "enum"):
            plain[key] = value
        elif key != "title":
            plain[key] = _plain(value)
    return plain
