"""A choice task from files alone: columns of JSON rows, put into the words of a template of the study file."""

from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from afp_ray.config import SPLITS, OwnTaskConfig, Split
from afp_ray.data.readers.files import SourceFile, expand_path, plain_file
from afp_ray.errors import DataError, TaskError
from afp_ray.evaluation.task import ParsedRows, Question, Row, Task, where_of
from afp_ray.evaluation.task_files import read_objects
from afp_ray.languages import Language

_SPELLED: Mapping[Split, tuple[str, ...]] = {"validation": ("validation", "dev", "val"), "test": ("test",)}
"""What stands in a file's name for a split."""


@lru_cache(maxsize=64)
def task_from_files(name: str, config: OwnTaskConfig) -> Task:
    """The task `name` of a study file."""
    fields = tuple(dict.fromkeys((*config.columns, *config.choices)))
    return Task(
        name=name,
        fields=fields,
        render=partial(_render, config, name),
        own_files=partial(_files, config, name),
        parse=partial(_parse, config, name),
        label=config.label,
        layout=config.path,
        shown_class=config.label,
    )


def _files(config: OwnTaskConfig, name: str, language: str) -> dict[Split, SourceFile]:
    """The file of each split, or the one file of both as `test`; empty where the language has none."""
    path = config.path.replace("{language}", language)
    if "{split}" not in path:
        file = _file(path)
        return {} if file is None else {"test": file}
    files = {split: next(filter(None, map(_file, _paths(path, split))), None) for split in SPLITS}
    if not any(files.values()):
        return {}
    for split, file in files.items():
        if file is None:
            raise TaskError(
                f"{name} has no {split} file in {language!r}",
                where=f"evaluation.own_tasks.{name}.path",
                allowed=" or ".join(_paths(path, split)),
                fix="add the file, or give a path without {split}: one file is cut into halves",
            )
    return {split: file for split, file in files.items() if file is not None}


def _paths(path: str, split: Split) -> list[str]:
    return [path.replace("{split}", word) for word in _SPELLED[split]]


def _file(path: str) -> SourceFile | None:
    """The file at `path`; None where there is nothing."""
    place = Path(expand_path(path))
    try:
        return plain_file(place)
    except DataError:
        if place.exists():
            raise
        return None


def _parse(config: OwnTaskConfig, name: str, file: SourceFile, _language: str) -> ParsedRows:
    """Rows of one file, each with an id of its own.

    Raises: DataError at file and line for a row that is no object, or lacks a column; at the field for a column that no
        row has.
    """
    names = {**dict.fromkeys(config.columns, "template"), **dict.fromkeys(config.choices, "choices")}
    names |= {config.label: "label"} | ({config.id: "id"} if config.id else {})
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(read_objects(file, ()), start=1):
        _require_columns(config, name, row, names, is_first=number == 1)
        content = str(row[config.id]) if config.id else f"{number}"
        seen[content] = seen.get(content, 0) + 1
        ending = f"#{seen[content]}" if seen[content] > 1 else ""
        rows.append({**row, "id": f"{content}{ending}", "content_id": content})
    return ParsedRows(rows)


def _require_columns(
    config: OwnTaskConfig, name: str, row: Mapping[str, Any], names: Mapping[str, str], *, is_first: bool
) -> None:
    for column, field in names.items():
        if row.get(column) is not None:
            continue
        present = ", ".join(key for key in row if key != "where")
        if is_first and column not in row:
            raise TaskError(
                f"{name} names the column {column!r}, which the rows do not have",
                where=f"evaluation.own_tasks.{name}.{field}",
                allowed=f"columns of {row['where']}: {present}",
                fix="correct the name in the study file",
            )
        raise TaskError(
            f"{name} row has no {column!r}",
            where=str(row["where"]),
            allowed=f"rows with {', '.join(names)}",
            fix="complete or remove the row",
        )


def _render(config: OwnTaskConfig, name: str, row: Row, language: Language, _words: Language) -> Question:
    """The template with the row's columns, and after it each choice."""
    choices = _choices(config, name, row)
    context = config.template.format_map({column: str(row[column]).strip() for column in config.columns})
    texts = [language.space + choice for choice in choices]
    gold = _gold(config, name, row, len(choices))
    words = config.words.strip()
    neutral = tuple((words, text) for text in texts) if words else ()
    return Question(tuple((context, text) for text in texts), gold=gold, neutral=neutral)


def _choices(config: OwnTaskConfig, name: str, row: Row) -> list[str]:
    value = row[config.choices[0]] if len(config.choices) == 1 else [row[column] for column in config.choices]
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise TaskError(
            f"{name} row has {config.choices[0]} = {str(value)[:80]!r}",
            where=where_of(row, name),
            allowed="a list of two choices or more, where `choices` names one column",
            fix="correct the row, or name the column of each choice",
        )
    texts = [str(choice).strip() for choice in value]
    if "" in texts:
        raise TaskError(f"{name} row has an empty choice", where=where_of(row, name), fix="complete or remove the row")
    return texts


def _gold(config: OwnTaskConfig, name: str, row: Row, num_choices: int) -> int:
    """Index of the right choice."""
    labels = config.labels or tuple(map(str, range(num_choices)))
    value = str(row[config.label]).strip()
    if value not in labels[:num_choices]:
        raise TaskError(
            f"{name} row has {config.label} {value[:80]!r}",
            where=where_of(row, name),
            allowed=", ".join(labels[:num_choices]),
            fix=f"correct the row, or say in evaluation.own_tasks.{name}.labels what the column holds",
        )
    return labels.index(value)
