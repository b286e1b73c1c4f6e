"""XCOPA: which of two sentences is the cause or the effect of the premise? (arXiv:2005.00333).

Original files: `xcopa/data/<language>/val.<language>.jsonl` and `test.<language>.jsonl`; or `cambridgeltl/xcopa` of the
hub: `xcopa/<language>/validation-00000-of-00001.parquet` and `test-...`; for English, COPA, whose test items the XCOPA
test translates: `copa_en/train.en.jsonl` (validation) and `copa_en/test.en.jsonl` in XCOPA's form, or the XML of its
authors (`tasks/copa.py`), which gives the same rows. Rows without a premise or a choice are skipped and counted.
"""

from collections.abc import Mapping
from pathlib import Path

from afp_ray.config import Split
from afp_ray.data.readers.files import SourceFile
from afp_ray.evaluation.task import (
    ParsedRows,
    Question,
    Row,
    Task,
    drop_empty,
    existing_files,
    label_index,
    without_stop,
)
from afp_ray.evaluation.task_files import hub_split, is_parquet, locate, locate_split, read_objects, read_table
from afp_ray.evaluation.tasks.copa import CopaItems, copa_items, read_items
from afp_ray.evaluation.tasks.wording import XCOPA, wording
from afp_ray.languages import Language

LABELS = ("0", "1")
QUESTIONS = ("cause", "effect")
_CHOICES = ("choice1", "choice2")
_FIELDS = ("premise", "choice1", "choice2", "question", "label")


def render(row: Row, language: Language, words: Language) -> Question:
    """The premise without its period, `because` or `so`, then the choice with a small first letter."""
    question = label_index(row, "question", QUESTIONS, task="xcopa")
    connective = words.literal("because" if question == 0 else "so")
    context = without_stop(str(row["premise"])) + words.space + connective
    endings = [words.space + uncapitalized(str(row[key]).strip(), language) for key in _CHOICES]
    return Question(
        tuple((context, ending) for ending in endings),
        gold=label_index(row, "label", LABELS, task="xcopa"),
        neutral=tuple((connective, ending) for ending in endings),
    )


def render_harness(row: Row, language: Language, words: Language) -> Question:
    """The premise without its last character, the connective, then the choice with a small first letter.

    Spaces stand between them in every language; in English, whose template is that of COPA, two before the choice.
    """
    question = label_index(row, "question", QUESTIONS, task="xcopa")
    connective = wording("xcopa", XCOPA, words)[question]
    context = f"{str(row['premise']).strip()[:-1]} {connective}"
    space = "  " if words.code == "en" else " "
    endings = [space + str(row[key])[:1].lower() + str(row[key])[1:] for key in _CHOICES]
    return Question(
        tuple((context, ending) for ending in endings),
        gold=label_index(row, "label", LABELS, task="xcopa"),
        neutral=tuple((connective, ending) for ending in endings),
        is_verbatim=True,
    )


def uncapitalized(text: str, language: Language) -> str:
    """`text` with its first letter made small, by the rules of `language`."""
    first = text[:1]
    if language.code in ("az", "tr"):  # the alphabets here whose capital I is not the capital of i
        first = {"I": "ı", "İ": "i"}.get(first, first)
    return first.lower() + text[1:]


def files(data_dir: Path, language: str) -> Mapping[Split, SourceFile]:
    """Files of `language`."""
    folder = f"xcopa/data/{language}"
    files = existing_files(
        validation=locate(data_dir, folder, f"val.{language}.jsonl")
        or locate_split(data_dir, "xcopa", language, "validation"),
        test=locate(data_dir, folder, f"test.{language}.jsonl") or locate_split(data_dir, "xcopa", language, "test"),
    )
    if not files and language == "en":
        files = existing_files(
            validation=locate(data_dir, "copa_en", "train.en.jsonl") or copa_items(data_dir, "validation"),
            test=locate(data_dir, "copa_en", "test.en.jsonl") or copa_items(data_dir, "test"),
        )
    return files


def parse(file: SourceFile, language: str) -> ParsedRows:
    """Rows of one file; `idx` names the content in every language."""
    if is_parquet(file):
        part = {"validation": "val"}.get(hub_split(file), hub_split(file))
        lines = read_table(file, (*_FIELDS, "idx"))
    elif isinstance(file, CopaItems):
        part, lines = file.part, read_items(file)
    else:
        part = Path(file.label).name.split(".")[0]
        lines = read_objects(file, (*_FIELDS, "idx"))
    rows: list[Row] = []
    for line in lines:
        name = f"{part}:{line['idx']}"
        rows.append({**line, "id": name, "content_id": name})
    return drop_empty(rows, ("premise", *_CHOICES))


TASK = Task(
    name="xcopa",
    fields=_FIELDS,
    render=render,
    render_harness=render_harness,
    files=files,
    parse=parse,
    layout="xcopa/data/<language>/val.<language>.jsonl and test.<language>.jsonl; from the hub "
    "xcopa/<language>/validation-00000-of-00001.parquet and test-...; English is COPA: copa_en/copa-dev.xml and "
    "copa-test.xml of COPA-resources.tgz, https://people.ict.usc.edu/~gordon/copa.html, or copa_en/train.en.jsonl and "
    "test.en.jsonl",
    shown_class="question",
)
