"""XStoryCloze: which of two sentences ends the story? (arXiv:2112.10668).

Original files: `xstorycloze/spring2016.val.<language>.tsv.split_20_80_train.tsv` (validation) and `..._eval.tsv` (test)
with a header, as `juletxara/xstory_cloze` of the hub has them; or its converted tables,
`xstorycloze/<language>/train/0000.parquet` (validation) and `eval/0000.parquet` (test). Where one of them is absent,
the rows of the other are halved by content (`task.halves`). Rows with an empty sentence or ending are skipped and
counted.
"""

from collections.abc import Mapping
from pathlib import Path

from afp_ray.config import Split
from afp_ray.data.readers.files import SourceFile
from afp_ray.evaluation.task import ParsedRows, Question, Row, Task, drop_empty, existing_files, label_index
from afp_ray.evaluation.task_files import is_parquet, locate_split, read_columns, read_table
from afp_ray.languages import Language

LABELS = ("1", "2")
_SENTENCES = tuple(f"InputSentence{number}" for number in range(1, 5))
_ENDINGS = ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2")
_FIELDS = (*_SENTENCES, *_ENDINGS, "AnswerRightEnding")
_HUB = {
    "story_id": "InputStoryid",
    **{f"input_sentence_{number}": f"InputSentence{number}" for number in range(1, 5)},
    **{f"sentence_quiz{number}": f"RandomFifthSentenceQuiz{number}" for number in (1, 2)},
    "answer_right_ending": "AnswerRightEnding",
}
"""Our name of each column of the hub's tables."""


def render(row: Row, language: Language, words: Language) -> Question:
    """Four sentences, then an ending; the template has no words of its own.

    Thai and Burmese put a space between sentences though none between words; Chinese and Japanese put none.
    """
    space = "" if language.script in ("Hans", "Jpan") else " "
    context = space.join(str(row[name]).strip() for name in _SENTENCES)
    endings = [space + str(row[name]).strip() for name in _ENDINGS]
    return Question(
        tuple((context, ending) for ending in endings),
        gold=label_index(row, "AnswerRightEnding", LABELS, task="xstorycloze"),
        neutral=tuple(("", ending) for ending in endings),
    )


def render_harness(row: Row, language: Language, words: Language) -> Question:
    """Four sentences as they are, joined by spaces in every language, then an ending."""
    context = " ".join(str(row[name]) for name in _SENTENCES)
    endings = [f" {row[name]}" for name in _ENDINGS]
    return Question(
        tuple((context, ending) for ending in endings),
        gold=label_index(row, "AnswerRightEnding", LABELS, task="xstorycloze"),
        neutral=tuple(("", ending) for ending in endings),
        is_verbatim=True,
    )


def files(data_dir: Path, language: str) -> Mapping[Split, SourceFile]:
    """Files of `language`."""
    stem = f"spring2016.val.{language}.tsv.split_20_80"
    return existing_files(
        validation=locate_split(data_dir, "xstorycloze", language, "train", f"{stem}_train.tsv"),
        test=locate_split(data_dir, "xstorycloze", language, "eval", f"{stem}_eval.tsv"),
    )


def parse(file: SourceFile, language: str) -> ParsedRows:
    """Rows of one file; the story's id names the content in every language."""
    if is_parquet(file):
        table = read_table(file, tuple(_HUB))
        lines = [{_HUB.get(name, name): value for name, value in row.items()} for row in table]
    else:
        lines = list(read_columns(file, ("InputStoryid", *_FIELDS), has_header=True))
    rows = [{**line, "id": line["InputStoryid"], "content_id": line["InputStoryid"]} for line in lines]
    return drop_empty(rows, (*_SENTENCES, *_ENDINGS))


TASK = Task(
    name="xstorycloze",
    fields=_FIELDS,
    render=render,
    render_harness=render_harness,
    files=files,
    parse=parse,
    layout="xstorycloze/spring2016.val.<language>.tsv.split_20_80_train.tsv and ..._eval.tsv; from the hub's "
    "tables xstorycloze/<language>/train/0000.parquet and eval/0000.parquet",
    label="AnswerRightEnding",
)
