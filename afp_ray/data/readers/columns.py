"""Takes the texts of a row by the columns that a source names, and fills language codes into names and paths."""

import json
from collections.abc import Mapping
from typing import Any

from afp_ray.config import SourceConfig
from afp_ray.data.readers.records import Record
from afp_ray.data.readers.report import RawRow

PLACEHOLDERS = ("{source}", "{target}", "{language}")


def named(template: str, *, pivot: str, language: str, side: str = "") -> str:
    """`template` with its placeholders filled in; `{language}` is `side`."""
    values = {"{source}": pivot, "{target}": language, "{language}": side}
    for placeholder, value in values.items():
        template = template.replace(placeholder, value)
    return template


def is_named_by(template: str | None) -> bool:
    """Whether a language stands in `template`."""
    return any(placeholder in (template or "") for placeholder in PLACEHOLDERS)


def columns_key(source: SourceConfig) -> str:
    """What in `source`, beside its files, the rows depend on; "" for kinds with columns of their own."""
    if source.columns is None:
        return ""
    return json.dumps([source.columns, source.subset, source.split], sort_keys=True)


def pair_row(row: Any, source: SourceConfig, *, pivot: str, language: str) -> RawRow:
    """The two sides of `row`; refused as `ragged` when a column is missing or holds no text.

    A `row` that is itself a text says why it cannot be used.
    """
    if isinstance(row, str):
        return RawRow((), refusal=row)
    columns = source.columns or {}
    texts = [text_at(row, named(columns[side], pivot=pivot, language=language)) for side in ("source", "target")]
    return RawRow([text for text in texts if text is not None])


def record(row: Any, source: SourceConfig, *, pivot: str, language: str) -> Record | str:
    """The instruction record of `row` in `language`, or the reason why it is none.

    Numbers are taken as the names of records; an empty or missing input is no fault.
    """
    if isinstance(row, str):
        return row
    texts = []
    for name in ("id", "instruction", "input", "output"):
        column = (source.columns or {}).get(name)
        path = named(column, pivot=pivot, language=language, side=language) if column else ""
        text = text_at(row, path, numbers=name == "id") if column else ""
        if text is None and name == "input":
            text = ""
        if text is None:
            return "ragged"
        texts.append(text)
    return Record(*texts) if texts[0].strip() else "ragged"


def text_at(row: Any, path: str, *, numbers: bool = False) -> str | None:
    """The text that the dotted `path` leads to in `row`; "" for a null, None where there is no text.

    A column whose own name holds the dots goes before a nested one.
    """
    value = row
    names = [path] if isinstance(row, Mapping) and path in row else path.split(".")
    for name in names:
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    if value is None:
        return ""
    if numbers and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None
