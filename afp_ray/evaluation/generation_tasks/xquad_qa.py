"""Answers to questions about a paragraph, in one language or with the question in another: XQuAD (arXiv:1910.11856).

Original files: `xquad/xquad.<language>.json`, plain or in an archive there; question ids are the same in all languages.
The questions are halved by content (`task.halves`); a content is a paragraph. Text and answer are in one language.
"""

from collections.abc import Sequence
from pathlib import Path

from afp_ray.config import GenerationConfig
from afp_ray.data import embedded
from afp_ray.data.readers import xquad
from afp_ray.data.readers.files import SourceFile
from afp_ray.errors import DataError
from afp_ray.evaluation.answer_metrics import em, f1
from afp_ray.evaluation.generation_task import Files, GenerationTask
from afp_ray.evaluation.generation_tasks import wording
from afp_ray.evaluation.task import ParsedRows, Row
from afp_ray.evaluation.task_files import locate
from afp_ray.evaluation.text_metrics import TextMetric
from afp_ray.languages import Language


def prompt(row: Row, source: Language, target: Language, config: GenerationConfig) -> str:
    """`text question Answer in Chinese:`, or with the words of the question's language before each part."""
    if config.question_form == "clause":
        return wording.clause(f"{row['context']} {row['source']}", target)
    context, question, answer = wording.native(wording.READING, source, task="xquad_qa")
    return f"{context}: {row['context']}\n\n{question}: {row['source']}\n\n{answer}:"


def embedded_rows(source: str, target: str, split: embedded.Part) -> Sequence[Row]:
    """Questions about short paragraphs of the embedded corpus."""
    return [
        {
            "id": f"xquad_qa-{split}-{number}",
            "content_id": content,
            "context": context,
            "source": question,
            "target": answer,
        }
        for number, (context, question, answer, content) in enumerate(embedded.readings(source, target, split))
    ]


def files(data_dir: Path, config: GenerationConfig, source: str, target: str) -> Files:
    """The file of the text and, where that is another one, of the question."""
    files = [locate(data_dir, "xquad", f"xquad.{code}.json") for code in dict.fromkeys((target, source))]
    return {"test": tuple(file for file in files if file is not None)} if all(files) else {}


def parse(files: tuple[SourceFile, ...], config: GenerationConfig, source: str, target: str) -> ParsedRows:
    """Rows in the order of the text's file.

    Raises: DataError when the two files do not have the same questions.
    """
    texts, questions = xquad.read_questions(files[0]), xquad.read_questions(files[-1])
    if texts.keys() != questions.keys():
        raise DataError(
            f"{len(texts.keys() ^ questions.keys())} questions are in one file alone",
            where=" and ".join(file.label for file in files),
            allowed="files whose questions share their ids",
            fix="give files of one release",
        )
    rows: list[Row] = []
    for name, row in texts.items():
        question = questions[name].question
        if row.context and question and row.answer:
            parts = {"context": row.context, "source": question, "target": row.answer}
            origin = {"content_id": f"xquad:{row.paragraph}", "where": f"{files[0].label}:{name}"}
            rows.append({"id": f"xquad:{name}", **origin, **parts})
    return ParsedRows(rows, len(texts) - len(rows))


def layout(config: GenerationConfig) -> str:
    """The files that are looked for."""
    return "xquad/xquad.<language>.json, or an archive of them"


def metrics(language: str, config: GenerationConfig) -> tuple[TextMetric, ...]:
    """F1 over words, and share of answers that have the very words."""
    return f1(language), em(language)


def check(language: str) -> None:
    """Texts of every language can be measured."""


TASK = GenerationTask(
    name="xquad_qa",
    prompt=prompt,
    embedded=embedded_rows,
    files=files,
    parse=parse,
    layout=layout,
    check=check,
    metrics=metrics,
    stop=lambda config: ("\n",),
    extra=("context",),
)
