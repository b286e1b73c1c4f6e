"""Joins instruction records (id, instruction, input, output; one file a language) by their ids, on disk."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from afp_ray.data.readers.files import clean
from afp_ray.data.readers.report import MAX_TEXT_CHARS, RawRow, ReadReport, is_text
from afp_ray.data.row_cache import cached_rows, private_rows
from afp_ray.data.row_file import RowFile, RowWriter, text_number
from afp_ray.data.row_tables import InstructionPart, prompt_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME, FLAW = 0, 1
"""Columns of a file of records: `text_number` of the id, and the place in `FLAWS` of what is wrong with the record."""
FLAWS = ("", "empty", "too_long", "not_text")


class Record(NamedTuple):
    """One record; texts are "" where the file leaves them empty."""

    identifier: str
    instruction: str
    input: str
    output: str


Records = Callable[[], Iterable[Record | str]]
"""Reads the records of one language again; a text stands for a row that is no record, and says why."""


def record_file(read: Records, key: str | None) -> RowFile:
    """The records of one language on disk.

    Args:
        read: reads them.
        key: names all that they depend on, so that they are read once; None reads them for this process alone.
    """

    def build(writer: RowWriter) -> dict[str, dict[str, int]]:
        refused: Counter[str] = Counter()
        for held in read():
            if isinstance(held, str):
                refused[held] += 1
                continue
            texts = [clean(text) for text in held]
            flaw = _flaw(texts)
            if flaw > 1:  # such texts are never handed on
                texts = [texts[0] if is_text(texts[0]) else "", "", "", ""]
            writer.append(texts, (text_number(texts[0]), flaw))
        return {"refused": dict(refused)}

    shape = {"num_fields": 4, "num_columns": 2}
    return cached_rows(f"records {key}", build, **shape) if key is not None else private_rows(build, **shape)


def join_records(files: Mapping[str, RowFile], report: ReadReport, *, name: str) -> InstructionPart:
    """The records that every language has and that are usable in all, in the order of the first language.

    Args:
        files: records by language.
        report: is filled in.
        name: kind of the source.
    """
    import numpy as np

    (_, first), *others = files.items()
    rows, keys = _own_rows(first)
    refused = Counter(first.notes["refused"])
    report.num_read = len(first) + refused.total()
    has_all = np.ones(len(rows), dtype=bool)
    rows_of_each = [rows]
    for _, file in others:
        records, is_there = _places(file, keys)
        rows_of_each.append(records)
        has_all &= is_there
    flaws = np.max([file.column(FLAW)[np.where(has_all, records, 0)] if len(file) else np.zeros(len(rows), np.uint64)
                    for file, records in zip(files.values(), rows_of_each, strict=True)], axis=0)  # fmt: skip
    usable = has_all & (flaws == 0)
    refused += Counter(repeated=len(first) - len(rows), unmatched=int((~has_all).sum()))
    refused += Counter({flaw: int((has_all & (flaws == number)).sum()) for number, flaw in enumerate(FLAWS) if number})
    report.refused = refused
    report.num_kept = int(usable.sum())
    rows_by_language = {
        code: records[usable].astype(np.uint32) for code, records in zip(files, rows_of_each, strict=True)
    }
    return InstructionPart(files, rows_by_language, name)


def instruction_pairs(pivot: RowFile, other: RowFile) -> Iterator[RawRow]:
    """The instruction fields of both files, in the order of the pivot's; inputs and outputs are no translations."""
    import numpy as np

    rows, keys = _own_rows(pivot)
    places, is_there = _places(other, keys)
    by_row = np.full(len(pivot), -1, dtype=np.int64)
    by_row[rows] = np.where(is_there, places, -2)
    for place, record in zip(by_row, pivot, strict=True):
        refusal = "repeated" if place == -1 else "unmatched" if place == -2 else ""
        yield RawRow((record[1], "" if refusal else other.fields(int(place))[1]), record[0], refusal)


def _flaw(texts: list[str]) -> int:
    if not all(is_text(text) for text in texts):
        return FLAWS.index("not_text")
    if max(map(len, texts)) > MAX_TEXT_CHARS:
        return FLAWS.index("too_long")
    return FLAWS.index("" if prompt_of(texts[1], texts[2]) and texts[3] else "empty")


def _own_rows(file: RowFile) -> "tuple[NDArray[np.int64], NDArray[np.uint64]]":
    """The first record of each id, in order, and the numbers of their ids."""
    import numpy as np

    keys = file.column(NAME)
    rows = np.sort(np.unique(keys, return_index=True)[1])
    return rows, keys[rows]


def _places(file: RowFile, keys: "NDArray[np.uint64]") -> "tuple[NDArray[np.int64], NDArray[np.bool_]]":
    """The first record in `file` of each of `keys`, and whether there is one."""
    import numpy as np

    names, rows = np.unique(file.column(NAME), return_index=True)
    if not len(names):
        return np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=bool)
    near = np.minimum(np.searchsorted(names, keys), len(names) - 1)
    return rows[near], names[near] == keys
