"""Reads JSON objects, one a line, in an array or over several lines, whose columns the source names."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from afp_ray.config import SourceConfig
from afp_ray.data.readers.columns import is_named_by
from afp_ray.data.readers.files import SourceFile, expand_path, plain_file, rows_file
from afp_ray.data.readers.json_array import read_array, read_sequence
from afp_ray.data.readers.spelling import named_file
from afp_ray.data.readers.streams import numbered_lines, open_unpacked, read_text, stream_lines
from afp_ray.errors import DataError

_HEAD_BYTES = 1 << 16


def locate(source: SourceConfig, *, pivot: str, language: str) -> tuple[SourceFile, ...] | None:
    """The file of the language; None when its name holds the language and it is not there.

    Raises: DataError when a name without a language leads nowhere, or nothing says where the language stands.
    """
    path = source.path or ""
    if not is_named_by(path):
        require_language(source)
        return (rows_file(expand_path(path)) or plain_file(expand_path(path)),)
    file = named_file(path, pivot=pivot, language=language, side=language)
    return (file,) if file else None


def require_language(source: SourceConfig) -> None:
    """Refuse a source of instructions whose names and columns are the same for every language.

    Raises: DataError that says where the language may stand.
    """
    templates = (source.path, source.subset, *(source.columns or {}).values())
    if not source.holds_pairs and not any(is_named_by(template) for template in templates):
        raise DataError(
            "nothing says where the language of the instructions stands",
            where=source.path or "",
            allowed="{language} in the path, the subset or a column",
            fix="put {language} where the language code stands, for instance instructions.{language}.jsonl",
        )


def read_rows(file: SourceFile) -> Iterator[Any]:
    """The objects of `file` in order; "too_long" for a line that is too long, None for one that is no JSON.

    An array of objects, and objects that take several lines each, are known by how the file begins.

    Raises: DataError when the file cannot be read, or breaks off inside an array or an object of several lines.
    """
    form = json_form(file)
    if form != "lines":
        yield from read_array(file) if form == "array" else read_sequence(file)
        return
    for line in stream_lines(file):
        if line is None:
            yield "too_long"
            continue
        try:
            yield json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            yield None


def json_form(file: SourceFile) -> Literal["lines", "array", "sequence"]:
    """How the objects of `file` are written, by how it begins: one a line, in an array, or on several lines each."""
    with open_unpacked(file) as stream:
        head = stream.read(_HEAD_BYTES).decode("utf-8-sig", errors="ignore").lstrip()
    if head.startswith("["):
        return "array" if head[1:].lstrip()[:1] in ("{", "]", "") else "lines"
    first, *others = [line for line in head.split("\n") if line.strip()] or [""]
    try:
        json.loads(first)
    except (json.JSONDecodeError, RecursionError):
        # A broken line is followed by another object, the first line of a long object by the rest of it.
        return "sequence" if first.startswith("{") and others and not others[0].startswith("{") else "lines"
    return "lines"


def read_whole(file: SourceFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of which every row counts, each with the place where it stands; no more than fits memory.

    Raises: DataError for a line that is too long, no JSON or no object, and for a file that is too large.
    """
    if json_form(file) != "lines":
        read_text(file)  # refuses what is too large
        rows = read_array(file) if json_form(file) == "array" else read_sequence(file)
        yield from ((f"{file.label}: record {number}", row) for number, row in enumerate(rows, start=1))
        return
    for number, line in numbered_lines(file):
        where = f"{file.label}:{number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"not a JSON object ({error}): {line[:80]!r}", where=where, fix="correct the line"
            ) from error
        if not isinstance(value, dict):
            raise DataError(f"not a JSON object: {line[:80]!r}", where=where, fix="correct the line")
        yield where, value
