"""Translation pairs and parallel instructions that lie on disk, as sequences that read a row when it is asked for."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from afp_ray.data.row_file import CHUNK_NUMBERS, NumberColumn, RowFile, first_rows, numbers_of
from afp_ray.data.rows import ParallelInstruction, TranslationPair

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Row = TypeVar("_Row")
SOURCE, TARGET, LINE = 0, 1, 2
"""Columns of a file of pairs: `text_number` of both sides, and the line."""


@dataclass(frozen=True, slots=True)
class PairPart:
    """Pairs of one source and one pair of languages.

    Attributes:
        rows: a file of source, target and content id, or the pairs themselves.
        source_language, target_language: ISO 639-1 codes.
        kept: rows that count, in order; None for all.
    """

    rows: RowFile | Sequence[TranslationPair]
    source_language: str
    target_language: str
    kept: "NDArray[np.uint32] | None" = None

    def __len__(self) -> int:
        return len(self.rows) if self.kept is None else len(self.kept)

    def __getitem__(self, index: int) -> TranslationPair:
        row = index if self.kept is None else int(self.kept[index])
        return self._pair(self.rows.fields(row)) if isinstance(self.rows, RowFile) else self.rows[row]

    def __iter__(self) -> Iterator[TranslationPair]:
        pairs = (self._pair(row) for row in self.rows) if isinstance(self.rows, RowFile) else iter(self.rows)
        if self.kept is None:
            yield from pairs
            return
        next_row = 0
        for number, pair in enumerate(pairs):
            if next_row < len(self.kept) and self.kept[next_row] == number:
                next_row += 1
                yield pair

    def columns(self) -> list[NumberColumn]:
        """Numbers of the source and of the target of every row, whether it is kept or not."""
        if isinstance(self.rows, RowFile):
            return [NumberColumn(self.rows, SOURCE), NumberColumn(self.rows, TARGET)]
        sides = ([pair.source for pair in self.rows], [pair.target for pair in self.rows])
        return [NumberColumn(numbers_of(texts)) for texts in sides]

    def _pair(self, fields: tuple[str, ...]) -> TranslationPair:
        source, target, content = fields
        return TranslationPair(source, target, self.source_language, self.target_language, content)


class _Parts(Sequence[_Row], Generic[_Row]):
    """Several sequences, one after the other."""

    def __init__(self, parts: Sequence["Sequence[_Row] | PairPart | InstructionPart"]) -> None:
        self._parts = tuple(parts)
        self._ends = tuple(accumulate(len(part) for part in self._parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> _Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[_Row]: ...
    def __getitem__(self, index: int | slice) -> _Row | list[_Row]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect_right(self._ends, place)
        return self._parts[number][place - (self._ends[number - 1] if number else 0)]  # type: ignore[return-value]

    def __iter__(self) -> Iterator[_Row]:
        for part in self._parts:
            yield from part  # type: ignore[misc]

    def __eq__(self, other: object) -> bool:
        """Whether the rows are the same; a list of them is equal too."""
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class PairRows(_Parts[TranslationPair]):
    """Pairs of several sources and languages (a `PairTable`).

    Args:
        parts: in the order of the rows.
    """

    def __init__(self, parts: Sequence[PairPart]) -> None:
        super().__init__(parts)
        self._pairs = tuple(parts)

    def by_language(self) -> "Mapping[str, PairRows]":
        """The rows of each target language, in order of first appearance; none is read for it."""
        parts: dict[str, list[PairPart]] = {}
        for part in self._pairs:
            if len(part):
                parts.setdefault(part.target_language, []).append(part)
        return {language: PairRows(held) for language, held in parts.items()}

    def without_sentences(self, sentences: Iterable[tuple[str, str]]) -> "tuple[PairRows, int]":
        """The rows that have none of `sentences` on either side, and how many were taken out.

        Args:
            sentences: language code and text of each.
        """
        import numpy as np

        wanted = frozenset(sentences)
        by_language: dict[str, list[str]] = {}
        for code, text in wanted:
            by_language.setdefault(code, []).append(text)
        numbers = {code: numbers_of(texts) for code, texts in by_language.items()}
        parts = []
        for part in self._pairs:
            hits = _hits(part, numbers)
            # Numbers may be alike by chance; the texts decide.
            matches = [row for row in hits if not wanted.isdisjoint(_sides(PairPart.__getitem__(part, row)))]
            rows = np.arange(len(part), dtype=np.uint32) if part.kept is None else part.kept
            rows_left = part.kept if not matches else np.delete(rows, matches)
            parts.append(PairPart(part.rows, part.source_language, part.target_language, rows_left))
        table = PairRows(parts)
        return table, len(self) - len(table)


def _hits(part: PairPart, numbers: "Mapping[str, NDArray[np.uint64]]") -> list[int]:
    """Places in `part` whose source or target has one of the numbers of its language."""
    import numpy as np

    size = len(part.rows)
    mask = np.zeros(size, dtype=bool)
    for code, column in zip((part.source_language, part.target_language), part.columns(), strict=True):
        if code in numbers:
            for start in range(0, size, CHUNK_NUMBERS):
                is_match = np.isin(column(start, start + CHUNK_NUMBERS), numbers[code])
                mask[start : start + CHUNK_NUMBERS] |= is_match
    held = mask if part.kept is None else mask[part.kept]
    return [int(row) for row in np.flatnonzero(held)]


def _sides(pair: TranslationPair) -> tuple[tuple[str, str], tuple[str, str]]:
    return (pair.source_language, pair.source), (pair.target_language, pair.target)


def without_repeats(parts: Sequence[PairPart]) -> list[PairPart]:
    """`parts` of one target language without the pairs that came before."""
    first = first_rows([part.columns() for part in parts])
    return [
        PairPart(part.rows, part.source_language, part.target_language, rows)
        for part, rows in zip(parts, first, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class InstructionPart:
    """Instructions of one source: a file of records a language, and which record of each makes which row.

    Attributes:
        files: id, instruction, input and output of each record, by language.
        rows: for each language, the record of every row.
        name: kind of the source, which content ids start with.
    """

    files: Mapping[str, RowFile]
    rows: "Mapping[str, NDArray[np.uint32]]"
    name: str

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    def __getitem__(self, index: int) -> ParallelInstruction:
        records = {code: file.fields(int(self.rows[code][index])) for code, file in self.files.items()}
        prompts = {code: prompt_of(record[1], record[2]) for code, record in records.items()}
        responses = {code: record[3] for code, record in records.items()}
        identifier = next(iter(records.values()))[0]
        return ParallelInstruction(prompts, responses, f"{self.name}:{identifier}", "instruction")

    def __iter__(self) -> Iterator[ParallelInstruction]:
        return (self[index] for index in range(len(self)))


class InstructionRows(_Parts[ParallelInstruction]):
    """Parallel instructions of several sources."""


def prompt_of(instruction: str, context: str) -> str:
    """The prompt of a record: its instruction followed by its input; "" without an instruction."""
    return f"{instruction} {context}".rstrip() if instruction else ""
