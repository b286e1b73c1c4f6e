"""Reads Bactrian-X (a JSON array a language, the same ids in all) as a stream of instruction records."""

from collections.abc import Iterator
from typing import Any

from afp_ray.data.readers.files import SourceFile, clean, digest, find
from afp_ray.data.readers.jsonl import read_rows
from afp_ray.data.readers.records import Record
from afp_ray.errors import DataError

FIELDS = ("id", "instruction", "input", "output")


def file_names(language: str) -> list[str]:
    """Names that the file of `language` may have in the folder."""
    return [f"{folder}{language}.{ending}" for ending in ("json", "jsonl") for folder in ("", "data/")]


def locate(path: str, language: str) -> SourceFile | None:
    """The file of `language` in the folder or archive `path`; None when it is not there.

    Raises: DataError when the folder is not there.
    """
    return find(path, file_names(language))


def read_records(file: SourceFile) -> Iterator[Record | str]:
    """The records of one language, in order; an id may be a number, and a text may be null, which is no text.

    Returns: for a record without an id, by which the languages are joined, the reason why it cannot be used.
    Raises: DataError when the file is not in the form of Bactrian-X, or cut off.
    """
    for number, record in enumerate(read_rows(file), start=1):
        if not isinstance(record, dict) or any(not _is_value(record, name) for name in FIELDS):
            has = ", ".join(sorted(record)) if isinstance(record, dict) else ""
            raise DataError(
                f"record {number} is not in the form of Bactrian-X: it has {has or 'no fields'}",
                where=file.label,
                allowed="{instruction, input, id, output}: texts, an id that is a text or a whole number",
                fix="give the file as Bactrian-X releases it",
            )
        identifier, *texts = ("" if record[name] is None else str(record[name]) for name in FIELDS)
        yield Record(identifier, *texts) if clean(identifier) else "ragged"


def _is_value(record: dict[str, Any], name: str) -> bool:
    """Whether the field is there, and holds a text, a null, or an id that is a number."""
    value = record.get(name, False)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value is None or isinstance(value, str) or (name == "id" and is_number)


def key(file: SourceFile) -> str:
    """What the records of `file` depend on."""
    return f"bactrian_x {digest(file)}"
