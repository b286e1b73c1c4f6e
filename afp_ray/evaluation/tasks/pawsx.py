"""PAWS-X: do two sentences say the same? (arXiv:1908.11828).

Original files: `pawsx/<language>/dev_2k.tsv` and `test_2k.tsv` with a header. Where the test file is absent, the dev
rows are halved by content (`task.halves`). Rows whose sentence is empty or `NS` ("no sentence": the translator gave
none) are skipped and counted.
"""

from collections.abc import Mapping
from pathlib import Path

from afp_ray.data.readers.files import SourceFile
from afp_ray.evaluation.files import locate, read_columns
from afp_ray.evaluation.task import ParsedRows, Question, Row, Split, Task, found_files, label_index, without_stop
from afp_ray.languages import Language

LABELS = ("0", "1")
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
    choices = tuple((context, f" {word}, {second}") for word in (no, yes))
    return Question(choices, gold=label_index(row, "label", LABELS, task="pawsx"))


def files(data_dir: Path, language: str) -> Mapping[Split, SourceFile]:
    """Files of `language`."""
    return found_files(
        validation=locate(data_dir, "pawsx", f"{language}/dev_2k.tsv"),
        test=locate(data_dir, "pawsx", f"{language}/test_2k.tsv"),
    )


def parse(file: SourceFile, language: str) -> ParsedRows:
    """Rows of one file that hold two sentences; the file's own id names the content in every language."""
    part = Path(file.label).name.split("_")[0]
    rows: list[Row] = []
    num_skipped = 0
    for cells in read_columns(file, ("id", "sentence1", "sentence2", "label"), has_header=True):
        if any(cells[name].strip() in ("", "NS") for name in ("sentence1", "sentence2")):
            num_skipped += 1
            continue
        name = f"{part}:{cells['id']}"
        rows.append({**cells, "id": name, "content_id": name})
    return ParsedRows(rows, num_skipped)


TASK = Task(
    name="pawsx",
    fields=("sentence1", "sentence2", "label"),
    render=render,
    files=files,
    parse=parse,
    layout="pawsx/<language>/dev_2k.tsv, pawsx/<language>/test_2k.tsv",
)
