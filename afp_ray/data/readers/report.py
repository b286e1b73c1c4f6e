"""Counts what a reader kept and why it refused the other rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from afp_ray.errors import DataError

MAX_TEXT_CHARS = 1 << 20
"""A longer text is refused as `too_long`."""


def is_text(text: str) -> bool:
    """Whether `text` can be written as UTF-8; half a surrogate pair, which JSON can spell, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class RawRow(NamedTuple):
    """A row of translation pairs as its file has it.

    Attributes:
        sides: the text of the pivot and of the other language; any other number of them is refused.
        name: what the corpus calls the content of the row, "" where it names it by line or not at all.
        refusal: reason why the row cannot be used, "" where the sides decide.
    """

    sides: Sequence[str]
    name: str = ""
    refusal: str = ""


@dataclass(slots=True)
class ReadReport:
    """What one source gave for one language.

    Attributes:
        source: kind and file of the source.
        language: ISO 639-1 code, or "" for rows that hold several languages.
        num_read: rows found.
        num_kept: rows handed on; `num_read` less all refusals.
        refused: number of refused rows by reason (`ragged`, `empty`, `identical`, `repeated`, `unmatched`, `control`,
            `too_long`, `not_text`).
    """

    source: str
    language: str
    num_read: int = 0
    num_kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def refuse(self, reason: str) -> None:
        """Count one refused row."""
        self.refused[reason] += 1

    def require_rows(self, fix: str) -> None:
        """Raise when no row was kept.

        Raises: DataError with the reasons.
        """
        if self.num_kept:
            return
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.refused.items())) or "none refused"
        raise DataError(f"none of {self.num_read} rows is usable ({reasons})", where=self.source, fix=fix)
