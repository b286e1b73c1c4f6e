"""Reads Bactrian-X (a JSON array a language, the same ids in all) as instructions and as translation pairs."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from afp_ray.data.readers.files import SourceFile, clean, find
from afp_ray.data.readers.json_array import read_array
from afp_ray.data.readers.report import RawRow, ReadReport
from afp_ray.data.rows import ParallelInstruction
from afp_ray.errors import DataError

_FIX = "give the file as Bactrian-X releases it"


class _Record(NamedTuple):
    """One record; texts are "" where the file leaves them empty."""

    identifier: str
    instruction: str
    input: str
    output: str


def file_names(language: str) -> list[str]:
    """Names that the file of `language` may have in the folder."""
    return [f"{folder}{language}.json{packed}" for folder in ("", "data/") for packed in ("", ".gz")]


def locate(path: str, language: str) -> SourceFile | None:
    """The file of `language` in the folder or archive `path`; None when it is not there.

    Raises: DataError when the folder is not there.
    """
    return find(path, file_names(language))


def pair_rows(pivot: SourceFile, other: SourceFile) -> Iterator[RawRow]:
    """The instruction fields of both files, in the order of the pivot's; inputs and outputs are no translations.

    Raises: DataError when a file is not in the form of Bactrian-X, or cut off.
    """
    translations: dict[str, str] = {}
    for record in _records(other):
        translations.setdefault(record.identifier, record.instruction)
    seen: set[str] = set()
    for identifier, instruction in _instructions(pivot):
        refusal = "repeated" if identifier in seen else "" if identifier in translations else "unmatched"
        seen.add(identifier)
        yield RawRow((instruction, translations.get(identifier, "")), identifier, refusal)


def read_instructions(files: Mapping[str, SourceFile]) -> tuple[list[ParallelInstruction], ReadReport]:
    """Records that every language has; the prompt is the instruction followed by its input, the response the output.

    Args:
        files: the file of each language, by code.
    Returns: the instructions in the order of the first file, and the counts.
    Raises: DataError when a file is not in the form of Bactrian-X or cut off, or no id is in all files.
    """
    report = ReadReport("bactrian_x " + " + ".join(file.label for file in files.values()), "")
    held: dict[str, dict[str, tuple[str, str]]] = {}
    for number, (language, file) in enumerate(files.items()):
        for record in _records(file):
            if number == 0:
                report.num_read += 1
                if record.identifier in held:
                    report.refuse("repeated")
                    continue
                held[record.identifier] = {}
            texts = held.get(record.identifier)
            if texts is not None:
                texts.setdefault(language, (_prompt(record), record.output))
    rows = []
    for identifier, texts in held.items():
        prompts = {language: prompt for language, (prompt, _) in texts.items()}
        responses = {language: response for language, (_, response) in texts.items()}
        if len(texts) < len(files):
            report.refuse("unmatched")
        elif not all(prompts.values()) or not all(responses.values()):
            report.refuse("empty")
        else:
            rows.append(ParallelInstruction(prompts, responses, f"bactrian_x:{identifier}", "instruction"))
    report.num_kept = len(rows)
    report.require_rows("give files of the same release: their records share their ids")
    return rows, report


@lru_cache(maxsize=1)
def _instructions(file: SourceFile) -> tuple[tuple[str, str], ...]:
    """Id and instruction of each record; kept, since the pivot's file is needed again for each language."""
    return tuple((record.identifier, record.instruction) for record in _records(file))


def _prompt(record: _Record) -> str:
    return f"{record.instruction} {record.input}".rstrip() if record.instruction else ""


def _records(file: SourceFile) -> Iterator[_Record]:
    for number, record in enumerate(read_array(file), start=1):
        values = [record.get(name) for name in ("id", "instruction", "input", "output")]
        texts = [clean(value) for value in values if isinstance(value, str)]
        if len(texts) < len(values) or not texts[0]:
            raise DataError(
                f"record {number} is not in the form of Bactrian-X: it has {', '.join(sorted(record)) or 'no fields'}",
                where=file.label,
                allowed="{instruction, input, id, output}, all of them text, and an id that is not empty",
                fix=_FIX,
            )
        yield _Record(*texts)
