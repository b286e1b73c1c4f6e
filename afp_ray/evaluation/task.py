"""What an evaluation task is: where its rows lie, how a row becomes a question with choices."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from afp_ray.data.readers.files import SourceFile
from afp_ray.errors import TaskError
from afp_ray.languages import Language

Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")
Row = Mapping[str, Any]
"""Fields of the task, with `id`, `content_id`, and `where` (file:line) when the row was read from a file."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question as the model sees it.

    Attributes:
        choices: (context, continuation) of each choice; the continuation alone is scored.
        gold: index of the right choice.
    """

    choices: tuple[tuple[str, str], ...]
    gold: int

    @property
    def answered(self) -> str:
        """The question followed by its right answer, as a demonstration shows it."""
        context, continuation = self.choices[self.gold]
        return (context + continuation).strip()

    def after(self, prefix: str) -> "Question":
        """The same question with `prefix` before every context."""
        return Question(tuple((prefix + context, continuation) for context, continuation in self.choices), self.gold)


@dataclass(frozen=True, slots=True)
class Example:
    """A question with its identity.

    Attributes:
        id: unique within task, language and split.
        content_id: names the facts behind the row; the same in every language that has them.
        question: what is scored.
    """

    id: str
    content_id: str
    question: Question


@dataclass(frozen=True, slots=True)
class ParsedRows:
    """Rows of one file, and how many were left out because they hold no text.

    Attributes:
        rows: rows in the order of the file.
        num_skipped: rows without text.
    """

    rows: Sequence[Row]
    num_skipped: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One benchmark.

    Attributes:
        name: its name in `evaluation.tasks`.
        fields: names that every row holds.
        render: (row, its language, the language of the template's words) -> question.
        files: (data folder, language) -> original file of each split that exists; empty when there is none.
        parse: (file, language) -> its rows.
        layout: the files that `files` looks for, for error messages.
    """

    name: str
    fields: tuple[str, ...]
    render: Callable[[Row, Language, Language], Question]
    files: Callable[[Path, str], Mapping[Split, SourceFile]]
    parse: Callable[[SourceFile, str], ParsedRows]
    layout: str = field(default="")

    def example(self, row: Row, language: Language, words: Language) -> Example:
        """`row` as a question of `language` with the template words of `words`.

        Raises: TaskError for a missing field, an unknown label, or a template word that `words` does not have.
        """
        missing = [name for name in self.fields if name not in row]
        if missing:
            raise TaskError(
                f"{self.name} row lacks {', '.join(missing)}",
                where=place(row, self.name),
                allowed=f"rows with {', '.join(self.fields)}",
                fix="complete the row",
            )
        return Example(str(row["id"]), str(row["content_id"]), self.render(row, language, words))


def place(row: Row, task: str) -> str:
    """Where `row` was read: file:line, or the task and the row's id."""
    return str(row.get("where") or f"{task} row {row.get('id', '?')}")


def found_files(**files: SourceFile | None) -> dict[Split, SourceFile]:
    """The splits that have a file."""
    return {split: file for split in SPLITS if (file := files.get(split)) is not None}


def label_index(row: Row, name: str, labels: Sequence[str], *, task: str) -> int:
    """Index of the row's label in `labels`.

    Raises: TaskError naming the value and the labels, when it is none of them.
    """
    value = str(row[name]).strip()
    if value not in labels:
        raise TaskError(
            f"{task} row has {name} {value[:80]!r}",
            where=place(row, task),
            allowed=", ".join(labels),
            fix=f"correct the {name} of that row",
        )
    return labels.index(value)


def without_stop(text: str) -> str:
    """`text` without the full stop at its end, so that the sentence can go on; question marks stay."""
    return text.strip().rstrip(".。．।۔။").rstrip()


def halves(rows: Sequence[Row]) -> dict[Split, list[Row]]:
    """Splits of a benchmark that was published in one part.

    Contents, ordered by a hash of their id so that no half is a stretch of the file, are cut in the middle: the first
    half is validation. Rows of one content, in any language, stay on one side; the order of rows is kept.
    """
    contents = sorted({str(row["content_id"]) for row in rows}, key=lambda name: hashlib.sha256(name.encode()).digest())
    first = set(contents[: (len(contents) + 1) // 2])
    return {
        "validation": [row for row in rows if str(row["content_id"]) in first],
        "test": [row for row in rows if str(row["content_id"]) not in first],
    }
