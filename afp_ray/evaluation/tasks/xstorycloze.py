"""XStoryCloze: which of two sentences ends the story? (arXiv:2112.10668).

Original files: `xstorycloze/spring2016.val.<language>.tsv.split_20_80_train.tsv` (validation) and `..._eval.tsv` (test)
with a header. Where one of them is absent, the rows of the other are halved by content (`task.halves`).
"""

from collections.abc import Mapping
from pathlib import Path

from afp_ray.data.readers.files import SourceFile
from afp_ray.evaluation.files import locate, read_columns
from afp_ray.evaluation.task import ParsedRows, Question, Row, Split, Task, found_files, label_index
from afp_ray.languages import Language

LABELS = ("1", "2")
_SENTENCES = tuple(f"InputSentence{number}" for number in range(1, 5))
_ENDINGS = ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2")
_FIELDS = (*_SENTENCES, *_ENDINGS, "AnswerRightEnding")


def render(row: Row, language: Language, words: Language) -> Question:
    """Four sentences, then an ending; the template has no words of its own.

    Thai and Burmese put a space between sentences though none between words; Chinese and Japanese put none.
    """
    space = "" if language.script in ("Hans", "Jpan") else " "
    context = space.join(str(row[name]).strip() for name in _SENTENCES)
    choices = tuple((context, space + str(row[name]).strip()) for name in _ENDINGS)
    return Question(choices, gold=label_index(row, "AnswerRightEnding", LABELS, task="xstorycloze"))


def files(data_dir: Path, language: str) -> Mapping[Split, SourceFile]:
    """Files of `language`."""
    stem = f"spring2016.val.{language}.tsv.split_20_80"
    return found_files(
        validation=locate(data_dir, "xstorycloze", f"{stem}_train.tsv"),
        test=locate(data_dir, "xstorycloze", f"{stem}_eval.tsv"),
    )


def parse(file: SourceFile, language: str) -> ParsedRows:
    """Rows of one file; the story's id names the content in every language."""
    columns = read_columns(file, ("InputStoryid", *_FIELDS), has_header=True)
    return ParsedRows(
        [{**cells, "id": cells["InputStoryid"], "content_id": cells["InputStoryid"]} for cells in columns]
    )


TASK = Task(
    name="xstorycloze",
    fields=_FIELDS,
    render=render,
    files=files,
    parse=parse,
    layout="xstorycloze/spring2016.val.<language>.tsv.split_20_80_train.tsv and ..._eval.tsv",
)
