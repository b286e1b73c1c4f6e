"""XCOPA: which of two sentences is the cause or the effect of the premise? (arXiv:2005.00333).

Original files: `xcopa/data/<language>/val.<language>.jsonl` and `test.<language>.jsonl`; for English, COPA in the same
form: `copa_en/train.en.jsonl` (validation) and `copa_en/test.en.jsonl`, whose rows the XCOPA test translates.
"""

from collections.abc import Mapping
from pathlib import Path

from afp_ray.data.readers.files import SourceFile
from afp_ray.evaluation.files import locate, read_objects
from afp_ray.evaluation.task import ParsedRows, Question, Row, Split, Task, found_files, label_index, without_stop
from afp_ray.languages import Language

LABELS = ("0", "1")
QUESTIONS = ("cause", "effect")
_FIELDS = ("premise", "choice1", "choice2", "question", "label")


def render(row: Row, language: Language, words: Language) -> Question:
    """The premise without its period, `because` or `so`, then the choice with a small first letter."""
    question = label_index(row, "question", QUESTIONS, task="xcopa")
    connective = words.literal("because" if question == 0 else "so")
    context = without_stop(str(row["premise"])) + words.space + connective
    choices = tuple(
        (context, words.space + uncapitalized(str(row[key]).strip(), language)) for key in ("choice1", "choice2")
    )
    return Question(choices, gold=label_index(row, "label", LABELS, task="xcopa"))


def uncapitalized(text: str, language: Language) -> str:
    """`text` with its first letter made small, by the rules of `language`."""
    first = text[:1]
    if language.code == "tr":  # the one script here whose capital I is not the capital of i
        first = {"I": "ı", "İ": "i"}.get(first, first)
    return first.lower() + text[1:]


def files(data_dir: Path, language: str) -> Mapping[Split, SourceFile]:
    """Files of `language`."""
    folder = f"xcopa/data/{language}"
    found = found_files(
        validation=locate(data_dir, folder, f"val.{language}.jsonl"),
        test=locate(data_dir, folder, f"test.{language}.jsonl"),
    )
    if not found and language == "en":
        found = found_files(
            validation=locate(data_dir, "copa_en", "train.en.jsonl"), test=locate(data_dir, "copa_en", "test.en.jsonl")
        )
    return found


def parse(file: SourceFile, language: str) -> ParsedRows:
    """Rows of one file; `idx` names the content in every language."""
    part = Path(file.label).name.split(".")[0]
    rows: list[Row] = []
    for line in read_objects(file, (*_FIELDS, "idx")):
        name = f"{part}:{line['idx']}"
        rows.append({**line, "id": name, "content_id": name})
    return ParsedRows(rows)


TASK = Task(
    name="xcopa",
    fields=_FIELDS,
    render=render,
    files=files,
    parse=parse,
    layout="xcopa/data/<language>/val.<language>.jsonl and test.<language>.jsonl; English: copa_en/train.en.jsonl "
    "and test.en.jsonl",
)
