"""Finds rows that repeat an earlier row, exactly or nearly, in time linear in the rows.

Near duplicates: each row is the set of its runs of five characters; of random orders of all runs, the first of each is
kept (MinHash, Broder 1997). Rows that agree in one group of these are compared run by run with the first row of the
group alone. Rows of different numbers are never duplicates: templates differ in them.
"""

import hashlib
import unicodedata
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from afp_ray.data.quality.words import numbers

Hashes = NDArray[np.uint64]

SHINGLE = 5
_NUM_BANDS, _BAND = 5, 3
_MULTIPLIERS = np.random.default_rng(20181101).integers(1, 2**63, _NUM_BANDS * _BAND, dtype=np.uint64) | np.uint64(1)
_POWERS = np.array([1099511628211**power % 2**64 for power in range(SHINGLE)], np.uint64)


class DuplicateFinder:
    """Remembers rows by 8 bytes for the exact ones and 5 * 8 bytes for the near ones.

    Args:
        near: overlap (Jaccard) of runs of characters from which rows are near duplicates; None looks for exact ones.
        text_of: gives the text of an earlier row by its number, to compare it in full.
        may_repeat: whether the first row may be a near duplicate of the second, by their numbers; without it the texts
            alone decide.
    """

    def __init__(
        self,
        near: float | None,
        text_of: Callable[[int], str],
        *,
        may_repeat: Callable[[int, int], bool] = lambda _, __: True,
    ) -> None:
        self._near, self._text_of, self._may_repeat = near, text_of, may_repeat
        self._exact: set[int] = set()
        self._bands: list[dict[int, int]] = [{} for _ in range(_NUM_BANDS)]

    def add(self, number: int, text: str) -> str:
        """Look at row `number` and remember it.

        Returns: `duplicate`, `near_duplicate`, or "" for a row that is new.
        """
        key = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        if key in self._exact:
            return "duplicate"
        self._exact.add(key)
        if self._near is None:
            return ""
        runs = shingles(text)
        signature = band_keys(runs)
        earlier = {
            held for band, key in zip(self._bands, signature, strict=True) if (held := band.get(key)) is not None
        }
        candidates = (row for row in sorted(earlier) if self._may_repeat(number, row))
        if any(self._is_near(text, runs, self._text_of(row)) for row in candidates):
            return "near_duplicate"
        for band, key in zip(self._bands, signature, strict=True):
            band.setdefault(key, number)
        return ""

    def _is_near(self, text: str, runs: Hashes, earlier: str) -> bool:
        assert self._near is not None
        others = shingles(earlier)
        common = len(np.intersect1d(runs, others, assume_unique=True))
        overlap = common / (len(runs) + len(others) - common)
        return overlap >= self._near and sorted(numbers(text)) == sorted(numbers(earlier))


def shingles(text: str) -> Hashes:
    """Sorted hashes of the distinct runs of `SHINGLE` letters and digits of `text`; case and marks are left out.

    Returns: (S,), S >= 1.
    """
    plain = "".join(letter for letter in unicodedata.normalize("NFKC", text).casefold() if letter.isalnum()) or text
    codes = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if len(codes) < SHINGLE:
        codes = np.pad(codes, (0, SHINGLE - len(codes)))
    windows = np.lib.stride_tricks.sliding_window_view(codes, SHINGLE)
    return np.unique((windows * _POWERS).sum(axis=1, dtype=np.uint64))


def band_keys(runs: Hashes) -> list[int]:
    """Keys under which rows of much overlap meet: at an overlap of 0.9 in 99.8 % of cases, at 0.5 in half of them."""
    # Two sets agree in the least hash of one order as often as their overlap j says, in a band of three with j^3,
    # and in at least one of five bands with 1 - (1 - j^3)^5.
    mixed = runs[:, None] * _MULTIPLIERS
    mixed ^= mixed >> np.uint64(29)
    least = (mixed * _MULTIPLIERS[::-1]).min(axis=0).reshape(_NUM_BANDS, _BAND)
    return [hash(tuple(band)) for band in least.tolist()]
