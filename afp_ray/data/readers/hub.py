"""Streams the rows of any `datasets` source: a data set id, a local folder or file, or what `save_to_disk` wrote."""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from afp_ray.config import SourceConfig
from afp_ray.data.readers import jsonl
from afp_ray.data.readers.archives import is_archive
from afp_ray.data.readers.columns import is_named_by, named
from afp_ray.data.readers.files import (
    HubRevision,
    SourceFile,
    expand_path,
    is_spare,
    members_of,
    plain_file,
    two_files_fit,
    without_packing,
)
from afp_ray.data.readers.folders import listed, require_shards, walk
from afp_ray.data.readers.report import MAX_TEXT_CHARS
from afp_ray.data.readers.spelling import fitting, is_there, spelled
from afp_ray.data.readers.streams import stream_lines
from afp_ray.errors import DataError

BATCH_ROWS = 1 << 10
BUFFER_BYTES = 1 << 18
"""Bytes of a column that are read at once; without it a row group is read whole, however large it is."""
HUB_BYTES = 1 << 40
"""Stands for the size of a data set on the hub, which is not asked for: its rows are kept on disk."""
_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".arrow")
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def locate(source: SourceConfig, *, pivot: str, language: str, side: str = "") -> tuple[SourceFile, ...] | None:
    """The files that hold the rows of a language, or the revision of the data set on the hub.

    Args:
        source: path, subset and split, with placeholders.
        pivot, language: what fills `{source}` and `{target}`.
        side: what fills `{language}`.
    Returns: None when the subset of the language is not there; the codes of a pair may stand in either order.
    Raises: DataError when there is nothing at the path, the split is not there, or the hub cannot be reached.
    """
    jsonl.require_language(source)
    for is_spelled in (False, True):
        for first, second in ((pivot, language), (language, pivot)):
            fill = {"pivot": first, "language": second, "side": side}
            path = _path_of(source.path or "", fill, is_spelled=is_spelled)
            if path is None:
                continue
            subset = named(source.subset, **fill) if source.subset else None
            if is_spelled and source.subset and is_named_by(source.subset):
                subset = _subset_of(path, source.subset, fill) or subset
            files = _local(path, subset, source.split) if is_local(path) else _on_hub(path, subset, source.split)
            if files:
                return files
    return None


def _path_of(template: str, fill: Mapping[str, str], *, is_spelled: bool) -> str | None:
    """The place or id that `template` names; None where a language stands in it and nothing is there."""
    path = named(template, **fill)
    if not is_named_by(template) or not is_local(path) or is_there(expand_path(path)):
        return path
    spelled_path = spelled(template, **fill) if is_spelled else None
    return str(spelled_path) if spelled_path else None


def _subset_of(path: str, template: str, fill: Mapping[str, str]) -> str | None:
    """The subset that is named by other spellings of the languages.

    Raises: DataError when several are.
    """
    if is_local(path):
        root = expand_path(path)
        parts = {part for file in members_of(root) for part in Path(file.member).parts[:-1]} if root.is_file() else None
        names = sorted(entry.name for entry in root.iterdir()) if parts is None else sorted(parts)
    else:
        names = list(_subsets(path))
    fits = fitting(names, template, **fill)
    if len(fits) > 1:
        raise two_files_fit([f"{path}/{name}" for name in fits], f"the subset {template}")
    return fits[0] if fits else None


def read_rows(files: Sequence[SourceFile]) -> Iterator[Any]:
    """The rows of `files` as mappings, in order, a batch of them in memory at a time.

    Raises: DataError when a file is broken, or the hub cannot be reached.
    """
    for file in files:
        if isinstance(file, HubRevision):
            yield from _hub_rows(file)
        elif file.ending == ".parquet":
            yield from parquet_rows(file)
        elif file.ending == ".arrow":
            yield from _arrow_rows(file)
        elif file.ending == ".csv":
            yield from _csv_rows(file)
        elif file.ending == ".tsv":
            yield from _tsv_rows(file)
        else:
            yield from jsonl.read_rows(file)


def is_local(path: str) -> bool:
    """Whether `path` is a place on this machine rather than the id of a data set."""
    return path.startswith(("/", ".", "~", "$")) or not _ID.fullmatch(path) or expand_path(path).exists()


