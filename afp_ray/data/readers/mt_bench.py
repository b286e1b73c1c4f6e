"""Reads MT-Bench and its translations (a folder a language, the same question ids in all) as instructions."""

from collections.abc import Iterator, Mapping, Sequence

from afp_ray.data.readers.files import SourceFile, clean, find
from afp_ray.data.readers.jsonl import read_whole
from afp_ray.data.readers.report import ReadReport
from afp_ray.data.rows import ParallelInstruction
from afp_ray.errors import DataError

FOLDERS = {"en": "mt_bench", "hi": "mt_bench_hindi", "ja": "mt_bench_jp", "ta": "mt_bench_tamil"} | {
    "th": "mt_bench_thai",
    "ur": "mt_bench_urdu",
}
"""Where a folder is not named by the ISO 639-1 code."""


def locate(path: str, language: str) -> tuple[SourceFile, SourceFile] | None:
    """Questions and answers of `language` in the folder or archive `path`; None when one of them is not there.

    Raises: DataError when the folder is not there.
    """
    folder = FOLDERS.get(language, f"mt_bench_{language}")
    questions = find(path, [f"{folder}/question.jsonl"])
    answers = find(path, [f"{folder}/reference_answer/gpt-4.jsonl"])
    return (questions, answers) if questions and answers else None


def read_instructions(files: Mapping[str, Sequence[SourceFile]]) -> tuple[list[ParallelInstruction], ReadReport]:
    """First turns that every language has a question and an answer of.

    Args:
        files: questions and answers of each language, by code.
    Returns: the instructions in the order of the first file of questions, and the counts. English has reference
        answers to its reasoning questions alone, so that a mix with English is shorter than one without.
    Raises: DataError when a file is not in the form of MT-Bench, or no question is in all files.
    """
    report = ReadReport("mt_bench " + " + ".join(file.label for pair in files.values() for file in pair), "")
    questions = {language: _turns(pair[0]) for language, pair in files.items()}
    answers = {language: _turns(pair[1]) for language, pair in files.items()}
    held = [*questions.values(), *answers.values()]
    rows = []
    for identifier in held[0]:
        report.num_read += 1
        if any(identifier not in turns for turns in held):
            report.refuse("unmatched")
            continue
        prompts = {language: turns[identifier] for language, turns in questions.items()}
        responses = {language: turns[identifier] for language, turns in answers.items()}
        if not all(prompts.values()) or not all(responses.values()):
            report.refuse("empty")
            continue
        rows.append(ParallelInstruction(prompts, responses, f"mt_bench:{identifier}", "question"))
    report.num_kept = len(rows)
    report.require_rows("give folders of the same release: their questions share their ids")
    return rows, report


def _turns(file: SourceFile) -> dict[int, str]:
    """First turn of each question, or of the first choice of each answer, by question id."""
    return {identifier: clean(turn) for identifier, turn in _rows(file)}


def _rows(file: SourceFile) -> Iterator[tuple[int, str]]:
    for where, row in read_whole(file):
        try:
            turn = (row["choices"][0] if "choices" in row else row)["turns"][0]
            identifier = int(row["question_id"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise _not_mt_bench(where, f"{type(error).__name__}: {error}") from error
        if not isinstance(turn, str):
            raise _not_mt_bench(where, f"the first turn is {turn!r}")
        yield identifier, turn


def _not_mt_bench(where: str, reason: str) -> DataError:
    return DataError(
        f"the line is not in the form of MT-Bench ({reason})",
        where=where,
        allowed="{question_id, turns: [text, ...]}, or {question_id, choices: [{turns: [text, ...]}]}",
        fix="give the file as FastChat and its translations release it",
    )
