"""Reads XQuAD (SQuAD JSON, the same question ids in every language) as parallel instructions."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from afp_ray.data.readers.files import SourceFile, clean, find
from afp_ray.data.readers.report import ReadReport
from afp_ray.data.readers.streams import read_text
from afp_ray.data.rows import ParallelInstruction
from afp_ray.errors import DataError

_FIX = "give the file as XQuAD releases it"


class Question(NamedTuple):
    """A question about a paragraph; a text is "" where the file leaves it empty.

    Attributes:
        paragraph: number of the paragraph in its file.
        context: the paragraph.
        question: what is asked about it.
        answer: its first answer.
    """

    paragraph: int
    context: str
    question: str
    answer: str

    @property
    def prompt(self) -> str:
        """The question followed by its paragraph; "" where one of them is empty."""
        return f"{self.question} {self.context}" if self.question and self.context else ""


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
    questions = {language: read_questions(file) for language, file in files.items()}
    first = next(iter(questions.values()))
    rows = []
    for identifier, (paragraph, *_) in first.items():
        report.num_read += 1
        if any(identifier not in of_language for of_language in questions.values()):
            report.refuse("unmatched")
            continue
        question_in = {language: of_language[identifier] for language, of_language in questions.items()}
        prompts = {language: one.prompt for language, one in question_in.items()}
        responses = {language: one.answer for language, one in question_in.items()}
        if not all(prompts.values()) or not all(responses.values()):
            report.refuse("empty")
            continue
        rows.append(ParallelInstruction(prompts, responses, f"xquad:{paragraph}", "question"))
    report.num_kept = len(rows)
    report.require_rows("give files of the same release: their questions share their ids")
    return rows, report


def read_questions(file: SourceFile) -> dict[str, Question]:
    """Questions of a file by id.

    Raises: DataError when the file is no SQuAD JSON.
    """
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
            entry["id"]: Question(number, *_texts(entry, paragraph["context"]))
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


def _texts(entry: Mapping[str, Any], context: str) -> tuple[str, str, str]:
    answers = [clean(answer["text"]) for answer in entry["answers"]]
    return clean(context), clean(entry["question"]), answers[0] if answers else ""
