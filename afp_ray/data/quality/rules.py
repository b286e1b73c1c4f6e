"""The rules that look at one side or one row at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afp_ray.config.data import FilterLimits
from afp_ray.data.identification import misidentified
from afp_ray.data.quality.scripts import count_letters, script_of, script_share

SMALL = 10
"""Characters added to a length before lengths are compared, so that short sides may differ more."""
MIN_SCRIPT_LETTERS = 4
MAX_CODE_SHARE = 0.1
_CODE_MARKS = frozenset("{}[]()<>=+*/\\_|#$;%&0123456789")


@dataclass(frozen=True, slots=True)
class Side:
    """Text and the language it should be in."""

    text: str
    language: str


def refused_row(source: Side, target: Side, limits: FilterLimits) -> str:
    """Reason why a row cannot be used, whatever the other rows are; "" for a row that can."""
    if not source.text.strip() or not target.text.strip():
        return "empty"
    if _plain(source.text) == _plain(target.text):
        return "identical"
    for name, side in (("source", source), ("target", target)):
        reason = refused_side(side, limits)
        if reason:
            return f"{reason}_{name}"
    return ""


def refused_side(side: Side, limits: FilterLimits) -> str:
    """`script`, `wrong_language`, or "" for a side that is in its language as far as its length lets it be known."""
    share, confidence = limits.min_script_share, limits.min_language_confidence
    if share is not None and count_letters(side.text) >= MIN_SCRIPT_LETTERS:
        script = script_of(side.language)
        if script_share(side.text, script) < share:
            return "script"
    if confidence is not None and misidentified(side.text, side.language, confidence=confidence):
        return "wrong_language"
    return ""


def log_ratio(source: str, target: str) -> float:
    """Natural log of the target's length over the source's."""
    return float(np.log((len(target) + SMALL) / (len(source) + SMALL)))


def too_unequal(ratios: NDArray[np.float32], limit: float | None) -> NDArray[np.bool_]:
    """Rows whose length ratio lies further than `limit` from the median of their language pair.

    Args:
        ratios: (R,) `log_ratio` of rows of one language pair.
        limit: a factor above 1; None refuses none.
    """
    if limit is None or not len(ratios):
        return np.zeros(len(ratios), bool)
    return np.asarray(np.abs(ratios - np.median(ratios)) > np.log(limit), bool)


def is_prose(text: str, *, min_letters: int) -> bool:
    """Whether `text` has at least `min_letters` letters and few other characters: no code, formula, table or number."""
    characters = [character for character in text if not character.isspace()]
    if count_letters(text) < min_letters or "```" in text:
        return False
    return sum(character in _CODE_MARKS for character in characters) < MAX_CODE_SHARE * len(characters)


def _plain(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum()) or text


def joined(sides: Sequence[str]) -> str:
    """One text of several, for telling duplicates."""
    return "\n".join(sides)
