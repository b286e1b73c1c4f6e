"""Rows of the tasks' original files and of their copies on the hub, each with the place where it was read."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from afp_ray.data.readers.archives import ARCHIVE_SUFFIXES
from afp_ray.data.readers.files import SourceFile, expand_path, find
from afp_ray.data.readers.streams import read_lines
from afp_ray.errors import DataError


def open_data_dir(data_dir: str) -> Path:
    """The folder `evaluation.data_dir` with `~` and `${AFP_DATA_DIR}` replaced.

    Raises: DataError when it is no folder, or the variable is not set.
    """
    path = expand_path(data_dir)
    if not path.is_dir():
        raise DataError(
            f"{str(path)!r} is no folder",
            where="evaluation.data_dir",
            fix="give the folder that holds xnli/, xcopa/, ...",
        )
    return path


def locate(data_dir: Path, folder: str, *names: str) -> SourceFile | None:
    """The first of `names` under `data_dir/folder`, plain or in an archive there or of that name; None without one."""
    root = data_dir / folder
    packed = (root.with_name(root.name + suffix) for suffix in ARCHIVE_SUFFIXES)
    place = root if root.exists() else next((path for path in packed if path.is_file()), None)
    return find(str(place), names) if place is not None else None


def hub_names(folder: str, split: str) -> tuple[str, ...]:
    """Names of one split of a data set of the hub: on its main branch, on its converted branch, and in short."""
    return (
        f"{folder}/{split}-00000-of-00001.parquet",
        f"{folder}/{split}/0000.parquet",
        f"{folder}/{split}.parquet",
    )


def is_parquet(file: SourceFile) -> bool:
    """Whether `file` comes from the hub's tables."""
    return file.label.endswith(".parquet")


def hub_split(file: SourceFile) -> str:
    """The split that one of `hub_names` names: `validation`, `test`, ..."""
    path = Path(file.label)
    name = path.parent.name if path.stem.isdigit() else path.stem
    return re.sub(r"-\d+-of-\d+$", "", name)


def read_table(file: SourceFile, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file that has `columns`, each with its `where`, whose number counts rows from 1.

    Raises: DataError when it is no Parquet file or lacks a column.
    """
    try:
        table = pq.read_table(pa.BufferReader(file.read()))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"not a Parquet file: {error}", where=file.label, fix="download the file again") from error
    if missing := [name for name in columns if name not in table.column_names]:
        raise DataError(
            f"the table lacks {', '.join(missing)}",
            where=file.label,
            allowed=", ".join(columns),
            fix="give the table of this task, as the hub has it",
        )
    for number, row in enumerate(table.select(list(columns)).to_pylist(), start=1):
        yield {**row, "where": f"{file.label}:{number}"}


LABEL = "label"
"""The column that test parts without answers lack."""


class UnlabelledError(DataError):
    """A file of questions without answers, as some benchmarks publish their test part."""


def unlabelled(file: SourceFile) -> UnlabelledError:
    """The error for a file that has no labels."""
    return UnlabelledError(
        f"{file.label} has questions without labels, as published test parts have them",
        where=file.label,
        allowed="rows with their labels",
        fix="score validation alone (--split validation), or put the file with labels there",
    )


def read_columns(file: SourceFile, columns: tuple[str, ...], *, has_header: bool) -> Iterator[dict[str, Any]]:
    """Rows of a tab-separated file, by column name, each with its `where`; quotation marks are text.

    Raises: DataError for a header that lacks a column, or a row with another number of columns.
    """
    names = columns
    for number, line in enumerate(read_lines(file), start=1):
        where = f"{file.label}:{number}"
        cells = line.rstrip("\r").split("\t")
        if number == 1 and has_header:
            names = tuple(cell.strip() for cell in cells)
            if missing := [name for name in columns if name not in names]:
                if missing == [LABEL]:
                    raise unlabelled(file)
                raise DataError(
                    f"the header lacks {', '.join(missing)}",
                    where=where,
                    allowed=", ".join(columns),
                    fix="restore the file's header line",
                )
        elif line.strip():
            if number == 1 and len(cells) == len(names) - 1 and names[-1] == LABEL:
                raise unlabelled(file)
            if len(cells) != len(names):
                raise DataError(
                    f"{len(cells)} columns instead of {len(names)}: {line[:80]!r}",
                    where=where,
                    allowed="TAB-separated " + ", ".join(names),
                    fix="restore the row's columns",
                )
            yield {**dict(zip(names, cells, strict=True)), "where": where}


def read_objects(file: SourceFile, fields: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Rows of a JSON-lines file that hold `fields`, each with its `where`.

    Raises: DataError for a line that is no JSON object or lacks a field.
    """
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        where = f"{file.label}:{number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"not JSON: {error}", where=where, fix="correct the line") from error
        if not isinstance(value, dict):
            raise DataError(f"not a JSON object: {line[:80]!r}", where=where, fix="correct the line")
        if missing := [name for name in fields if name not in value]:
            raise DataError(
                f"the row lacks {', '.join(missing)}", where=where, allowed=", ".join(fields), fix="complete the row"
            )
        yield {**value, "where": where}
