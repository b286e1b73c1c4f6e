"""Draws translation pairs: exact amounts, languages alike or by temperature, the same rows for the same seed.

Rows are drawn by their places, and only drawn ones are read, so that the candidates may lie on disk. Source of the
sampling temperature: XLM, arXiv:1901.07291 (its exponent alpha is 1 / temperature here).
"""

import random
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from afp_ray.data.rows import PairTable, TranslationPair
from afp_ray.data.selection import Selection, pairs_by_language
from afp_ray.errors import DataError

_Item = TypeVar("_Item")
_HALVINGS = 60
"""Bisection steps to the common scale of the shares, which settle all bits of a float."""
_LEAST_WEIGHT = 1e-200
"""Keeps the languages of a very low temperature in order of need and their weights out of underflow."""


def draw_pairs(
    pairs: Sequence[TranslationPair], *, num_pairs: int, seed: int, temperature: float | None = None
) -> list[TranslationPair]:
    """Draw pairs without replacement, the languages alike or in proportion to their tempered amounts.

    A language with fewer pairs than its share gives all it has and the others make up for it. With one seed the pairs
    of a smaller draw are among those of a larger one, so that amounts can be compared.

    Args:
        pairs: candidates; their order matters to the draw.
        num_pairs: size of the result, >= 0.
        seed: of the draw.
        temperature: > 0, language l gets a share of (its number of pairs) ** (1 / temperature); None shares alike.
    Returns: `num_pairs` pairs in random order.
    Raises: DataError when there are fewer than `num_pairs`.
    """
    by_language = pairs_by_language(pairs)
    capacities = {language: len(rows) for language, rows in by_language.items()}
    if num_pairs > len(pairs):
        listed = ", ".join(f"{language} {count}" for language, count in capacities.items()) or "none"
        raise DataError(
            f"{num_pairs} pairs asked, but there are {len(pairs)} ({listed})",
            where="data.num_pairs",
            allowed=f"0 to {len(pairs)}",
            fix="lower data.num_pairs, or add a source",
        )
    counts = (
        _fill_evenly(capacities, num_pairs)
        if temperature is None
        else fill_by_temperature(capacities, num_pairs, temperature)
    )
    drawn: list[TranslationPair] = []
    for language, count in counts.items():
        rows = by_language[language]
        drawn += [rows[index] for index in shuffled_indices(len(rows), seed, "pairs", language)[:count]]
    return shuffled(drawn, seed, "order of pairs")


def remove_heldout(
    pairs: Sequence[TranslationPair], heldout: Iterable[TranslationPair]
) -> tuple[Sequence[TranslationPair], int]:
    """Take out training pairs that share a sentence, on either side, with a held-out pair.

    Returns: the other pairs in their order, as a view of `pairs`, and how many were taken out.
    """
    sentences = {side for pair in heldout for side in sides(pair)}
    if isinstance(pairs, PairTable):
        return pairs.without_sentences(sentences)
    left = array("q", (index for index, pair in enumerate(pairs) if sentences.isdisjoint(sides(pair))))
    return Selection(pairs, left), len(pairs) - len(left)


def sides(pair: TranslationPair) -> tuple[tuple[str, str], tuple[str, str]]:
    """Language and text of both sides, the source first."""
    return (pair.source_language, pair.source), (pair.target_language, pair.target)


def fill_by_temperature(capacities: Mapping[str, int], total: int, temperature: float) -> dict[str, int]:
    """`total` split in proportion to capacity ** (1 / temperature), as far as the capacities allow.

    Shares are rounded as Webster's method rounds seats, so that no count falls when `total` grows.

    Args:
        capacities: rows by name; names without rows get none.
        total: 0 to the sum of the capacities.
        temperature: > 0; 1 follows the capacities, a larger one flattens them.
    Returns: counts by name, in the order of `capacities`, that sum to `total`.
    """
    largest = max(capacities.values(), default=0)
    weights = {
        name: max((size / largest) ** (1 / temperature), _LEAST_WEIGHT) for name, size in capacities.items() if size
    }
    low, high = 0.0, 1.0
    while sum(_seats(weights, capacities, high).values()) < total:
        low, high = high, high * 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(_seats(weights, capacities, middle).values()) <= total else (low, middle)
    counts = _seats(weights, capacities, low)
    for _ in range(total - sum(counts.values())):  # names that reach their next seat at one scale
        open_names = [name for name in counts if counts[name] < capacities[name]]
        counts[max(open_names, key=lambda name: weights[name] / (counts[name] + 0.5))] += 1
    return {name: counts.get(name, 0) for name in capacities}


def _seats(weights: Mapping[str, float], capacities: Mapping[str, int], scale: float) -> dict[str, int]:
    return {name: min(capacities[name], rounded(weight * scale)) for name, weight in weights.items()}


def _fill_evenly(capacities: Mapping[str, int], total: int) -> dict[str, int]:
    """`total` split as evenly as the capacities allow; what a small one cannot take goes to the larger ones."""
    counts: dict[str, int] = {}
    by_size = sorted(capacities, key=lambda name: capacities[name])
    for place, name in enumerate(by_size):
        left = total - sum(counts.values())
        counts[name] = min(capacities[name], left // (len(by_size) - place))
    return {name: counts[name] for name in capacities}


def shuffled(items: Iterable[_Item], seed: int, *names: object) -> list[_Item]:
    """A random order that depends on the seed and the names alone."""
    order = list(items)
    _generator(seed, *names).shuffle(order)
    return order


def shuffled_indices(count: int, seed: int, *names: object) -> "array[int]":
    """The places 0 to `count` - 1 in the order in which `shuffled` would put `count` items."""
    order = array("q", range(count))
    _generator(seed, *names).shuffle(order)
    return order


def _generator(seed: int, *names: object) -> random.Random:
    return random.Random(" ".join(str(part) for part in (seed, *names)))  # noqa: S311


def rounded(value: float) -> int:
    """The nearest whole number; halves go up."""
    return int(value + 0.5)
