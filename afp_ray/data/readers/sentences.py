"""Pairs the sentences of two files, one a language: line by line, or objects with a text by their ids, as FLORES+."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from afp_ray.data.readers import hub
from afp_ray.data.readers.files import SourceFile
from afp_ray.data.readers.pair_source import key_of
from afp_ray.data.readers.report import RawRow
from afp_ray.data.readers.streams import stream_lines
from afp_ray.errors import DataError
from afp_ray.languages import name_pattern

KINDS = ("aligned", "flores")
"""Kinds of sources whose files are read here whichever form they have."""
_ENDINGS = (".jsonl", ".ndjson", ".json", ".parquet")
_TEXTS = ("text", "sentence")
"""Field of the sentence in FLORES+, and in the tables of FLORES-200 on the hub."""


def has_objects(file: SourceFile) -> bool:
    """Whether `file` holds an object a sentence rather than a line."""
    return file.ending in _ENDINGS


def form_key(kind: str, files: Sequence[SourceFile]) -> str:
    """What beside the bytes decides the rows of `files`: whether they are read as objects, and a plug-in's version."""
    return (" objects" if kind in KINDS and any(map(has_objects, files)) else "") + key_of(kind)


def pair_rows(files: Sequence[SourceFile], codes: Sequence[str]) -> Iterator[RawRow]:
    """Sentences of both files side by side: by `id` where both have ids, else by their order.

    Args:
        files: the pivot's file and the other one.
        codes: their languages.
    Returns: rows in the order of the first file, named by their id where they have one.
    Raises: DataError for files of different lengths, objects without a text, or objects of another language.
    """
    if not any(map(has_objects, files)):
        yield from _side_by_side(
            files, *(((line or "", line is None) for line in stream_lines(file)) for file in files)
        )
        return
    first, second = (list(_sentences(file, code)) for file, code in zip(files, codes, strict=True))
    if not all(name for rows in (first, second) for name, _, _ in rows):
        sides = (((text, is_long) for _, text, is_long in rows) for rows in (first, second))
        yield from _side_by_side(files, *sides)
        return
    others = {name: (text, is_long) for name, text, is_long in reversed(second)}
    seen: set[str] = set()
    for name, text, is_long in first:
        refusal = "repeated" if name in seen else "unmatched" if name not in others else ""
        seen.add(name)
        other, other_is_long = others.get(name, ("", False))
        yield RawRow((text, other), name, refusal or ("too_long" if is_long or other_is_long else ""))


def _sentences(file: SourceFile, code: str) -> Iterator[tuple[str, str, bool]]:
    """Id or "", text, and whether it is too long, of each sentence."""
    if not has_objects(file):
        yield from (("", line or "", line is None) for line in stream_lines(file))
        return
    last_tag: str | None = None
    for number, row in enumerate(hub.read_rows((file,)), start=1):
        if row == "too_long":
            yield "", "", True
            continue
        field = next((name for name in _TEXTS if isinstance(row, Mapping) and isinstance(row.get(name), str)), None)
        if field is None:
            raise DataError(
                f"record {number} has no text" + (f", but {', '.join(row)}" if isinstance(row, Mapping) else ""),
                where=file.label,
                allowed=f"objects with {' or '.join(_TEXTS)}, and an id by which the languages are joined",
                fix="give the file as FLORES+ has it, text with a sentence a line, or a jsonl source with columns",
            )
        tag = _tag(row)
        if tag and tag != last_tag:
            _require_language(tag, code, where=f"{file.label}: record {number}")
            last_tag = tag
        identifier = row.get("id")
        yield "" if identifier is None else str(identifier), row[field], False


def _tag(row: Mapping[str, Any]) -> str:
    """Language and script that an object of FLORES+ says it is in, "" where it says nothing."""
    return "_".join(str(row[name]) for name in ("iso_639_3", "iso_15924") if row.get(name))


def _require_language(tag: str, code: str, *, where: str) -> None:
    if not re.fullmatch(name_pattern(code), tag):
        raise DataError(
            f"the sentence is in {tag}, not in {code}", where=where, fix=f"give the file of {code}, or correct the path"
        )


def _side_by_side(
    files: Sequence[SourceFile], first: Iterator[tuple[str, bool]], second: Iterator[tuple[str, bool]]
) -> Iterator[RawRow]:
    """Texts of both files in their order, each with whether it is too long."""
    number = 0
    for text, is_long in first:
        try:
            other, other_is_long = next(second)
        except StopIteration:
            raise _of_different_lengths(files, number + 1 + sum(1 for _ in first), number) from None
        number += 1
        yield RawRow((text, other), refusal="too_long" if is_long or other_is_long else "")
    more = sum(1 for _ in second)
    if more:
        raise _of_different_lengths(files, number, number + more)


def _of_different_lengths(files: Sequence[SourceFile], first: int, second: int) -> DataError:
    return DataError(
        f"{first} lines, but {files[1].label} has {second}",
        where=f"{files[0].label}:{min(first, second) + 1}",
        allowed="the same number of lines on both sides",
        fix="give files whose lines translate each other",
    )
