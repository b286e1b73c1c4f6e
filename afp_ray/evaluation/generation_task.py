"""What a generation task is: where its rows lie, how a row becomes a prompt, what its texts are measured by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from afp_ray.config import GenerationConfig, Split
from afp_ray.data.embedded import Part
from afp_ray.data.readers.files import SourceFile
from afp_ray.evaluation.task import ParsedRows, Row
from afp_ray.evaluation.text_metrics import TextMetric
from afp_ray.languages import Language

JOINT = " "
"""Stands between a prompt and its answer, as in the training rows."""
Files = Mapping[Split, tuple[SourceFile, ...]]


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """One kind of text to generate.

    Attributes:
        name: its name in `evaluation.tasks`.
        prompt: (row, its language, the language of the answer, settings) -> the prompt, which the answer follows.
        embedded: (language, language of the answer, split) -> rows of the embedded corpus; null where it has none.
        files: (data folder, settings, both languages) -> files of each split that exists; empty when there is none.
        parse: (files, settings, both languages) -> their rows.
        layout: settings -> the files that `files` looks for, for error messages.
        check: language of the answer -> None, or a TaskError where its texts cannot be measured.
        metrics: (language of the answer, settings) -> metrics, the main one first.
        stop: settings -> texts that end an answer, beside the model's end-of-sequence token.
        shown: (data folder, settings, both languages) -> rows that are there to be demonstrations; null where the
            validation rows are.
        extra: fields of a row in the language of the answer, beside `target`.
        version: raised when what the task asks changes; kept answers of another version are never read.

    Rows hold `source`, the text in the prompt's language, and `target`, the reference in the answer's; a target may be
    empty where no reference exists. A row may hold `shown`, the answer as a demonstration gives it.
    """

    name: str
    prompt: Callable[[Row, Language, Language, GenerationConfig], str]
    embedded: Callable[[str, str, Part], Sequence[Row]] | None
    files: Callable[[Path, GenerationConfig, str, str], Files]
    parse: Callable[[tuple[SourceFile, ...], GenerationConfig, str, str], ParsedRows]
    layout: Callable[[GenerationConfig], str]
    check: Callable[[str], None]
    metrics: Callable[[str, GenerationConfig], tuple[TextMetric, ...]]
    stop: Callable[[GenerationConfig], tuple[str, ...]]
    shown: Callable[[Path, GenerationConfig, str, str], Sequence[Row] | None] | None = None
    extra: tuple[str, ...] = ()
    version: int = 1


@dataclass(frozen=True, slots=True)
class GenerationExample:
    """A prompt with its identity.

    Attributes:
        id: unique within task, language and split.
        content_id: names the facts behind the row; the same in every language that has them.
        demonstrations: answered prompts that stand before it, first to last.
        prompt: what the answer follows.
        reference: the answer to compare with; "" where there is none.
    """

    id: str
    content_id: str
    demonstrations: tuple[str, ...]
    prompt: str
    reference: str


@dataclass(frozen=True, slots=True)
class GenerationCell:
    """Everything that is generated together.

    Attributes:
        task: name of the direction: `translation`, `translation_to_pivot`, ...
        language: the language other than the pivot.
        target: the language of the answers.
        shots: demonstrations before each prompt.
        demo_seed: seed of their draw; 0 at 0 shots.
        examples: prompts with their demonstrations.
        num_skipped: rows that were left out because they hold no text.
    """

    task: str
    language: str
    target: str
    shots: int
    demo_seed: int
    examples: Sequence[GenerationExample]
    num_skipped: int
