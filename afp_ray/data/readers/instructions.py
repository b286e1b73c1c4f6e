"""Finds and reads parallel instructions, whichever layout their source has: XQuAD, Bactrian-X and MT-Bench."""

from collections.abc import Callable, Mapping, Sequence

from afp_ray.config import SourceConfig
from afp_ray.data.readers import bactrian_x, mt_bench, xquad
from afp_ray.data.readers.files import SourceFile
from afp_ray.data.readers.report import ReadReport
from afp_ray.data.rows import ParallelInstruction
from afp_ray.errors import DataError
from afp_ray.languages import LANGUAGES

Files = tuple[SourceFile, ...]
"""What holds the instructions of one language."""
INSTRUCTION_KINDS = ("xquad", "bactrian_x", "mt_bench")
"""Source kinds that are files of instructions."""


def locate(source: SourceConfig, languages: Sequence[str]) -> dict[str, Files]:
    """The files of each language.

    Raises: DataError that lists the languages that are there, when one is missing.
    """
    path = source.path or ""
    find = _LAYOUTS[source.kind]
    files = {code: find(path, code) for code in languages}
    missing = [code for code, held in files.items() if held is None]
    if missing:
        has = [code for code in LANGUAGES if find(path, code)]
        raise DataError(
            f"{source.kind} has no instructions in {', '.join(missing)}",
            where=path,
            allowed=", ".join(has) if has else f"no {_NAMES[source.kind]} was found there",
            fix="choose among these languages, correct the path, or replace the source",
        )
    return {code: held for code, held in files.items() if held is not None}


def read_instructions(source: SourceConfig, files: Mapping[str, Files]) -> tuple[list[ParallelInstruction], ReadReport]:
    """Instructions that every language of `files` has, and the counts.

    Raises: DataError when a file is broken, or no instruction is in all languages.
    """
    if source.kind == "mt_bench":
        return mt_bench.read_instructions(files)
    reader = bactrian_x.read_instructions if source.kind == "bactrian_x" else xquad.read_instructions
    return reader({language: held[0] for language, held in files.items()})


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
}
