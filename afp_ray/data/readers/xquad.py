"""Reads XQuAD (SQuAD JSON, the same question ids in every language) as parallel instructions."""

import json
from collections.abc import Mapping
from typing import Any

from afp_ray.data.readers.files import SourceFile, clean, find, read_text
from afp_ray.data.readers.report import ReadReport
from afp_ray.data.rows import ParallelInstruction
from afp_ray.errors import DataError

_Question = tuple[int, str, str]
"""Number of the paragraph, prompt, response."""
_FIX = "give the file as XQuAD releases it"


def locate(path: str, language: str) -> SourceFile | None:
    """The file of `language` in the folder or archive `path`; None when it is not there.

    Raises: DataError when the folder is not there.
    """
    return find(path, [f"xquad.{language}.json"])


def read_instructions(files: Mapping[str, SourceFile]) -> tuple[list[ParallelInstruction], ReadReport]:
    """Questions that every language has; the prompt is the question followed by its paragraph, the response its answer.

    Args:
        files: the file of each language, by code.
    Returns: the instructions in the order of the first file, and the counts.
    Raises: DataError when a file is no SQuAD JSON, or no question is in all files.
    """
    report = ReadReport("xquad " + " + ".join(file.label for file in files.values()), "")
    questions = {language: _questions(file) for language, file in files.items()}
    first = next(iter(questions.values()))
    rows = []
    for identifier, (paragraph, _, _) in first.items():
        report.num_read += 1
        if any(identifier not in of_language for of_language in questions.values()):
            report.refuse("unmatched")
            continue
        found = {language: of_language[identifier] for language, of_language in questions.items()}
        prompts = {language: prompt for language, (_, prompt, _) in found.items()}
        responses = {language: response for language, (_, _, response) in found.items()}
        if not all(prompts.values()) or not all(responses.values()):
            report.refuse("empty")
            continue
        rows.append(ParallelInstruction(prompts, responses, f"xquad:{paragraph}", "question"))
    report.num_kept = len(rows)
    report.require_rows("give files of the same release: their questions share their ids")
    return rows, report


def _questions(file: SourceFile) -> dict[str, _Question]:
    """Questions by id; prompt and response are "" where the file leaves them empty."""
    try:
        document = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        where = f"{file.label}:{error.lineno}:{error.colno}"
        raise DataError(f"no JSON: {error.msg}", where=where, fix=_FIX) from error
    except RecursionError as error:
        raise DataError("the JSON is nested too deeply", where=file.label, fix=_FIX) from error
    try:
        paragraphs = [paragraph for article in document["data"] for paragraph in article["paragraphs"]]
        return {
            entry["id"]: (number, *_texts(entry, paragraph["context"]))
            for number, paragraph in enumerate(paragraphs)
            for entry in paragraph["qas"]
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the JSON is not in SQuAD form ({type(error).__name__}: {error})",
            where=file.label,
            allowed="data[].paragraphs[].{context, qas[].{id, question, answers[].text}}",
            fix=_FIX,
        ) from error


def _texts(entry: Mapping[str, Any], context: str) -> tuple[str, str]:
    question, answers = clean(entry["question"]), [clean(answer["text"]) for answer in entry["answers"]]
    paragraph = clean(context)
    prompt = f"{question} {paragraph}" if question and paragraph else ""
    return prompt, answers[0] if answers else ""
