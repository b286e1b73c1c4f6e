"""XNLI: does the premise entail, leave open, or contradict the hypothesis? (arXiv:1809.05053).

Original files: `xnli/dev-<language>.tsv` (or that file inside an archive in `xnli/`) and `xnli/test-<language>.tsv`,
three columns without a header. Where the test file is absent, the dev rows are halved by content (`task.halves`).
Three consecutive rows share a premise and are one content, the same in every language.
"""

from collections.abc import Mapping
from pathlib import Path

from afp_ray.data.readers.files import SourceFile
from afp_ray.evaluation.files import locate, read_columns
from afp_ray.evaluation.task import ParsedRows, Question, Row, Split, Task, found_files, label_index, without_stop
from afp_ray.languages import Language

LABELS = ("entailment", "neutral", "contradiction")
_WORDS = ("yes", "also", "no")


def render(row: Row, language: Language, words: Language) -> Question:
    """`premise, right?` followed by `Yes|Also|No, hypothesis`, in the words of the public evaluation harness.

    Unlike there, the premise loses its full stop, for it goes on as a question.
    """
    context = f"{without_stop(str(row['premise']))}, {words.literal('right')}?"
    hypothesis = str(row["hypothesis"]).strip()
    choices = tuple((context, f" {words.literal(word)}, {hypothesis}") for word in _WORDS)
    return Question(choices, gold=label_index(row, "label", LABELS, task="xnli"))


def files(data_dir: Path, language: str) -> Mapping[Split, SourceFile]:
    """Files of `language`."""
    return found_files(
        validation=locate(data_dir, "xnli", f"dev-{language}.tsv"),
        test=locate(data_dir, "xnli", f"test-{language}.tsv"),
    )


def parse(file: SourceFile, language: str) -> ParsedRows:
    """Rows of one file; row i has the content `<part>:<i // 3>`."""
    part = Path(file.label).name.split("-")[0]
    columns = read_columns(file, ("premise", "hypothesis", "label"), has_header=False)
    rows = [
        {**cells, "id": f"{part}:{index}", "content_id": f"{part}:{index // 3}"} for index, cells in enumerate(columns)
    ]
    return ParsedRows(rows)


TASK = Task(
    name="xnli",
    fields=("premise", "hypothesis", "label"),
    render=render,
    files=files,
    parse=parse,
    layout="xnli/dev-<language>.tsv, an archive of them, xnli/test-<language>.tsv",
)
