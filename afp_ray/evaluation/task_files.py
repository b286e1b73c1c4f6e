"""Rows of the tasks' original files and of their copies on the hub, each with its file and line."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from afp_ray.data.readers.archives import ARCHIVE_SUFFIXES, is_archive
from afp_ray.data.readers.files import Shards, SourceFile, expand_path, find, is_spare, members_of, plain_file
from afp_ray.data.readers.folders import require_shards
from afp_ray.data.readers.hub import parquet_rows, table_columns
from afp_ray.data.readers.jsonl import read_whole
from afp_ray.data.readers.streams import numbered_lines
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
    source = root if root.exists() else next((path for path in _packed(root) if path.is_file()), None)
    return find(str(source), names) if source is not None else None


def _packed(root: Path) -> list[Path]:
    return [root.with_name(root.name + suffix) for suffix in ARCHIVE_SUFFIXES]


def locate_split(data_dir: Path, folder: str, language: str, split: str, *names: str) -> SourceFile | None:
    """The first of `names`, else the tables that the hub has of a split of a language; None without either.

    Raises: DataError when a numbered table of the split is missing.
    """
    file = locate(data_dir, folder, *names, *(f"{language}/{name}" for name in _hub_names(split)))
    if file is not None and not is_parquet(file):
        return file
    root = data_dir / folder
    numbered = _numbered(root, language, split, in_archives=False)
    if not numbered and (file is None or file.member):
        numbered = _numbered(root, language, split, in_archives=True)
    if not numbered:
        return file
    first = numbered[0]
    if len(numbered) == 1:
        return file or first
    return Shards(first.path, first.member, first.size, first.modified_ns, tuple(numbered))


def _hub_names(split: str) -> tuple[str, ...]:
    """Names of one split of a data set of the hub: on its main branch, on its converted branch, and in short."""
    return f"{split}-00000-of-00001.parquet", f"{split}/0000.parquet", f"{split}.parquet"


def _numbered(root: Path, language: str, split: str, *, in_archives: bool) -> list[SourceFile]:
    """The tables of a split that bear a number, from the main branch where it has some, else from the converted one.

    Raises: DataError when one is missing.
    """
    if in_archives:
        inside = root.iterdir() if root.is_dir() else ()
        archives = [path for path in inside if is_archive(path.name) and not is_spare(path.name)] or _packed(root)
        files = [file for path in sorted(archives) if path.is_file() for file in members_of(path)]
    else:
        folders = [path for path in (root / language, root / language / split) if path.is_dir()]
        files = [plain_file(path) for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
    main = re.compile(rf".*/{re.escape(language)}/{re.escape(split)}-\d+-of-\d+[^/]*\.parquet")
    converted = re.compile(rf".*/{re.escape(language)}/{re.escape(split)}/\d{{4,}}\.parquet")
    for pattern in (main, converted):
        if tables := [file for file in files if pattern.fullmatch(file.label)]:
            require_shards([Path(file.label) for file in tables])
            return tables
    return []


def is_parquet(file: SourceFile) -> bool:
    """Whether `file` comes from the hub's tables."""
    return file.ending == ".parquet"


def hub_split(file: SourceFile) -> str:
    """The split that the name of a table says: `validation`, `test`, ..."""
    path = Path(file.label)
    name = path.parent.name if path.stem.isdigit() else path.stem
    return re.sub(r"-\d+-of-\d+.*$", "", name)


def read_table(file: SourceFile, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Rows of Parquet files that have `columns`, each with its `where`, whose number counts rows of its file from 1.

    Raises: DataError when one is no Parquet file, lacks a column, or holds more text than is read whole.
    """
    num_chars = 0
    for part in file.parts:
        if missing := [name for name in columns if name not in table_columns(part)]:
            if set(missing) <= LABELS:
                raise unlabelled(part)
            raise DataError(
                f"the table lacks {', '.join(missing)}",
                where=part.label,
                allowed=", ".join(columns),
                fix="give the table of this task, as the hub has it",
            )
        for number, row in enumerate(parquet_rows(part, columns), start=1):
            num_chars += sum(len(value) for value in row.values() if isinstance(value, str))
            part.require_small(num_chars)
            yield {**row, "where": f"{part.label}:{number}"}


LABEL = "label"
LABELS = frozenset((LABEL, "answer_right_ending", "AnswerRightEnding", "answer"))
"""The columns that test parts without answers lack."""


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
    for number, line in numbered_lines(file):
        where = f"{file.label}:{number}"
        cells = line.rstrip("\r").split("\t")
        if number == 1 and has_header:
            names = tuple(cell.strip() for cell in cells)
            if missing := [name for name in columns if name not in names]:
                if set(missing) <= LABELS:
                    raise unlabelled(file)
                raise DataError(
                    f"the header lacks {', '.join(missing)}",
                    where=where,
                    allowed=", ".join(columns),
                    fix="restore the file's header line",
                )
        elif line.strip():
            if number == 1 and len(cells) == len(names) - 1 and names[-1] in LABELS:
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
    """JSON objects that hold `fields`, one a line, in an array or over several lines, each with its `where`.

    Raises: DataError for a line that is no JSON object, or an object that lacks a field.
    """
    for number, (where, value) in enumerate(read_whole(file)):
        if missing := [name for name in fields if name not in value]:
            if number == 0 and set(missing) <= LABELS:
                raise unlabelled(file)
            raise DataError(
                f"the row lacks {', '.join(missing)}", where=where, allowed=", ".join(fields), fix="complete the row"
            )
        yield {**value, "where": where}
