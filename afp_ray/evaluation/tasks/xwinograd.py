"""XWinograd: which of two names does the pronoun stand for? (arXiv:2106.12066).

Original files: `xwinograd/dataset.tsv` (all languages; Japanese is `jp`) or `xwinograd/test/<language>.jsonl`, as
`Muennighoff/xwinograd` of the hub has it, or its converted tables, `xwinograd/<language>/test/0000.parquet`. The set
was published in one part, so its rows are halved by content (`task.halves`); rows with the same two options in a
language are one content, which keeps the two sentences of a schema together. Rows that lack an option, or text after
the gap, are skipped and counted.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afp_ray.config import Split
from afp_ray.data.readers.files import SourceFile
from afp_ray.data.readers.streams import read_lines
from afp_ray.errors import DataError
from afp_ray.evaluation.task import ParsedRows, Question, Row, Task, drop_empty, existing_files, label_index, where_of
from afp_ray.evaluation.task_files import is_parquet, locate, locate_split, read_columns, read_objects, read_table
from afp_ray.languages import Language

LABELS = ("1", "2")
_OPTIONS = ("option1", "option2")
_FIELDS = ("sentence", *_OPTIONS, "answer")
_COLUMNS = ("lang", "source", "original", "sentence", "tokens", "pronoun", "options")
_FILE_CODES = {"ja": "jp"}
_QUOTES = frozenset(("``", "''"))


def render(row: Row, language: Language, words: Language) -> Question:
    """The sentence with the gap filled; only what follows the gap is scored, so the choices share it.

    Scoring the shared rest keeps the length and frequency of the options out of the comparison.
    """
    before, after = _parts(row, str(row["sentence"]).strip())
    options = [str(row[key]).strip() for key in _OPTIONS]
    return Question(
        tuple((before + option, after) for option in options),
        gold=label_index(row, "answer", LABELS, task="xwinograd"),
        neutral=tuple((option, after) for option in options),
    )


def render_harness(row: Row, language: Language, words: Language) -> Question:
    """Likewise, with one space between the option and the rest in every language, even before an apostrophe."""
    before, after = _parts(row, str(row["sentence"]))
    options = [str(row[key]) for key in _OPTIONS]
    return Question(
        tuple((before + option, f" {after.strip()}") for option in options),
        gold=label_index(row, "answer", LABELS, task="xwinograd"),
        neutral=tuple((option, f" {after.strip()}") for option in options),
        is_verbatim=True,
    )


def _parts(row: Row, sentence: str) -> tuple[str, str]:
    """What stands before and after the gap."""
    before, gap, after = sentence.partition("_")
    if not gap or "_" in after or not after.strip():
        raise DataError(
            f"{sentence.count('_')} gaps, or nothing after the gap: {sentence[:80]!r}",
            where=where_of(row, "xwinograd"),
            allowed="exactly one `_`, with text after it",
        )
    return before, after


def files(data_dir: Path, language: str) -> Mapping[Split, SourceFile]:
    """The one file that holds rows of `language`, as its test part."""
    code = _FILE_CODES.get(language, language)
    lines = (f"test/{language}.jsonl", f"test/{code}.jsonl")
    file = locate_split(data_dir, "xwinograd", language, "test", *lines) or locate_split(
        data_dir, "xwinograd", code, "test"
    )
    if file is None:
        table = locate(data_dir, "xwinograd", "dataset.tsv")
        file = table if table and any(line.startswith(f"{code}\t") for line in read_lines(table)) else None
    return existing_files(test=file)


def parse(file: SourceFile, language: str) -> ParsedRows:
    """Rows of `language` in one file."""
    if is_parquet(file):
        lines = list(read_table(file, _FIELDS))
    elif file.ending == ".jsonl":
        lines = list(read_objects(file, _FIELDS))
    else:
        code = _FILE_CODES.get(language, language)
        table = read_columns(file, _COLUMNS, has_header=False)
        lines = [_from_table(cells) for cells in table if cells["lang"] == code]
    filled = drop_empty(lines, ("sentence", *_OPTIONS)).rows
    complete = [line for line in filled if not str(line["sentence"]).strip().endswith("_")]
    rows = [
        {**line, "id": f"{language}:{index}", "content_id": _content(line, language)}
        for index, line in enumerate(complete)
    ]
    return ParsedRows(rows, num_skipped=len(lines) - len(complete))


def _content(line: Mapping[str, Any], language: str) -> str:
    options = "\t".join(sorted(str(line[key]).strip().lower() for key in _OPTIONS))
    return f"{language}:{hashlib.sha256(options.encode()).hexdigest()[:12]}"


def _from_table(cells: Mapping[str, Any]) -> dict[str, Any]:
    """A row with a gap, from the table's token list: the pronoun stands at its token span."""
    where = str(cells["where"])
    try:
        tokens = [str(token) for token in json.loads(cells["tokens"])]
        first, last = json.loads(cells["pronoun"])[1]
        options = json.loads(cells["options"])
        (option1, right1), (option2, right2) = ((option[0], option[3]) for option in options)
        spans = _spans(str(cells["sentence"]), tokens)
        start, end = spans[first][0], spans[last - 1][1]
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise DataError(
            f"the row's tokens, pronoun or options do not fit its sentence: {error}",
            where=where,
            allowed="JSON lists; the pronoun's token span lies inside the sentence; two options",
        ) from error
    if right1 is right2:
        raise DataError("not exactly one option is true", where=where, allowed="one true, one false")
    sentence = str(cells["sentence"])
    return {
        "sentence": (sentence[:start].replace("_", " ") + "_" + sentence[end:].replace("_", " ")).strip(),
        "option1": option1,
        "option2": option2,
        "answer": "1" if right1 else "2",
        "where": where,
    }


def _spans(sentence: str, tokens: list[str]) -> list[tuple[int, int]]:
    """Character span of each token; the table writes quotation marks as two characters."""
    spans, position = [], 0
    for token in tokens:
        start, size = sentence.find(token, position), len(token)
        if token in _QUOTES and (mark := sentence.find('"', position)) >= 0 and not 0 <= start < mark:
            start, size = mark, 1
        if start < 0:
            raise ValueError(f"token {token!r} is not in the sentence")
        position = start + size
        spans.append((start, position))
    return spans


TASK = Task(
    name="xwinograd",
    fields=_FIELDS,
    render=render,
    render_harness=render_harness,
    files=files,
    parse=parse,
    layout="xwinograd/dataset.tsv, xwinograd/test/<language>.jsonl; from the hub's tables "
    "xwinograd/<language>/test/0000.parquet",
    label="answer",
)