def _local(path: str, subset: str | None, split: str) -> tuple[SourceFile, ...] | None:
    root = expand_path(path)
    if root.is_file() and is_archive(root.name):
        return _archived(root, subset, split)
    if root.is_file():
        return (plain_file(root),)
    if not root.is_dir():
        raise DataError(
            f"{root} does not exist", fix="correct the path; a data set of the hub is written owner/name, without ./"
        )
    folder = root / subset if subset else root
    if not folder.is_dir():
        return None
    files = _split_files(folder, split)
    if not files:
        raise _nothing_of_split(split, str(folder), sorted({entry.name for entry in folder.iterdir()}))
    require_shards(files)
    return tuple(plain_file(file) for file in files)


def _archived(archive: Path, subset: str | None, split: str) -> tuple[SourceFile, ...] | None:
    """The files of the split in an archive, which may lie in a folder of its own there."""
    members = {Path(file.member): file for file in members_of(archive)}
    if subset:
        members = {name: file for name, file in members.items() if subset in name.parts[:-1]}
        if not members:
            return None
    names = _of_split(sorted(members), split)
    if not names:
        raise _nothing_of_split(split, str(archive), sorted(map(str, members)))
    require_shards(names)
    return tuple(members[name] for name in names)


def _nothing_of_split(split: str, where: str, has: Sequence[str]) -> DataError:
    return DataError(
        f"no file of the split {split!r} lies there, but {listed(has, 20) or 'nothing'}",
        where=where,
        allowed=f"{split}*.parquet, {split}/*.parquet, or files named by no split ({', '.join(_SUFFIXES)})",
        fix="correct `split` and `subset`, or name the files by their split",
    )


def _split_files(folder: Path, split: str) -> list[Path]:
    """Files of the split: as `save_to_disk` lists them, or named by the split, or for `train` named by no split."""
    for saved in (folder, folder / split):
        state = saved / "state.json"
        if state.is_file():
            return _saved_files(state)
    return [folder / name for name in _of_split([file.relative_to(folder) for file in walk(folder)], split)]


def _saved_files(state: Path) -> list[Path]:
    """The files that `save_to_disk` lists.

    Raises: DataError when the list is broken, or a file of it is not there.
    """
    try:
        files = [state.parent / entry["filename"] for entry in json.loads(state.read_bytes())["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            "the list of files is broken", where=str(state), fix="save the data set again with save_to_disk"
        ) from error
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise DataError(
            f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} listed and not there",
            where=str(state),
            fix="fetch the missing files, or save the data set again with save_to_disk",
        )
    return files


def _of_split(names: Sequence[Path], split: str) -> list[Path]:
    every = [name for name in names if _is_data(name)]
    own = [name for name in every if _is_of_split(name, split)]
    if own or split != "train":
        return own
    others = ("validation", "valid", "dev", "test")
    return [name for name in every if not any(_is_of_split(name, other) for other in others)]


def _is_data(path: Path) -> bool:
    """Whether a file of this name holds rows: hidden ones, backups and what describes a data set do not."""
    if is_spare(path.name) or path.name in ("dataset_info.json", "dataset_infos.json", "dataset_dict.json"):
        return False
    return without_packing(path.name).lower().endswith(_SUFFIXES) and path.name != "state.json"


def _is_of_split(path: Path, split: str) -> bool:
    """Whether the name of the file or of its folder is the split, or holds it between other signs than letters."""
    parts = (*path.parts[:-1], path.stem)
    return any(re.search(rf"(^|[^a-z]){re.escape(split)}($|[^a-z])", part, re.IGNORECASE) for part in parts)


def num_table_rows(file: SourceFile) -> int:
    """Rows that a Parquet file says it has.

    Raises: DataError when it is none.
    """
    return int(_metadata(file).num_rows)


def table_columns(file: SourceFile) -> tuple[str, ...]:
    """Columns of a Parquet file.

    Raises: DataError when it is none.
    """
    return tuple(_metadata(file).schema.to_arrow_schema().names)


def _metadata(file: SourceFile) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with file.open() as stream:
        try:
            return pq.read_metadata(stream)
        except (pa.ArrowException, OSError) as error:
            raise _broken("parquet", file, error) from error


