"""Whether answers are in the language asked for: Vicuna's 80 questions, MT-Bench (arXiv:2306.05685), HC3 (2301.07597).

Original files: `vicuna80_12lang/questions_<English name>.jsonl` with `question_id` and `text`;
`mt_bench_multilingual/<folder of the language>/question.jsonl` and, for demonstrations, `reference_answer/gpt-4.jsonl`;
`hc3/all.jsonl` (English) and `hc3_chinese/all.jsonl` with `question`, taken in a random order. Questions are halved by
content (`task.halves`). Questions in the prompt's language are all that is needed: an answer is judged by its language.
HC3 answers every question in its own language, so demonstrations before its questions are instructions of Bactrian-X
(`bactrian-x/<language>.json`): the instruction in one language, the answer to the same one in the other.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from afp_ray.config import GenerationConfig
from afp_ray.data import embedded
from afp_ray.data.mixing import ANSWER_CLAUSE
from afp_ray.data.readers import bactrian_x, mt_bench
from afp_ray.data.readers.files import SourceFile, clean
from afp_ray.data.readers.records import Record
from afp_ray.evaluation.answer_rate import answer_metrics, check_identifiable
from afp_ray.evaluation.generation_task import Files, GenerationTask
from afp_ray.evaluation.task import ParsedRows, Row
from afp_ray.evaluation.task_files import locate, read_objects
from afp_ray.evaluation.text_metrics import TextMetric
from afp_ray.languages import Language, language_row

NUM_EMBEDDED = 60
"""Embedded rows per split."""
SENTENCE_KINDS = ("what", "why", "then", "kind_of", "where")
"""Embedded instructions whose answer is a sentence; the others are answered by a name, which is of no language."""
VICUNA_NAMES = {"de": "Deutsch"}
"""Where a file is not named by the English name of its language."""
HC3_FOLDERS = {"en": "hc3", "zh": "hc3_chinese"}
_MT_BENCH = "mt_bench_multilingual"
MAX_SHOWN_CHARS = 400
"""Longest instruction and longest answer that are shown before a question of HC3, so that few tokens go to them."""


def prompt(row: Row, source: Language, target: Language, config: GenerationConfig) -> str:
    """`question Answer in Chinese:`, the form of the training rows."""
    return f"{row['source']} {ANSWER_CLAUSE.format(language=target.name)}"


def embedded_rows(source: str, target: str, split: embedded.Part) -> Sequence[Row]:
    """Instructions of the embedded corpus that are answered by a sentence."""
    rows = [row for row in embedded.parallel_instructions(split) if row.kind in SENTENCE_KINDS][:NUM_EMBEDDED]
    return [
        {
            "id": f"answer_language-{split}-{number}",
            "content_id": row.content_id,
            "source": row.prompts[source],
            "target": row.responses[target],
        }
        for number, row in enumerate(rows)
    ]


def files(data_dir: Path, config: GenerationConfig, source: str, target: str) -> Files:
    """The questions in `source`, and of MT-Bench the answers in `target` where they exist."""
    answers = None
    if config.answer_corpus == "vicuna":
        name = VICUNA_NAMES.get(source, language_row(source).name)
        questions = locate(data_dir, "vicuna80_12lang", f"questions_{name}.jsonl")
    elif config.answer_corpus == "hc3":
        questions = locate(data_dir, HC3_FOLDERS[source], "all.jsonl") if source in HC3_FOLDERS else None
    else:
        questions = locate(data_dir, _MT_BENCH, f"{_mt_bench_folder(source)}/question.jsonl")
        answers = locate(data_dir, _MT_BENCH, f"{_mt_bench_folder(target)}/reference_answer/gpt-4.jsonl")
    return {"test": (questions, *([answers] if answers else []))} if questions else {}


def parse(files: tuple[SourceFile, ...], config: GenerationConfig, source: str, target: str) -> ParsedRows:
    """Rows of one file of questions; the content is the question's id, or its line."""
    field = {"vicuna": "text", "hc3": "question", "mt_bench": "turns"}[config.answer_corpus]
    questions = list(read_objects(files[0], (field,)))
    answers = (
        {row["question_id"]: row["choices"] for row in read_objects(files[1], ("question_id", "choices"))}
        if (len(files) > 1)
        else {}
    )
    rows: list[Row] = []
    for number, row in enumerate(questions, start=1):
        text = clean(_first_turn(row, field))
        if text:
            name = f"{config.answer_corpus}:{row.get('question_id', number)}"
            choices = answers.get(row.get("question_id"))
            answer = clean(_first_turn(choices[0], "turns")) if choices else ""
            rows.append({"id": name, "content_id": name, "source": text, "target": answer, "where": row["where"]})
    if config.answer_corpus == "hc3":  # its parts lie one after the other, and a limit takes the first rows
        rows.sort(key=lambda row: hashlib.sha256(str(row["id"]).encode()).digest())
    return ParsedRows(rows, len(questions) - len(rows))


def shown(data_dir: Path, config: GenerationConfig, source: str, target: str) -> Sequence[Row] | None:
    """Short instructions of Bactrian-X before questions of HC3, which has no answers in another language; else null.

    Raises: DataError when a file is not in the form of Bactrian-X.
    """
    if config.answer_corpus != "hc3":
        return None
    questions, answers = (locate(data_dir, "bactrian-x", *bactrian_x.file_names(code)) for code in (source, target))
    return _shown(questions, answers) if questions and answers else ()


@lru_cache(maxsize=4)
def _shown(questions: SourceFile, answers: SourceFile) -> Sequence[Row]:
    """Read once a process; size and time of change of both files are part of the key."""
    asked = {row.identifier: clean(row.instruction) for row in _records(questions) if not row.input}
    rows: list[Row] = []
    for record in _records(answers):
        texts = asked.pop(record.identifier, ""), clean(record.output)
        if all(0 < len(text) <= MAX_SHOWN_CHARS for text in texts):
            name = f"bactrian-x:{record.identifier}"
            rows.append({"id": name, "content_id": name, "source": texts[0], "target": texts[1]})
    return rows


def _records(file: SourceFile) -> Iterator[Record]:
    return (record for record in bactrian_x.read_records(file) if not isinstance(record, str))


def _first_turn(row: Any, field: str) -> str:
    value = row[field]
    return str(value[0] if isinstance(value, list) else value)


def _mt_bench_folder(language: str) -> str:
    return mt_bench.FOLDERS.get(language, f"mt_bench_{language}")


def layout(config: GenerationConfig) -> str:
    """The files that are looked for."""
    return {
        "vicuna": "vicuna80_12lang/questions_<English name of the language>.jsonl",
        "mt_bench": f"{_MT_BENCH}/mt_bench_<language>/question.jsonl",
        "hc3": "hc3/all.jsonl for English, hc3_chinese/all.jsonl for Chinese; demonstrations from bactrian-x/",
    }[config.answer_corpus]


def metrics(language: str, config: GenerationConfig) -> tuple[TextMetric, ...]:
    """Share of answers in `language`, and of answers whose language cannot be told."""
    return answer_metrics(language)


TASK = GenerationTask(
    name="answer_language",
    prompt=prompt,
    embedded=embedded_rows,
    files=files,
    parse=parse,
    layout=layout,
    check=check_identifiable,
    metrics=metrics,
    stop=lambda config: ("\n\n",),
    shown=shown,
)
