"""What a choice task is: which files hold its rows, and how a row becomes a question with choices."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from afp_ray.config import SPLITS, Split
from afp_ray.data.embedded import Part
from afp_ray.data.readers.files import SourceFile
from afp_ray.errors import TaskError
from afp_ray.languages import Language

Template = Literal["afp", "harness"]
Row = Mapping[str, Any]
"""Fields of the task, with `id`, `content_id`, and `where` (file:line) when the row was read from a file."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question as the model sees it.

    Attributes:
        choices: (context, continuation) of each choice; the continuation alone is scored.
        gold: index of the right choice.
        neutral: (context, continuation) of each choice without what the row asks; its log-likelihood is what the answer
            has from its own wording, which `scoring: pmi` takes off.
        is_verbatim: whether a demonstration keeps the white space around it.
    """

    choices: tuple[tuple[str, str], ...]
    gold: int
    neutral: tuple[tuple[str, str], ...] = ()
    is_verbatim: bool = False

    @property
    def answered(self) -> str:
        """The question followed by its right answer, as a demonstration shows it."""
        context, continuation = self.choices[self.gold]
        return context + continuation if self.is_verbatim else (context + continuation).strip()

    def after(self, prefix: str) -> "Question":
        """The same question with `prefix` before every context."""
        choices, neutral = (
            tuple((prefix + context, continuation) for context, continuation in pairs)
            for pairs in (self.choices, self.neutral)
        )
        return Question(choices, self.gold, neutral, self.is_verbatim)


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


def _no_files(_folder: Path, _language: str) -> Mapping[Split, SourceFile]:
    return {}


def _no_rows(_file: SourceFile, _language: str) -> ParsedRows:
    return ParsedRows(())


@dataclass(frozen=True, slots=True)
class Task:
    """One benchmark.

    Attributes:
        name: its name in `evaluation.tasks`.
        fields: names that every row holds.
        render: (row, its language, the language of the template's words) -> question.
        render_harness: likewise, in the very form that lm-evaluation-harness sends to a model; null where it has none.
        files: (data folder, language) -> original file of each split that exists; empty when there is none.
        parse: (file, language) -> its rows.
        rows: (language, part) -> rows that come with the task itself, from no data folder; `train` are those that
            demonstrations are drawn from; none for a language that it lacks. Null where rows lie in files.
        own_files: language -> files, of a task that says itself where they lie; null where they lie under the data
            folder.
        layout: the files that `files` looks for, for error messages.
        shown_class: field whose values a demonstration shows and that can be balanced; "" where there is none.
        label: field of the right answer, which published test parts may lack.
        version: raised when what the task asks changes; cached answers of another version are never read.
    """

    name: str
    fields: tuple[str, ...]
    render: Callable[[Row, Language, Language], Question]
    render_harness: Callable[[Row, Language, Language], Question] | None = None
    files: Callable[[Path, str], Mapping[Split, SourceFile]] = _no_files
    parse: Callable[[SourceFile, str], ParsedRows] = _no_rows
    rows: Callable[[str, Part], Sequence[Row]] | None = None
    own_files: Callable[[str], Mapping[Split, SourceFile]] | None = None
    layout: str = field(default="")
    shown_class: str = ""
    label: str = "label"
    version: int = 1

    def example(self, row: Row, language: Language, words: Language, *, template: Template = "afp") -> Example:
        """`row` as a question of `language` with the template words of `words`.

        Raises: TaskError for a missing field, an unknown label, or a template word that `words` does not have.
        """
        missing = [name for name in self.fields if name not in row]
        if missing:
            raise TaskError(
                f"{self.name} row lacks {', '.join(missing)}",
                where=where_of(row, self.name),
                allowed=f"rows with {', '.join(self.fields)}",
                fix="complete the row",
            )
        render = self.render if template == "afp" else self.render_harness
        if render is None:
            raise TaskError(
                f"{self.name} has no prompts of lm-evaluation-harness",
                where="evaluation.template",
                allowed="afp",
                fix="set evaluation.template: afp, or drop the task",
            )
        return Example(str(row["id"]), str(row["content_id"]), render(row, language, words))


def where_of(row: Row, task: str) -> str:
    """Where `row` was read: file:line, or the task and the row's id."""
    return str(row.get("where") or f"{task} row {row.get('id', '?')}")


def existing_files(**files: SourceFile | None) -> dict[Split, SourceFile]:
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
            where=where_of(row, task),
            allowed=", ".join(labels),
            fix=f"correct the {name} of that row",
        )
    return labels.index(value)


def drop_empty(rows: Sequence[Row], names: Sequence[str], *, empty: Sequence[str] = ("",)) -> ParsedRows:
    """`rows` whose fields `names` all hold text, and how many do not; null and any of `empty` are no text."""
    filled = [row for row in rows if not any(str(row[name] or "").strip() in empty for name in names)]
    return ParsedRows(filled, len(rows) - len(filled))


def without_stop(text: str) -> str:
    """`text` without the full stop at its end, so that the sentence can go on; question marks stay."""
    return text.strip().rstrip(".。．।۔။").rstrip()


def halves(rows: Sequence[Row]) -> dict[Split, list[Row]]:
    """Splits of a benchmark that was published in one part.

    Contents, ordered by a hash of their id so that no half is a stretch of the file, are cut in the middle: the first
    half is validation. Rows of a content, in any language, stay on one side, and all rows in their order.
    """
    contents = sorted({str(row["content_id"]) for row in rows}, key=lambda name: hashlib.sha256(name.encode()).digest())
    first = set(contents[: (len(contents) + 1) // 2])
    return {
        "validation": [row for row in rows if str(row["content_id"]) in first],
        "test": [row for row in rows if str(row["content_id"]) not in first],
    }
