"""Reads the pairs of one source and one language, in memory or on disk, and drops what an earlier part gave already."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from afp_ray.config import SourceConfig
from afp_ray.data import embedded
from afp_ray.data.readers import parallel
from afp_ray.data.readers.files import HubRevision, SourceFile
from afp_ray.data.readers.hub import num_table_rows
from afp_ray.data.readers.report import ReadReport
from afp_ray.data.readers.streams import is_packed, unpacked_bytes
from afp_ray.data.row_tables import PairPart, without_repeats
from afp_ray.data.rows import TranslationPair

MAX_MEMORY_BYTES = 1 << 25
"""Files with more bytes than this together are read into row files on disk; smaller ones into lists."""
PACKED_TIMES = 6
"""How many times its size a table is taken to have unpacked, at least."""
ROW_BYTES = 100
"""What a row of a table is taken to need at least: repeated texts pack to nearly nothing there."""


def is_large(files: Sequence[SourceFile]) -> bool:
    """Whether rows of `files` are kept on disk: the bytes that they unpack to would take too much memory as objects.

    Raises: DataError when a packed file cannot be read, or unpacks to more than is allowed.
    """
    return sum(_text_bytes(file, MAX_MEMORY_BYTES) for file in files) > MAX_MEMORY_BYTES


@lru_cache(maxsize=4096)
def _text_bytes(file: SourceFile, most: int) -> int:
    """Bytes that the rows of `file` take, counted no further than to a little more than `most`."""
    if isinstance(file, HubRevision):
        return file.size
    if file.ending == ".parquet":
        return max(PACKED_TIMES * file.num_bytes, ROW_BYTES * num_table_rows(file))
    return unpacked_bytes(file, most) if is_packed(file) else file.num_bytes


def read_language(source: SourceConfig, *, pivot: str, language: str, keep: bool) -> tuple[PairPart, ReadReport]:
    """Pairs of `source` in `language`, and the counts.

    Args:
        source: has the language.
        pivot, language: codes of the two sides.
        keep: whether rows are kept on disk, in the cache of rows.
    Raises: DataError when no row is usable, or a file cannot be read.
    """
    if source.kind != "embedded":
        rows = read_files(source, pivot=pivot, language=language, keep=keep, is_distinct=True)
        return rows.pairs, rows.report
    pairs = embedded.translation_pairs(pivot, language, "train")
    return PairPart(pairs, pivot, language), ReadReport("embedded", language, len(pairs), len(pairs))


def read_files(
    source: SourceConfig, *, pivot: str, language: str, keep: bool, is_distinct: bool = False
) -> parallel.FilePairs:
    """As `read_language`, for a source of files; with the lines of the pairs, repeated ones dropped where asked."""
    files = parallel.locate(source, pivot=pivot, language=language)
    assert files is not None, "callers have asked for the language's files before"
    return parallel.read_pairs(source, files, pivot=pivot, language=language, keep=keep, is_distinct=is_distinct)


def without_repeated_pairs(parts: Sequence[PairPart], keep: bool) -> Iterator[PairPart]:
    """`parts` without the pairs that an earlier row of the same language gave."""
    if not keep:
        seen: set[tuple[str, str, str]] = set()
        for part in parts:
            yield PairPart([pair for pair in part if _is_new(pair, seen)], part.source_language, part.target_language)
        return
    parts_of: dict[str, list[int]] = {}
    for index, part in enumerate(parts):
        parts_of.setdefault(part.target_language, []).append(index)
    distinct = {
        index: part
        for held in parts_of.values()
        for index, part in zip(held, without_repeats([parts[index] for index in held]), strict=True)
    }
    yield from (distinct[index] for index in range(len(parts)))


def _is_new(pair: TranslationPair, seen: set[tuple[str, str, str]]) -> bool:
    key = (pair.target_language, pair.source, pair.target)
    if key in seen:
        return False
    seen.add(key)
    return True


def count_by_language(parts: Sequence[PairPart]) -> Mapping[str, int]:
    """Number of pairs by target language."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts[part.target_language] += len(part)
    return counts
