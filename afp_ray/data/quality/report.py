"""Counts, per language, what the quality filter dropped and why, with a few rows of each reason."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_EXAMPLES = 3
MAX_SHOWN = 200
"""Characters of a side that an example shows."""


@dataclass(slots=True)
class LanguageReport:
    """What became of the rows of one language.

    Attributes:
        num_read, num_kept: rows before and after.
        dropped: number of rows by reason.
        is_judged: whether there were enough rows to learn from which rows are misaligned.
        examples: the first rows of each reason, as the sides they have.
    """

    num_read: int = 0
    num_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    is_judged: bool = False
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def num_missing_examples(self, reason: str) -> int:
        """How many more examples of `reason` would be kept."""
        return MAX_EXAMPLES - len(self.examples.get(reason, ()))

    def show(self, reason: str, sides: Mapping[str, str]) -> None:
        """Keep an example of `reason`: the text of each side, by language."""
        self.examples.setdefault(reason, []).append({name: text[:MAX_SHOWN] for name, text in sides.items()})


@dataclass(slots=True)
class FilterReport:
    """What the filter did.

    Attributes:
        pairs: by language, for translation pairs.
        instructions: by language, for instructions: `dropped` counts the language versions that failed, since a row
            goes with all its languages when one of them fails.
        num_instructions_read, num_instructions_kept: rows of all languages together.
        num_not_best: instructions that were not among the best scored ones.
    """

    pairs: dict[str, LanguageReport] = field(default_factory=dict)
    instructions: dict[str, LanguageReport] = field(default_factory=dict)
    num_instructions_read: int = 0
    num_instructions_kept: int = 0
    num_not_best: int = 0

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values, keys in a fixed order."""
        return {
            "pairs": {language: _plain(row) for language, row in sorted(self.pairs.items())},
            "instructions": {language: _plain(row) for language, row in sorted(self.instructions.items())},
            "num_instructions_read": self.num_instructions_read,
            "num_instructions_kept": self.num_instructions_kept,
            "num_not_best": self.num_not_best,
        }


def _plain(row: LanguageReport) -> dict[str, Any]:
    return {
        "num_read": row.num_read,
        "num_kept": row.num_kept,
        "dropped": dict(sorted(row.dropped.items())),
        "is_judged": row.is_judged,
        "examples": {reason: row.examples[reason] for reason in sorted(row.examples) if row.examples[reason]},
    }