def parquet_rows(file: SourceFile, columns: Sequence[str] | None = None) -> Iterator[Mapping[str, Any]]:
    """Rows of a Parquet file, of all its columns or of some, a batch of them in memory at a time.

    Raises: DataError when it is none, or broken.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with file.open() as stream:
        try:
            for batch in pq.ParquetFile(stream, pre_buffer=False, buffer_size=BUFFER_BYTES).iter_batches(
                BATCH_ROWS, columns=list(columns) if columns is not None else None, use_threads=False
            ):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise _broken("parquet", file, error) from error


def _arrow_rows(file: SourceFile) -> Iterator[Mapping[str, Any]]:
    """Record batches of a stream; the files are not mapped, since mapped pages count as memory of the process."""
    import pyarrow as pa

    with file.open() as stream:
        try:
            with pa.ipc.open_stream(stream) as reader:
                for batch in reader:
                    for start in range(0, batch.num_rows, BATCH_ROWS):
                        yield from batch.slice(start, BATCH_ROWS).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise _broken("arrow", file, error) from error


def _csv_rows(file: SourceFile) -> Iterator[Mapping[str, Any] | None]:
    csv.field_size_limit(MAX_TEXT_CHARS)
    # Strict, so that a quotation mark that nothing closes is refused and does not take in the rest of the file.
    reader = csv.DictReader(_csv_lines(file), strict=True)
    first = 1
    try:
        for row in reader:
            first = reader.line_num + 1
            yield None if None in row or None in row.values() else row
    except csv.Error as error:
        raise DataError(
            f"the table cannot be read: {error}",
            where=f"{file.label}:{max(first, 1)}",
            allowed=f"a line of column names first, fields of at most {MAX_TEXT_CHARS} characters, a closing quotation "
            "mark for each opening one, and two for one inside",
            fix="correct the line, or write the rows as JSON lines",
        ) from error


def _tsv_rows(file: SourceFile) -> Iterator[Mapping[str, Any] | None]:
    """Rows by the names of the first line; quotation marks are text, and a line is a row."""
    lines = stream_lines(file)
    header = [name.strip() for name in (next(lines, None) or "").split("\t")]
    for line in lines:
        cells = [] if line is None else line.rstrip("\r").split("\t")
        if line is None or line.strip():
            yield dict(zip(header, cells, strict=True)) if len(cells) == len(header) else None


def _csv_lines(file: SourceFile) -> Iterator[str]:
    """Lines with their ends; one cell stands for a line that is too long, so that its row counts as ragged."""
    return ("too long\n" if line is None else f"{line}\n" for line in stream_lines(file))


def _broken(form: str, file: SourceFile, error: Exception) -> DataError:
    return DataError(f"no readable {form} file: {error}", where=file.label, fix="write or fetch the file again")


def _on_hub(path: str, subset: str | None, split: str) -> tuple[SourceFile, ...] | None:
    if subset is not None and subset not in _subsets(path):
        return None
    name = json.dumps([path, _revision(path), subset, split])
    return (HubRevision(name, "", HUB_BYTES, 0),)


@lru_cache(maxsize=64)
def _revision(path: str) -> str:
    """Commit of the data set."""
    import datasets

    try:
        return str(datasets.load.dataset_module_factory(path).hash)
    except _hub_errors() as error:
        raise _unreachable(path, error) from error


@lru_cache(maxsize=64)
def _subsets(path: str) -> tuple[str, ...]:
    import datasets

    try:
        return tuple(datasets.get_dataset_config_names(path))
    except _hub_errors() as error:
        raise _unreachable(path, error) from error


def _hub_rows(file: HubRevision) -> Iterator[Mapping[str, Any]]:
    path, revision, subset, split = json.loads(file.path)
    import datasets

    try:
        yield from datasets.load_dataset(path, subset, split=split, revision=revision, streaming=True)
    except _hub_errors() as error:
        raise _unreachable(path, error) from error


def _hub_errors() -> tuple[type[Exception], ...]:
    """What the hub's libraries raise where the network, the id, the subset or the split is at fault."""
    import httpx2

    return OSError, ValueError, RuntimeError, httpx2.HTTPError


def _unreachable(path: str, error: Exception) -> DataError:
    text = str(error).split("\n")[0]
    return DataError(
        f"the data set {path} cannot be read from the hub ({type(error).__name__}: {text})",
        where=path,
        allowed="a data set that can be reached, or a local folder",
        fix=f"check the id, subset, split and the network, or fetch it once where there is one with `hf download "
        f"--repo-type dataset {path} --local-dir FOLDER` and give the folder as path",
    )
