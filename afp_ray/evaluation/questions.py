"""Rows of a task and language, rendered as examples, with demonstrations before them."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial

from afp_ray.config import SPLITS, EvaluationConfig, Split
from afp_ray.data import embedded
from afp_ray.data.readers.files import SourceFile
from afp_ray.errors import TaskError
from afp_ray.evaluation.task import Example, ParsedRows, Row, Task, halves
from afp_ray.evaluation.task_files import UnlabelledError, open_data_dir, unlabelled
from afp_ray.evaluation.tasks import choice_task
from afp_ray.languages import Language, known_codes, language_row

SEPARATOR = "\n\n"
"""What stands between demonstrations, and between the last one and the question."""


@dataclass(frozen=True, slots=True)
class LanguageRows:
    """Rows of one task in one language.

    Attributes:
        splits: rows of `validation` and `test`, neither empty but for one without labels.
        demonstrations: rows that demonstrations are drawn from; never the test rows.
        num_skipped: rows left out because they hold no text.
        unlabelled: the file of each split that has no labels, by split.
    """

    splits: Mapping[Split, Sequence[Row]]
    demonstrations: Sequence[Row]
    num_skipped: int
    unlabelled: Mapping[Split, SourceFile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cell:
    """Everything that is scored together.

    Attributes:
        task, language: where the examples come from.
        shots: demonstrations before each question.
        demo_seed: seed of their draw; 0 at 0 shots.
        examples: questions with their demonstrations.
        num_skipped: rows of the language that were left out because they hold no text.
        left_out: file of the other split that was left out because it has no labels; "" where there is none.
    """

    task: str
    language: str
    shots: int
    demo_seed: int
    examples: Sequence[Example]
    num_skipped: int
    left_out: str = ""


def load_rows(task: Task, data_dir: str | None, language: str) -> LanguageRows:
    """Both splits of `task` in `language`, embedded or from the original files under `data_dir`.

    Files are parsed once per process, and again when their size or time changes: equal rows come as the same object.

    Raises: TaskError when the language has no rows; DataError and ConfigError for files that cannot be read.
    """
    if task.rows is not None:
        return _rows_of_task(task, language)
    if task.own_files is not None:
        files_of, folder = task.own_files, task.layout
    elif data_dir is None:
        return _embedded_rows(task, language)
    else:
        root = open_data_dir(data_dir)
        files_of, folder = partial(task.files, root), str(root)
    files = files_of(language)
    if not files:
        available = [code for code in known_codes() if files_of(code)]
        raise _no_rows(task, language, folder, available)
    return _parsed_rows(task, tuple(files.items()), language)


def _no_rows(task: Task, language: str, folder: str, available: Sequence[str]) -> TaskError:
    field = f"evaluation.own_tasks.{task.name}"
    is_own = task.own_files is not None
    return TaskError(
        f"{task.name} has no rows in {language!r} under {folder}",
        where=f"{field}.path" if is_own else "evaluation.languages",
        allowed=f"languages with files: {', '.join(available) or 'none'}",
        fix=f"correct the path, or say in {field}.languages which it has"
        if is_own
        else f"add the file ({task.layout}), drop the language or the task, or {own_languages(task.name, available)}",
    )


def own_languages(task: str, available: Sequence[str]) -> str:
    """How a task is given the languages that it has, of which the first few are shown."""
    shown = ", ".join([*available[:4], *(["..."] if len(available) > 4 else [])]) or "..."
    return f"give each task its own languages: evaluation.tasks: {{{task}: [{shown}], ...}}"


_NO_LABEL = ("-1", "-1.0", "None", "nan", "")
"""What tables hold where a label should stand."""


@lru_cache(maxsize=32)
def _parsed_rows(task: Task, files: tuple[tuple[Split, SourceFile], ...], language: str) -> LanguageRows:
    """Rows of the files of one language; size and time of change of each file are part of the key."""
    parsed: dict[Split, ParsedRows] = {}
    lacking: dict[Split, SourceFile] = {}
    for split, file in files:
        try:
            rows = task.parse(file, language)
            if rows.rows and all(str(row.get(task.label, "?")).strip() in _NO_LABEL for row in rows.rows):
                raise unlabelled(file)
            parsed[split] = rows
        except UnlabelledError:
            lacking[split] = file
    num_skipped = sum(part.num_skipped for part in parsed.values())
    if lacking:  # what is left is not halved: it is what its name says
        if not parsed:
            raise unlabelled(next(iter(lacking.values())))
        labelled: dict[Split, Sequence[Row]] = {
            split: parsed[split].rows if split in parsed else () for split in SPLITS
        }
        return LanguageRows(labelled, labelled["validation"], num_skipped, lacking)
    splits = split_rows(parsed, [file for _, file in files], asked=task.name, language=language)
    return LanguageRows(splits, splits["validation"], num_skipped)


def split_rows(
    parsed: Mapping[Split, ParsedRows], files: Iterable[SourceFile], *, asked: str, language: str
) -> Mapping[Split, Sequence[Row]]:
    """Rows of both splits; a benchmark in one part is halved.

    Args:
        parsed: what each file of a split held.
        files: where the rows come from, for the message.
        asked: task or direction, for the message.
        language: likewise.
    Raises: TaskError when a split has no rows.
    """
    splits: Mapping[Split, Sequence[Row]]
    if len(parsed) == 1:
        splits = halves(next(iter(parsed.values())).rows)
    else:
        splits = {split: part.rows for split, part in parsed.items()}
    for split in SPLITS:
        if not splits[split]:
            raise TaskError(
                f"{asked} has no {split} rows in {language!r}",
                where=", ".join(file.label for file in files),
                fix="give the file rows, or drop the language or the task",
            )
    return splits


@lru_cache(maxsize=32)
def _rows_of_task(task: Task, language: str) -> LanguageRows:
    """Rows that come with the task itself."""
    assert task.rows is not None
    splits: dict[Split, Sequence[Row]] = {split: task.rows(language, split) for split in SPLITS}
    for split, rows in splits.items():
        if not rows:
            available = [code for code in known_codes() if task.rows(code, split)]
            raise TaskError(
                f"{task.name} has no {split} rows in {language!r}",
                where="evaluation.languages",
                allowed=", ".join(available) or "no language",
                fix="drop the language or the task",
            )
    return LanguageRows(splits, task.rows(language, "train") or splits["validation"], 0)


@cache
def _embedded_rows(task: Task, language: str) -> LanguageRows:
    if task.name not in embedded.TASKS:
        raise TaskError(
            f"{task.name} has no embedded rows",
            where="evaluation.data_dir",
            allowed="a folder with its files" + (f": {task.layout}" if task.layout else ""),
            fix="give evaluation.data_dir, or drop the task",
        )
    if language not in embedded.LANGUAGES:
        raise TaskError(
            f"{task.name} has no embedded rows in {language!r}",
            where="evaluation.languages",
            allowed=", ".join(embedded.LANGUAGES),
            fix=f"drop the language, give evaluation.data_dir, or {own_languages(task.name, embedded.LANGUAGES)}",
        )
    splits: dict[Split, Sequence[Row]] = {split: embedded.task_rows(task.name, language, split) for split in SPLITS}
    for split, rows in splits.items():
        if not rows:
            raise TaskError(f"{task.name} has no embedded {split} rows in {language!r}", where="evaluation.languages")
    return LanguageRows(splits, embedded.task_rows(task.name, language, "train"), 0)


def render_cells(name: str, config: EvaluationConfig, *, language: str, pivot: str, split: Split) -> Iterator[Cell]:
    """The cells of one task and language: one per number of shots and demonstration seed.

    Demonstrations come from the embedded training rows, or from the validation rows of the original files (which have
    no training part). They are the same for every example, except where one of them has the content of the example:
    there the next row of the draw is shown instead.

    Raises: TaskError for rows, labels, template words or shots that do not work out.
    """
    task, own = choice_task(name, config), language_row(language)
    words = own if config.prompt_language == "native" else language_row(pivot)
    rows = load_rows(task, config.data_dir, language)
    if split in rows.unlabelled:
        raise unlabelled(rows.unlabelled[split])
    examples = [task.example(row, own, words, template=config.template) for row in rows.splits[split][: config.limit]]
    if config.scoring == "pmi" and examples and not examples[0].question.neutral:
        raise TaskError(
            f"{name} has no words beside what its rows ask, so its choices have no neutral context",
            where="evaluation.scoring",
            allowed="sum, length or bytes",
            fix="choose one of these, or give the task's prompt words of its own",
        )
    left_out = ", ".join(file.label for file in rows.unlabelled.values())
    demo_rows = rows if words is own or not any(config.shots) else load_rows(task, config.data_dir, pivot)
    for shots in config.shots:
        for seed in config.demo_seeds if shots else (0,):
            if shots == 0:
                yield Cell(name, language, 0, 0, examples, rows.num_skipped, left_out)
                continue
            draw = Draw(demo_rows.demonstrations, task, words, seed=seed, shots=shots, config=config)
            shown = [draw.before(example) for example in examples]
            yield Cell(name, language, shots, seed, shown, rows.num_skipped, left_out)


class Draw:
    """The demonstrations of one cell, in an order that depends on the seed and the contents alone.

    Languages that share contents thus get the same demonstrations, whatever the order of their files.

    Args:
        rows: where demonstrations come from.
        task: of the rows.
        language: of the rows and of the template's words.
        seed: of the draw.
        shots: demonstrations before each question.
        config: says the template, and whether classes are balanced.
    """

    def __init__(
        self, rows: Sequence[Row], task: Task, language: Language, *, seed: int, shots: int, config: EvaluationConfig
    ) -> None:
        self._task, self._language, self._shots, self._template = task, language, shots, config.template
        self._is_balanced = config.demo_balance == "class" and task.shown_class != ""
        self._rows, self._seed = rows, seed
        self._classes = balanced_classes(rows, task.shown_class, seed=seed, count=shots) if self._is_balanced else ()
        self._usual = self._rendered("")

    def before(self, example: Example) -> Example:
        """`example` after the demonstrations; instead of one of its own content it has the next row of the draw.

        Raises: TaskError when there are not enough rows.
        """
        chosen = self._usual
        if any(demo.content_id == example.content_id for demo in chosen):
            chosen = self._rendered(example.content_id)
        if len(chosen) < self._shots:
            raise too_few_rows(self._task.name, self._language.code, shots=self._shots, num_rows=len(chosen))
        prefix = SEPARATOR.join([*(demo.question.answered for demo in chosen), ""])
        return Example(example.id, example.content_id, example.question.after(prefix))

    def _rendered(self, without: str) -> list[Example]:
        rows = [row for row in self._rows if str(row["content_id"]) != without] if without else self._rows
        if self._is_balanced:
            drawn = draw_balanced(rows, self._task.shown_class, self._classes, seed=self._seed)
        else:
            drawn = draw_rows(rows, seed=self._seed, count=self._shots)
        example, language = self._task.example, self._language
        return [example(row, language, language, template=self._template) for row in drawn]


def draw_rows(rows: Sequence[Row], *, seed: int, count: int) -> list[Row]:
    """`count` rows of different contents, in the order of the draw; fewer when there are fewer contents."""
    first: dict[str, Row] = {}
    for row in _shuffled(rows, seed):
        if str(row["content_id"]) not in first:
            if len(first) == count:
                break
            first[str(row["content_id"])] = row
    return list(first.values())


def balanced_classes(rows: Sequence[Row], field: str, *, seed: int, count: int) -> tuple[str, ...]:
    """The classes of `count` demonstrations, each as often as every other.

    Which of them come once more, where `count` is no multiple of their number, depends on the seed.
    """
    names = sorted({str(row[field]) for row in rows}, key=lambda name: _key(seed, name))
    return tuple(names[index % len(names)] for index in range(count if names else 0))


def draw_balanced(rows: Sequence[Row], field: str, classes: Sequence[str], *, seed: int) -> list[Row]:
    """Rows of different contents whose values of `field` are `classes`, in the order of the draw.

    The first content of the draw that has a row of a class that is still wanted gives that row. Fewer come back when
    the rows of a class run out.
    """
    wanted = Counter(classes)
    drawn: dict[str, Row] = {}
    for row in _shuffled(rows, seed):
        if str(row["content_id"]) not in drawn and wanted[str(row[field])] > 0:
            wanted[str(row[field])] -= 1
            drawn[str(row["content_id"])] = row
    return list(drawn.values())


def _shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    return sorted(rows, key=lambda row: (_key(seed, str(row["content_id"])), _key(seed, str(row["id"]))))


def _key(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def too_few_rows(task: str, language: str, *, shots: int, num_rows: int) -> TaskError:
    """What is raised when a language has no more than `num_rows` rows to show."""
    return TaskError(
        f"{task} in {language!r} has too few rows for {shots} demonstrations",
        where="evaluation.shots",
        allowed=f"0 to {num_rows}",
        fix="ask for fewer shots",
    )
