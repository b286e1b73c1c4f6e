"""Finds and reads parallel instructions, whichever layout their source has."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from afp_ray.config import SourceConfig
from afp_ray.data.readers import bactrian_x, hub, jsonl, mt_bench, xquad
from afp_ray.data.readers.columns import columns_key, record
from afp_ray.data.readers.files import SourceFile, digest
from afp_ray.data.readers.records import Record, join_records, record_file
from afp_ray.data.readers.report import ReadReport
from afp_ray.data.row_file import RowFile
from afp_ray.data.row_tables import InstructionPart
from afp_ray.data.rows import ParallelInstruction
from afp_ray.errors import DataError
from afp_ray.languages import known_codes

Files = tuple[SourceFile, ...]
"""What holds the instructions of one language."""
INSTRUCTION_KINDS = ("xquad", "bactrian_x", "mt_bench", "jsonl", "datasets")
"""Source kinds that are files of instructions."""


def locate(source: SourceConfig, languages: Sequence[str]) -> dict[str, Files]:
    """The files of each language; the first language is the pivot.

    Raises: DataError that lists the languages that are there, when one is missing.
    """
    path = source.path or ""
    files = {code: _find(source, languages[0], code) for code in languages}
    missing = [code for code, held in files.items() if held is None]
    if missing:
        has = [code for code in known_codes() if _find(source, languages[0], code)]
        raise DataError(
            f"{source.kind} has no instructions in {', '.join(missing)}",
            where=path,
            allowed=", ".join(has) if has else f"no {_NAMES[source.kind]} was found there",
            fix="choose among these languages, correct the path, or replace the source",
        )
    return {code: held for code, held in files.items() if held is not None}


def languages_of(source: SourceConfig, pivot: str) -> list[str]:
    """Languages that `source` has instructions in, the pivot among them where it has it."""
    return [code for code in known_codes() if _find(source, pivot, code)]


def read_instructions(
    source: SourceConfig, files: Mapping[str, Files], *, keep: bool = False
) -> tuple[Sequence[ParallelInstruction] | InstructionPart, ReadReport]:
    """Instructions that every language of `files` has, and the counts.

    Args:
        source: kind and columns.
        files: where they lie, by language; the pivot first.
        keep: whether rows are kept on disk, in the cache of rows, rather than in memory.
    Raises: DataError when a file is broken, or no instruction is in all languages.
    """
    if source.kind == "mt_bench":
        return mt_bench.read_instructions(files)
    if source.kind == "xquad":
        return xquad.read_instructions({language: held[0] for language, held in files.items()})
    labels = dict.fromkeys(file.label for held in files.values() for file in held)
    report = ReadReport(f"{source.kind} {' + '.join(labels)}", "")
    pivot = next(iter(files))
    stored = {code: _record_file(source, held, pivot, code, keep) for code, held in files.items()}
    part = join_records(stored, report, name=source.kind)
    report.require_rows("give files of the same release: their records share their ids")
    return part if keep else list(part), report


def _record_file(source: SourceConfig, files: Files, pivot: str, language: str, keep: bool) -> RowFile:
    if source.kind == "bactrian_x":
        return record_file(lambda: bactrian_x.read_records(files[0]), bactrian_x.key(files[0]) if keep else None)
    digests = " ".join(digest(file) for file in files) if keep else ""
    key = f"{source.kind} {pivot} {language} {columns_key(source)} {digests}" if keep else None
    return record_file(lambda: _column_records(source, files, pivot, language), key)


def _column_records(source: SourceConfig, files: Files, pivot: str, language: str) -> Iterator[Record | str]:
    rows = jsonl.read_rows(files[0]) if source.kind == "jsonl" else hub.read_rows(files)
    return (record(row, source, pivot=pivot, language=language) for row in rows)


def _find(source: SourceConfig, pivot: str, language: str) -> Files | None:
    if source.kind == "jsonl":
        return jsonl.locate(source, pivot=pivot, language=language)
    if source.kind == "datasets":
        return hub.locate(source, pivot=pivot, language=language, side=language)
    return _LAYOUTS[source.kind](source.path or "", language)


def _one(locate_file: Callable[[str, str], SourceFile | None]) -> Callable[[str, str], Files | None]:
    def locate_files(path: str, language: str) -> Files | None:
        file = locate_file(path, language)
        return (file,) if file else None

    return locate_files


_LAYOUTS: Mapping[str, Callable[[str, str], Files | None]] = {
    "xquad": _one(xquad.locate),
    "bactrian_x": _one(bactrian_x.locate),
    "mt_bench": mt_bench.locate,
}
_NAMES = {
    "xquad": "xquad.<language>.json",
    "bactrian_x": "<language>.json or <language>.json.gz",
    "mt_bench": "mt_bench_<language>/question.jsonl with its reference_answer/gpt-4.jsonl",
    "jsonl": "file of the language",
    "datasets": "subset of the language",
}
