"""Rows of a task and language, rendered as examples, with demonstrations before them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from afp_ray.config import EvaluationConfig
from afp_ray.data import embedded
from afp_ray.errors import TaskError
from afp_ray.evaluation.files import open_data_dir
from afp_ray.evaluation.task import SPLITS, Example, Row, Split, Task, halves
from afp_ray.evaluation.tasks import TASKS
from afp_ray.languages import LANGUAGES, Language

SEPARATOR = "\n\n"
"""What stands between demonstrations, and between the last one and the question."""


@dataclass(frozen=True, slots=True)
class LanguageRows:
    """Rows of one task in one language.

    Attributes:
        splits: rows of `validation` and `test`, neither empty.
        demonstrations: rows that demonstrations are drawn from; never the test rows.
        num_skipped: rows left out because they hold no text.
    """

    splits: Mapping[Split, Sequence[Row]]
    demonstrations: Sequence[Row]
    num_skipped: int


@dataclass(frozen=True, slots=True)
class Cell:
    """Everything that is scored together.

    Attributes:
        task, language: where the examples come from.
        shots: demonstrations before each question.
        demo_seed: seed of their draw; 0 at 0 shots.
        examples: questions with their demonstrations.
        num_skipped: rows of the language that were left out because they hold no text.
    """

    task: str
    language: str
    shots: int
    demo_seed: int
    examples: Sequence[Example]
    num_skipped: int


def load_rows(task: Task, data_dir: str | None, language: str) -> LanguageRows:
    """Both splits of `task` in `language`, embedded or from the original files under `data_dir`.

    Raises: TaskError when the language has no rows; DataError and ConfigError for files that cannot be read.
    """
    if data_dir is None:
        return _embedded_rows(task, language)
    folder = open_data_dir(data_dir)
    files = task.files(folder, language)
    if not files:
        available = [code for code in LANGUAGES if task.files(folder, code)]
        raise TaskError(
            f"{task.name} has no rows in {language!r} under {folder}",
            where="evaluation.languages",
            allowed=f"languages with files: {', '.join(available) or 'none'}",
            fix=f"add the file ({task.layout}), or drop the language or the task",
        )
    parsed = {split: task.parse(file, language) for split, file in files.items()}
    num_skipped = sum(part.num_skipped for part in parsed.values())
    splits: Mapping[Split, Sequence[Row]]
    if len(parsed) == 1:
        splits = halves(next(iter(parsed.values())).rows)
    else:
        splits = {split: part.rows for split, part in parsed.items()}
    for split in SPLITS:
        if not splits[split]:
            raise TaskError(
                f"{task.name} has no {split} rows in {language!r}",
                where=", ".join(file.label for file in files.values()),
                fix="give the file rows, or drop the language or the task",
            )
    return LanguageRows(splits, splits["validation"], num_skipped)


def _embedded_rows(task: Task, language: str) -> LanguageRows:
    if language not in embedded.LANGUAGES:
        raise TaskError(
            f"{task.name} has no embedded rows in {language!r}",
            where="evaluation.languages",
            allowed=", ".join(embedded.LANGUAGES),
            fix="drop the language, or give evaluation.data_dir",
        )
    splits: dict[Split, Sequence[Row]] = {split: embedded.task_rows(task.name, language, split) for split in SPLITS}
    for split, rows in splits.items():
        if not rows:
            raise TaskError(f"{task.name} has no embedded {split} rows in {language!r}", where="evaluation.languages")
    return LanguageRows(splits, embedded.task_rows(task.name, language, "train"), 0)


def render_cells(name: str, config: EvaluationConfig, *, language: str, pivot: str, split: Split) -> Iterator[Cell]:
    """The cells of one task and language: one per number of shots and demonstration seed.

    Demonstrations come from the embedded training rows, or from the validation rows of the original files (which have
    no training part). They are the same for every example, but for an example that shares
    its content with one of them: there the next row of the draw takes its place.

    Raises: TaskError for rows, labels, template words or shots that do not work out.
    """
    task, own = TASKS[name], LANGUAGES[language]
    words = own if config.prompt_language == "native" else LANGUAGES[pivot]
    rows = load_rows(task, config.data_dir, language)
    examples = [task.example(row, own, words) for row in rows.splits[split][: config.limit]]
    demo_rows = rows if words is own or not any(config.shots) else load_rows(task, config.data_dir, pivot)
    for shots in config.shots:
        for seed in config.demo_seeds if shots else (0,):
            if shots == 0:
                yield Cell(name, language, 0, 0, examples, rows.num_skipped)
                continue
            drawn = draw_demonstrations(demo_rows.demonstrations, task, words, seed=seed, count=2 * shots)
            shown = [add_demonstrations(example, drawn, shots, task=name, language=words.code) for example in examples]
            yield Cell(name, language, shots, seed, shown, rows.num_skipped)


def draw_demonstrations(rows: Sequence[Row], task: Task, language: Language, *, seed: int, count: int) -> list[Example]:
    """`count` rows of different contents, in an order that depends on `seed` and the content alone.

    Languages that share contents thus get the same demonstrations, whatever the order of their files. Fewer come back
    when there are fewer contents.
    """

    def key(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:{name}".encode()).digest()

    first: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (key(str(row["content_id"])), key(str(row["id"])))):
        if str(row["content_id"]) not in first:
            if len(first) == count:
                break
            first[str(row["content_id"])] = row
    return [task.example(row, language, language) for row in first.values()]


def add_demonstrations(example: Example, drawn: Sequence[Example], shots: int, *, task: str, language: str) -> Example:
    """`example` after the first `shots` of `drawn` that do not share its content.

    Raises: TaskError when there are not so many.
    """
    chosen = [demo for demo in drawn if demo.content_id != example.content_id][:shots]
    if len(chosen) < shots:
        raise TaskError(
            f"{task} in {language!r} has too few rows for {shots} demonstrations",
            where="evaluation.shots",
            allowed=f"0 to {len(chosen)}",
            fix="ask for fewer shots",
        )
    prefix = SEPARATOR.join([*(demo.question.answered for demo in chosen), ""])
    return Example(example.id, example.content_id, example.question.after(prefix))
