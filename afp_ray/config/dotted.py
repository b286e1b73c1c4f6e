"""Nested fields of a trial in a file become dotted names, each still at its own line and column."""

from typing import Any

from afp_ray.config.document import Document, KeyPath, Position
from afp_ray.config.fields import trial_sections

TOPS = ("fixed", "compare", "tune")
"""Fields of a study whose names are fields of a trial."""


def flat(document: Document, values: dict[str, Any], path: KeyPath) -> tuple[dict[str, Any], dict[KeyPath, Position]]:
    """Dotted values of the mapping at `path`, opening the sections of a trial alone, and all positions so renamed.

    A field that stands there twice is a mistake of the document.
    """
    flattened: dict[str, Any] = {}
    positions = {at: position for at, position in document.positions.items() if at[: len(path)] != path or at == path}

    def walk(mapping: dict[str, Any], here: KeyPath, prefix: str) -> None:
        for key, value in mapping.items():
            name, at = f"{prefix}{key}", (*here, key)
            if name in trial_sections() and isinstance(value, dict) and value:
                walk(value, at, f"{name}.")
                continue
            if name in flattened:
                problem = f"{name} stands twice, dotted and nested"
                document.mistakes.add(document.error(at, problem, at_key=True, fix="keep one"))
                continue
            flattened[name] = value
            for other, position in document.positions.items():
                if other[: len(at)] == at:
                    positions[(*path, name, *other[len(at) :])] = position

    walk(values, path, "")
    return flattened, positions


def dot(document: Document, values: dict[str, Any], path: KeyPath) -> None:
    """Give every mapping of `values` under `TOPS`, and each of `arms`, dotted names.

    Args:
        document: the file; its positions are renamed.
        values: the study, or its small form.
        path: where `values` stands in the file.
    """
    for top in TOPS:
        if isinstance(values.get(top), dict):
            values[top], document.positions = flat(document, values[top], (*path, top))
    arms = values.get("arms")
    if isinstance(arms, dict):
        for name, fields in arms.items():
            if isinstance(fields, dict):
                arms[name], document.positions = flat(document, fields, (*path, "arms", name))
