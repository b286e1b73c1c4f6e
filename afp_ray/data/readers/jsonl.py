"""Reads files of one JSON object a line, whose columns the source names, as pairs or as instruction records."""

import json
from collections.abc import Iterator
from typing import Any

from afp_ray.config import SourceConfig
from afp_ray.data.readers.columns import is_named_by, named
from afp_ray.data.readers.files import SourceFile, expand_path, plain_file
from afp_ray.data.readers.streams import stream_lines
from afp_ray.errors import DataError


def locate(source: SourceConfig, *, pivot: str, language: str) -> tuple[SourceFile, ...] | None:
    """The file of the language; None when its name holds the language and it is not there.

    Raises: DataError when a name without a language leads nowhere, or nothing says where the language stands.
    """
    path = source.path or ""
    if not is_named_by(path):
        require_language(source)
        return (plain_file(expand_path(path)),)
    expanded = expand_path(named(path, pivot=pivot, language=language, side=language))
    return (plain_file(expanded),) if expanded.exists() or expanded.is_symlink() else None


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
    """The objects of `file` in order; "too_long" for a line that is too long, None for one that is no JSON."""
    for line in stream_lines(file):
        if line is None:
            yield "too_long"
            continue
        try:
            yield json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            yield None
