"""The rows that data sources yield: documents, translation pairs and instructions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Document:
    """Monolingual text.

    Attributes:
        text: one or more sentences of one language.
        language: ISO 639-1 code.
        content_id: names the facts the text was made from; rows that share it are not independent.
    """

    text: str
    language: str
    content_id: str


@dataclass(frozen=True, slots=True)
class TranslationPair:
    """A sentence and its translation; `source` is in the pivot language wherever one side is.

    Attributes:
        source, target: the two sides, stripped, never empty.
        source_language, target_language: ISO 639-1 codes.
        content_id: names the facts or the line both sides were made from.
    """

    source: str
    target: str
    source_language: str
    target_language: str
    content_id: str


@dataclass(frozen=True, slots=True)
class ParallelInstruction:
    """One instruction in several languages, so that prompt and response languages can be drawn apart.

    Attributes:
        prompts, responses: text by language code; both hold the same languages.
        content_id: names the facts the instruction was made from.
        kind: the form of the instruction (a question about a place, a description, ...).
    """

    prompts: Mapping[str, str]
    responses: Mapping[str, str]
    content_id: str
    kind: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """One prompt and one response, each in its own language (the two may be equal).

    Attributes:
        prompt, response: text; the response alone is supervised.
        prompt_language, response_language: ISO 639-1 codes.
        content_id: names the facts the instruction was made from.
    """

    prompt: str
    response: str
    prompt_language: str
    response_language: str
    content_id: str


@runtime_checkable
class PairTable(Protocol):
    """Translation pairs that may lie on disk: a sequence of them that also answers questions about all rows at once.

    Sources give one where the files are large, and a plain list where they are small.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[TranslationPair]: ...

    def __getitem__(self, index: int) -> TranslationPair: ...

    def by_language(self) -> Mapping[str, Sequence[TranslationPair]]:
        """The rows of each target language, in order of first appearance; none is read for it."""
        ...

    def without_sentences(self, sentences: Iterable[tuple[str, str]]) -> "tuple[Sequence[TranslationPair], int]":
        """The rows that have none of these (language code, text) on either side, and how many were taken out."""
        ...
