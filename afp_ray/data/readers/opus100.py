"""Reads OPUS-100: one folder or parquet file a language pair, or its export as two columns."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from afp_ray.data.readers.files import SourceFile, expand_path, find, plain_file
from afp_ray.data.readers.folders import require_shards
from afp_ray.data.readers.report import RawRow
from afp_ray.data.readers.streams import stream_lines
from afp_ray.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1 << 12
BUFFER_BYTES = 1 << 18
"""Bytes of a column that are read at once; without it a row group is read whole, however large it is."""
_FIX = "give the parquet files as OPUS-100 releases them"


def locate_split(path: str, pivot: str, language: str, split: str) -> tuple[SourceFile, ...] | None:
    """The held-out files of the pair; None when they are not there."""
    pair = "-".join(sorted((pivot, language)))
    return _shards(path, pair, split) or None


def locate(path: str, pivot: str, language: str) -> tuple[SourceFile, ...] | None:
    """Files of the pair, whose name has the two codes in the order of the alphabet; shards before one file.

    Returns: `en-zh/train-*.parquet`, `en-zh.parquet`, or `opus.en2zh.tsv`; None when none of them is there.
    Raises: DataError when the folder is not there, or a shard of the pair is missing.
    """
    pair = "-".join(sorted((pivot, language)))
    names = [f"{pair}.parquet", f"opus.{pivot}2{language}.tsv", f"opus.{language}2{pivot}.tsv"]
    file = find(path, names)  # also refuses a path that is no folder
    return _shards(path, pair, "train") or ((file,) if file else None)


def _shards(path: str, pair: str, split: str) -> tuple[SourceFile, ...]:
    folder = expand_path(path) / pair
    # The hub's main branch, else the one that it converts by itself.
    shards = sorted(folder.glob(f"{split}-*.parquet")) or sorted(folder.glob(f"{split}/*.parquet"))
    require_shards(shards)
    return tuple(plain_file(shard) for shard in shards)


def pair_rows(files: tuple[SourceFile, ...], *, pivot: str, language: str) -> Iterator[RawRow]:
    """Rows of `files` in order, the pivot's side first.

    Raises: DataError when a file is no parquet file, or lacks the column `translation` with both languages.
    """
    for file in files:
        if file.ending == ".parquet":
            yield from _parquet_rows(file, pivot, language)
            continue
        reverse = file.name.lower() == f"opus.{language}2{pivot}.tsv"
        for line in stream_lines(file):
            sides = (line or "").split("\t")
            yield RawRow(sides[::-1] if reverse else sides, refusal="too_long" if line is None else "")


def _parquet_rows(file: SourceFile, pivot: str, language: str) -> Iterator[RawRow]:
    """One batch of a row group at a time, so that a million rows are never held twice."""
    # Imported here: whoever reads no parquet file starts without it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    with file.open() as stream:
        try:
            held = pq.ParquetFile(stream, pre_buffer=False, buffer_size=BUFFER_BYTES)
            _require_columns(file, held.schema_arrow, pivot, language)
            for batch in held.iter_batches(batch_size=BATCH_ROWS, columns=["translation"], use_threads=False):
                column = batch.column("translation")
                fields = column.flatten()  # unlike field(), keeps a row without a translation empty
                sides = [fields[column.type.get_field_index(code)].to_pylist() for code in (pivot, language)]
                yield from (RawRow([source or "", target or ""]) for source, target in zip(*sides, strict=True))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"no readable parquet file: {error}", where=file.label, fix=_FIX) from error


def _require_columns(file: SourceFile, schema: "pa.Schema", pivot: str, language: str) -> None:
    import pyarrow as pa

    position = schema.get_field_index("translation")
    kind = schema.field(position).type if position >= 0 else None
    texts = (pa.string(), pa.large_string())
    if (
        kind is None
        or not pa.types.is_struct(kind)
        or any(
            kind.get_field_index(code) < 0 or kind.field(kind.get_field_index(code)).type not in texts
            for code in (pivot, language)
        )
    ):
        has = f"translation: {kind}" if kind is not None else f"columns {', '.join(schema.names)}"
        raise DataError(
            f"the file has no translations of {pivot} and {language}, but {has}",
            where=file.label,
            allowed=f"translation: struct<{pivot}: string, {language}: string>",
            fix=_FIX,
        )
