"""What `afp data` answers with."""

from typing import Literal

from afp_ray.config import StrictModel
from afp_ray.records.plans import UnreadFiles


class Spread(StrictModel):
    """A length over rows."""

    mean: float
    p50: float
    p95: float
    max: int


class SourceRead(StrictModel):
    """What one source gave for one language."""

    source: str
    language: str
    """Empty for rows in several languages."""
    read: int
    kept: int
    refused: dict[str, int]
    """Rows by the reason for which they were refused."""


class Amounts(StrictModel):
    """Rows of one language."""

    language: str
    pairs: int
    """Pairs with the pivot that the sources have; of the pivot itself, none."""
    pairs_drawn: int
    instructions: int
    """Instructions that the sources have in this language."""
    prompts_drawn: int
    responses_drawn: int


class MixCell(StrictModel):
    """Instructions with a prompt and a response in these languages."""

    prompt: str
    response: str
    rows: int


class TextLengths(StrictModel):
    """Lengths of the texts of one language in one place."""

    language: str
    what: Literal["pairs", "prompts", "responses"]
    rows: int
    characters: Spread
    tokens: Spread
    """Without special tokens."""
    fertility: float
    """Tokens per word; per character where the language writes no space between words."""
    per: Literal["word", "character"]


class Truncation(StrictModel):
    """What `training.max_length` costs one language."""

    language: str
    """Of the pair's side, or of the response, which is what is cut."""
    what: Literal["pairs", "instructions"]
    rows: int
    rows_cut: float
    """Share of the rows that lose tokens, in [0, 1]."""
    rows_lost: float
    """Share of the rows that are left out since no response is left."""
    tokens_lost: float
    """Share of all tokens."""


class SampleRow(StrictModel):
    """A drawn row: a pair, or a prompt and its response."""

    kind: Literal["pair", "instruction"]
    source_language: str
    target_language: str
    source: str
    target: str
    content_id: str


class InspectAnswer(StrictModel):
    """What an arm trains on."""

    study: str
    arm: str
    other_arms: tuple[str, ...]
    """Further arms that are trained."""
    seed: int
    model: str
    max_length: int
    pivot: str
    languages: tuple[str, ...]
    searched: dict[str, str | int | float | bool | None]
    """Data fields that the study searches, at the value that was drawn with."""
    sources: tuple[SourceRead, ...]
    unread: tuple[UnreadFiles, ...] = ()
    held_out: int
    """Pairs removed since retrieval is measured on their sentences."""
    filtered: int | None
    """Rows that the quality filter dropped; null where it is off."""
    pairs: int
    instructions: int
    amounts: tuple[Amounts, ...]
    mix: tuple[MixCell, ...]
    lengths: tuple[TextLengths, ...]
    truncation: tuple[Truncation, ...]
    samples: tuple[SampleRow, ...]


class BuildAnswer(StrictModel):
    """A file of drawn rows."""

    file: str
    arm: str
    pairs: int
    instructions: int


class DroppedExample(StrictModel):
    """A row that the filter dropped."""

    sides: dict[str, str]
    """Text by language, or by the name of its part."""


class FilterReason(StrictModel):
    """Rows of one language dropped for one reason."""

    language: str
    kind: Literal["pair", "instruction"]
    reason: str
    dropped: int
    """Of instructions, the language versions that failed: a row goes with all its languages when one of them does."""
    examples: tuple[DroppedExample, ...]


class FilterLanguage(StrictModel):
    """What the filter did to one language."""

    language: str
    kind: Literal["pair", "instruction"]
    read: int
    kept: int
    is_judged: bool
    """Whether there were enough rows to learn from which of them are misaligned."""


class FilterAnswer(StrictModel):
    """What the quality filter drops from the sources of an arm."""

    study: str
    arm: str
    filter: str
    pivot: str
    """Its prompts are what the others are compared with, so it has no misaligned rows of its own."""
    instructions_read: int
    """Instructions of all languages together, each counted once."""
    instructions_kept: int
    not_best: int
    """Instructions that were not among the best scored ones."""
    languages: tuple[FilterLanguage, ...]
    reasons: tuple[FilterReason, ...]
