"""PAWS-X: do two sentences say the same? (arXiv:1908.11828).

Original files: `pawsx/<language>/dev_2k.tsv` and `test_2k.tsv` with a header; or `google-research-datasets/paws-x` of
the hub: `pawsx/<language>/validation-00000-of-00001.parquet` and `test-...`. Where the test file is absent, the dev
rows are halved by content (`task.halves`). Rows whose sentence is empty or `NS` ("no sentence": the translator gave
none) are skipped and counted.
"""

import re
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
from afp_ray.evaluation.task_files import hub_split, is_parquet, locate_split, read_columns, read_table
from afp_ray.evaluation.tasks.wording import PAWSX, wording
from afp_ray.languages import Language

LABELS = ("0", "1")
_FIELDS = ("sentence1", "sentence2", "label")
_JOINED = ((" n't", "n't"), (" )", ")"), ("( ", "("), ('" ', '"'), (' "', '"'))
"""How the harness takes tokenisation back, in this order."""
# The wording of the public harness where it differs from its XNLI wording: (right, no, yes).
_WORDING: Mapping[str, tuple[str, str, str]] = {
    "es": ("verdad", "No", "Sí"),
    "fr": ("n'est-ce pas", "Non", "Oui"),
    "zh": ("对吧", "不是", "是"),
}


def render(row: Row, language: Language, words: Language) -> Question:
    """`sentence1, right?` followed by `No|Yes, sentence2`; the choices stand in the order of the labels.

    The first sentence loses its full stop, as the premise of XNLI does.
    """
    right, no, yes = _WORDING.get(words.code) or tuple(words.literal(word) for word in ("right", "no", "yes"))
    context = f"{without_stop(str(row['sentence1']))}, {right}?"
    second = str(row["sentence2"]).strip()
    answers = [f" {word}, {second}" for word in (no, yes)]
    return Question(
        tuple((context, answer) for answer in answers),
        gold=label_index(row, "label", LABELS, task="pawsx"),
        neutral=tuple((f"{right}?", answer) for answer in answers),
    )


def render_harness(row: Row, language: Language, words: Language) -> Question:
    """`sentence1, right? No|Yes, sentence2`, all of it scored.

    Outside Japanese, Korean and Chinese, spaces that a tokeniser had put around signs are taken out, the first sentence
    loses one final sign, and the second begins with a small letter.
    """
    right, *answers = wording("pawsx", PAWSX, words)
    first, second = str(row["sentence1"]), str(row["sentence2"])
    if words.code not in ("ja", "ko", "zh"):
        first, second = _detokenised(first).strip(), _detokenised(second).strip()
        first = first[:-1] if first.endswith((".", ",", ";")) else first
        second = second[:1].lower() + second[1:]
    endings = [f" {word}, {second}" for word in answers]
    return Question(
        tuple(("", f"{first}, {right}?{ending}") for ending in endings),
        gold=label_index(row, "label", LABELS, task="pawsx"),
        neutral=tuple((f"{right}?", ending) for ending in endings),
        is_verbatim=True,
    )


def _detokenised(text: str) -> str:
    for spaced, joined in _JOINED:
        text = text.replace(spaced, joined)
    return re.sub(r" (['.,])", r"\1", text)


def files(data_dir: Path, language: str) -> Mapping[Split, SourceFile]:
    """Files of `language`."""
    return existing_files(
        validation=locate_split(data_dir, "pawsx", language, "validation", f"{language}/dev_2k.tsv"),
        test=locate_split(data_dir, "pawsx", language, "test", f"{language}/test_2k.tsv"),
    )


def parse(file: SourceFile, language: str) -> ParsedRows:
    """Rows of one file that hold two sentences; the file's own id names the content in every language."""
    if is_parquet(file):
        part = {"validation": "dev"}.get(hub_split(file), hub_split(file))
        lines = list(read_table(file, ("id", *_FIELDS)))
    else:
        part = Path(file.label).name.split("_")[0]
        lines = list(read_columns(file, ("id", *_FIELDS), has_header=True))
    rows: list[Row] = []
    for line in lines:
        name = f"{part}:{line['id']}"
        rows.append({**line, "id": name, "content_id": name})
    return drop_empty(rows, ("sentence1", "sentence2"), empty=("", "NS"))


TASK = Task(
    name="pawsx",
    fields=_FIELDS,
    render=render,
    render_harness=render_harness,
    files=files,
    parse=parse,
    layout="pawsx/<language>/dev_2k.tsv, pawsx/<language>/test_2k.tsv; from the hub "
    "pawsx/<language>/validation-00000-of-00001.parquet and test-...",
    shown_class="label",
)
