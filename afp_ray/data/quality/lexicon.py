"""Learns from translation pairs which words translate which, and tells how well a target is explained by its source.

This is the translation table of IBM Model 1 (Brown et al. 1993, Computational Linguistics 19(2)), estimated on the very
rows that are to be filtered: most of them are translations, and what the wrong ones teach is spread thin. It needs no
pretrained model, so it works in a language that no model at hand knows. A row that a lexicon was learned from must not
be judged by it: the words that only this row has would vouch for it.

Shapes: R rows, N tokens of all rows, L links (every source token with every target token of its row).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_ROUNDS = 5
"""Rounds of expectation and maximisation; Model 1 hardly moves after that on a few thousand rows."""
_MIN_COUNT = 2
"""Rows a word must occur in to be known; a word seen once can only be learned from the row itself."""
_FLOOR = 0.1
"""Weight of the language's own word frequencies beside the translations, so that a free word costs log(10) at most."""
_CHUNK = 1024
"""Rows whose links are laid out at a time."""


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Known words of many rows, laid end to end.

    Attributes:
        tokens: (N,) word numbers.
        starts: (R + 1,) index of each row's first word in `tokens`.
    """

    tokens: Integers
    starts: Integers

    @classmethod
    def encode(cls, rows: Sequence[Sequence[str]], numbers: dict[str, int]) -> Self:
        """Words of each row by their number; unknown words are left out."""
        encoded = [[numbers[word] for word in row if word in numbers] for row in rows]
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in encoded], out=starts[1:])
        return cls(np.array([number for row in encoded for number in row], np.int64), starts)

    @property
    def lengths(self) -> Integers:
        """(R,) known words of each row."""
        return np.diff(self.starts)

    def part(self, begin: int, end: int) -> "TokenRows":
        """Rows `begin` to `end`, the last one left out."""
        starts = self.starts[begin : end + 1]
        return TokenRows(self.tokens[starts[0] : starts[-1]], starts - starts[0])


class Lexicon:
    """Translation probabilities of target words given a source word.

    Args:
        sources, targets: distinct words of each row's two sides.
    """

    def __init__(self, sources: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> None:
        self._source_numbers, num_sources = _vocabulary(sources)
        self._target_numbers, num_targets = _vocabulary(targets)
        source = TokenRows.encode(sources, self._source_numbers)
        target = TokenRows.encode(targets, self._target_numbers)
        self._width = max(1, len(num_targets))
        self._frequency = num_targets / max(1, num_targets.sum())
        source_index, target_index = _links(source, target)
        keys = source.tokens[source_index] * self._width + target.tokens[target_index]
        self._keys, cells = np.unique(keys, return_inverse=True)
        owners = self._keys // self._width
        counts: Floats = np.bincount(cells, minlength=len(self._keys)).astype(np.float64)
        for _ in range(_ROUNDS):
            weights = counts / np.bincount(owners, counts, len(num_sources))[owners]
            posterior = _share(weights[cells], target_index, len(target.tokens))
            counts = np.bincount(cells, posterior, len(self._keys)).astype(np.float64)
        self._probability = counts / (np.bincount(owners, counts, len(num_sources)) + 1)[owners]

    def gains(self, sources: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        """How much better each target word is foretold by its row's source than by its frequency alone.

        Args:
            sources, targets: distinct words of R rows.
        Returns: the mean gain over the known words of each target in nats, and the mean over the last half of them;
            (R,) each, drawn towards 0 for rows of few words.
        """
        source = TokenRows.encode(sources, self._source_numbers)
        target = TokenRows.encode(targets, self._target_numbers)
        whole, tail = np.zeros(len(sources)), np.zeros(len(sources))
        for begin in range(0, len(sources), _CHUNK):
            end = min(begin + _CHUNK, len(sources))
            span = slice(begin, end)
            whole[span], tail[span] = self._gains(source.part(begin, end), target.part(begin, end))
        return whole, tail

    def _gains(self, source: TokenRows, target: TokenRows) -> tuple[Floats, Floats]:
        source_index, target_index = _links(source, target)
        keys = source.tokens[source_index] * self._width + target.tokens[target_index]
        cells = np.searchsorted(self._keys, keys).clip(max=max(0, len(self._keys) - 1))
        is_learned = self._keys[cells] == keys if len(self._keys) else np.zeros(len(keys), bool)
        probability = np.where(is_learned, self._probability[cells], 0.0) if len(self._keys) else np.zeros(len(keys))
        foretold: Floats = np.bincount(target_index, probability, len(target.tokens)).astype(np.float64)
        rows = np.repeat(np.arange(len(target.lengths)), target.lengths)
        foretold /= np.maximum(1, source.lengths)[rows]
        gain = np.log(_FLOOR + (1 - _FLOOR) * foretold / self._frequency[target.tokens])
        later = np.arange(len(rows)) - target.starts[rows] >= target.lengths[rows] / 2
        return _mean(gain, rows, len(target.lengths)), _mean(gain[later], rows[later], len(target.lengths))


def _vocabulary(rows: Sequence[Sequence[str]]) -> tuple[dict[str, int], Floats]:
    """Numbers of the words that occur in enough rows, and in how many each does."""
    counts = {word: count for word, count in Counter(w for row in rows for w in row).items() if count >= _MIN_COUNT}
    return {word: number for number, word in enumerate(counts)}, np.array(list(counts.values()), np.float64)


def _links(source: TokenRows, target: TokenRows) -> tuple[Integers, Integers]:
    """(L,) indices of the source token and of the target token of every link, row after row.

    A row of two source tokens and three target tokens has six links, without a loop over rows in Python:

        source index  0 0 0 1 1 1        within // 3, after the row's first source token
        target index  0 1 2 0 1 2        within % 3, after its first target token
    """
    sizes = source.lengths * target.lengths
    rows = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    width = target.lengths[rows]
    return source.starts[rows] + within // width, target.starts[rows] + within % width


def _share(weights: Floats, target_index: Integers, num_tokens: int) -> Floats:
    """(L,) probability that a target token was made by the source token of each link."""
    totals = np.bincount(target_index, weights, num_tokens)[target_index]
    return np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)


def _mean(values: Floats, rows: Integers, num_rows: int) -> Floats:
    """Means by row, with two values of 0 added to each."""
    return np.bincount(rows, values, num_rows) / (np.bincount(rows, minlength=num_rows) + 2)
