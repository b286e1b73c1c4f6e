"""Rows picked from a sequence by their indices: a view, so that rows on disk stay there until one is asked for."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar, overload

from afp_ray.data.rows import PairTable, TranslationPair

_Row = TypeVar("_Row")


class Selection(Sequence[_Row]):
    """The rows of a sequence at some indices, in the order of the indices.

    Args:
        rows: where the rows are; never copied.
        indices: 0-based positions in `rows`, each within its length.
    """

    def __init__(self, rows: Sequence[_Row], indices: Sequence[int]) -> None:
        self._rows, self.indices = rows, indices

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> _Row: ...

    @overload
    def __getitem__(self, index: slice) -> "Selection[_Row]": ...

    def __getitem__(self, index: int | slice) -> "_Row | Selection[_Row]":
        if isinstance(index, slice):
            return Selection(self._rows, self.indices[index])
        return self._rows[self.indices[index]]

    def __iter__(self) -> Iterator[_Row]:
        return (self._rows[index] for index in self.indices)


def pairs_by_language(pairs: Sequence[TranslationPair]) -> Mapping[str, Sequence[TranslationPair]]:
    """The pairs of each target language in their order, languages in the order of their first pair; nothing is copied.

    Args:
        pairs: a table where they are many, else read through once.
    """
    if isinstance(pairs, PairTable):
        return pairs.by_language()
    indices: dict[str, array[int]] = {}
    for index, pair in enumerate(pairs):
        indices.setdefault(pair.target_language, array("q")).append(index)
    return {language: Selection(pairs, own) for language, own in indices.items()}
