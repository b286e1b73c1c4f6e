"""XNLI: does the premise entail, leave open, or contradict the hypothesis? (arXiv:1809.05053).

Original files: `xnli/dev-<language>.tsv` (or that file inside an archive in `xnli/`) and `xnli/test-<language>.tsv`,
three columns without a header; or `facebook/xnli` of the hub: `xnli/<language>/validation-00000-of-00001.parquet` and
`test-...`. Where the test file is absent, the dev rows are halved by content (`task.halves`). Three consecutive rows
share a premise and are one content, the same in every language. Rows without a premise or a hypothesis are skipped and
counted.
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
from afp_ray.evaluation.task_files import hub_split, is_parquet, locate_split, read_columns, read_table
from afp_ray.evaluation.tasks.wording import XNLI, wording
from afp_ray.languages import Language

LABELS = ("entailment", "neutral", "contradiction")
_FIELDS = ("premise", "hypothesis", "label")
_WORDS = ("yes", "also", "no")


def render(row: Row, language: Language, words: Language) -> Question:
    """`premise, right?` followed by `Yes|Also|No, hypothesis`, in the words of the public evaluation harness.

    Unlike there, the premise loses its full stop, for it goes on as a question.
    """
    asked = f"{words.literal('right')}?"
    context = f"{without_stop(str(row['premise']))}, {asked}"
    hypothesis = str(row["hypothesis"]).strip()
    answers = [f" {words.literal(word)}, {hypothesis}" for word in _WORDS]
    return Question(
        tuple((context, answer) for answer in answers),
        gold=label_index(row, "label", LABELS, task="xnli"),
        neutral=tuple((asked, answer) for answer in answers),
    )


def render_harness(row: Row, language: Language, words: Language) -> Question:
    """`premise, right? Yes|Also|No, hypothesis`, all of it scored; the premise keeps its full stop."""
    right, *answers = wording("xnli", XNLI, words)
    endings = [f" {word}, {row['hypothesis']}" for word in answers]
    return Question(
        tuple(("", f" {row['premise']}, {right}?{ending}") for ending in endings),
        gold=label_index(row, "label", LABELS, task="xnli"),
        neutral=tuple((f"{right}?", ending) for ending in endings),
        is_verbatim=True,
    )


def files(data_dir: Path, language: str) -> Mapping[Split, SourceFile]:
    """Files of `language`."""
    return existing_files(
        validation=locate_split(data_dir, "xnli", language, "validation", f"dev-{language}.tsv"),
        test=locate_split(data_dir, "xnli", language, "test", f"test-{language}.tsv"),
    )


def parse(file: SourceFile, language: str) -> ParsedRows:
    """Rows of one file; row i has the content `<part>:<i // 3>`."""
    if is_parquet(file):
        part = {"validation": "dev"}.get(hub_split(file), hub_split(file))
        lines = [{**row, "label": _label(row["label"])} for row in read_table(file, _FIELDS)]
    else:
        part = Path(file.label).name.split("-")[0]
        lines = list(read_columns(file, _FIELDS, has_header=False))
    rows = [{**line, "id": f"{part}:{i}", "content_id": f"{part}:{i // 3}"} for i, line in enumerate(lines)]
    return drop_empty(rows, ("premise", "hypothesis"))


def _label(number: object) -> str:
    """The hub counts the labels; another value stays, and is refused when the row is rendered."""
    names = dict(enumerate(LABELS))
    return names.get(number, str(number)) if isinstance(number, int) else str(number)


TASK = Task(
    name="xnli",
    fields=_FIELDS,
    render=render,
    render_harness=render_harness,
    files=files,
    parse=parse,
    layout="xnli/dev-<language>.tsv, an archive of them, xnli/test-<language>.tsv; from the hub "
    "xnli/<language>/validation-00000-of-00001.parquet and test-...",
    shown_class="label",
)
