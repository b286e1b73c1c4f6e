"""Reads translation pairs of any layout: normalised, counted, refused with a reason, kept in memory or on disk."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from afp_ray.config import SourceConfig
from afp_ray.data.readers import bactrian_x, hub, jsonl, opus100, pair_source, udhr
from afp_ray.data.readers.columns import columns_key, pair_row
from afp_ray.data.readers.files import clean, digest
from afp_ray.data.readers.layouts import PAIR_KINDS, Files, locate, locate_split
from afp_ray.data.readers.records import instruction_pairs, record_file
from afp_ray.data.readers.report import MAX_TEXT_CHARS, RawRow, ReadReport, is_text
from afp_ray.data.readers.scripts import NUM_SAMPLED, columns_are_swapped
from afp_ray.data.readers.sentences import form_key, pair_rows
from afp_ray.data.readers.streams import stream_lines
from afp_ray.data.row_cache import cached_rows
from afp_ray.data.row_file import RowFile, RowWriter, text_number
from afp_ray.data.row_tables import LINE, PairPart
from afp_ray.data.rows import TranslationPair
from afp_ray.errors import DataError
from afp_ray.languages import language_row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PAIR_KINDS", "FilePairs", "locate", "locate_split", "read_pairs"]

NUMBERED = ("tico19", "flores", "ntrex")
"""Corpora whose line number, or id, names the same content in every language."""
MAX_RECENT, MAX_RECENT_CHARS = 1 << 13, 1 << 10
"""Rows that are remembered while a file is read, so that a repeated one is dropped at once; how long each may be."""


@dataclass(frozen=True, slots=True)
class FilePairs:
    """Pairs of one language from one source.

    Attributes:
        pairs: kept rows in the order of the file.
        places: 0-based line of each pair, where the pairs are in memory.
        num_lines: lines of the file, refused ones included.
        report: counts by reason.
    """

    pairs: PairPart
    places: Sequence[int]
    num_lines: int
    report: ReadReport

    def lines(self) -> "Sequence[int] | NDArray[np.uint64]":
        """0-based line of each pair."""
        return self.pairs.rows.column(LINE) if isinstance(self.pairs.rows, RowFile) else self.places


def read_pairs(
    source: SourceConfig, files: Files, *, pivot: str, language: str, keep: bool = False, is_distinct: bool = False
) -> FilePairs:
    """Pairs in `files`, normalised, without rows that are ragged, empty, too long or equal on both sides.

    Args:
        source: kind and columns.
        files: where its rows lie.
        pivot, language: codes of the two sides.
        keep: whether the rows are kept on disk, in the cache of rows, rather than in memory.
        is_distinct: whether a row that repeats one of the last ones is dropped at once; pairs that are held out are not
            distinct before they are cut into halves.
    Raises: DataError when no row is usable, the sides have different numbers of lines, a file is not UTF-8, or the
        columns are swapped.
    """
    report = ReadReport(f"{source.kind} {' + '.join(file.label for file in files)}", language)
    rows = _Rows(source, files, pivot=pivot, language=language, keep=keep, report=report, is_distinct=is_distinct)
    if not keep:
        pairs, lines = [], []
        for line, pair in rows.usable():
            pairs.append(pair)
            lines.append(line)
        part = PairPart(pairs, pivot, language)
        rows.require(part)
        return FilePairs(part, lines, report.num_read, report)
    stored = cached_rows(rows.key(), rows.write, num_fields=3, num_columns=3)
    report.num_read, report.num_kept = stored.notes["num_read"], len(stored)
    report.refused.clear()
    report.refused.update(stored.notes["refused"])
    return FilePairs(PairPart(stored, pivot, language), (), report.num_read, report)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of one language on their way from the files."""

    source: SourceConfig
    files: Files
    pivot: str
    language: str
    keep: bool
    report: ReadReport
    is_distinct: bool

    def key(self) -> str:
        """What the rows depend on; OPUS says by the name of a file which column is which."""
        held = " ".join(f"{Path(file.label).name} {digest(file)}" for file in self.files) + form_key(
            self.source.kind, self.files
        )
        return f"pairs {self.source.kind} {self.pivot} {self.language} {columns_key(self.source)} {held}"

    def usable(self) -> Iterator[tuple[int, TranslationPair]]:
        """Line and pair of each row that is kept; the report counts along."""
        kind = self.source.kind
        recent: dict[tuple[str, ...], str] = {}
        for line, row in enumerate(self._raw()):
            self.report.num_read += 1
            raw = tuple(row.sides)
            # Rows that repeat without end are gone here: they would fill the disk, and later the memory.
            if raw in recent and not row.refusal:
                self.report.refuse(recent[raw])
                continue
            sides = [clean(side) for side in row.sides]
            reason = row.refusal or _refusal(sides)
            if self.is_distinct and not row.refusal and sum(map(len, raw)) <= MAX_RECENT_CHARS:
                if len(recent) == MAX_RECENT:
                    recent.clear()
                recent[raw] = reason or "repeated"
            if reason:
                self.report.refuse(reason)
                continue
            number = str(line + 1) if kind in NUMBERED else ""
            name = row.name or number or hashlib.sha256(sides[0].encode()).hexdigest()[:12]
            self.report.num_kept += 1
            yield line, TranslationPair(sides[0], sides[1], self.pivot, self.language, f"{kind}:{name}")

    def write(self, writer: RowWriter) -> dict[str, object]:
        """Write every usable row."""
        sample: list[TranslationPair] = []
        step = 1
        for line, pair in self.usable():
            if writer.num_rows % step == 0:
                sample.append(pair)
                if len(sample) > 2 * NUM_SAMPLED:
                    sample, step = sample[::2], step * 2
            numbers = (text_number(pair.source), text_number(pair.target), line)
            writer.append((pair.source, pair.target, pair.content_id), numbers)
        self.require(sample)
        return {"num_read": self.report.num_read, "refused": dict(self.report.refused)}

    def require(self, sample: Sequence[TranslationPair] | PairPart) -> None:
        """Refuse a source without a usable row, and one whose two sides were swapped.

        Raises: DataError with the reasons.
        """
        self.report.require_rows(_FORMS.get(self.source.kind, "give two files whose lines translate each other"))
        step = max(1, len(sample) // NUM_SAMPLED)
        if columns_are_swapped([sample[index] for index in range(0, len(sample), step)]):
            raise DataError(
                f"the first column is written in {language_row(self.language).name} script and the second is not",
                where=self.files[0].label,
                allowed=f"{self.pivot} first, then {self.language}",
                fix="swap the two sides",
            )

    def _raw(self) -> Iterator[RawRow]:
        source, files, pivot, language = self.source, self.files, self.pivot, self.language
        if source.kind == "opus100":
            return opus100.pair_rows(files, pivot=pivot, language=language)
        if source.kind == "bactrian_x":
            return instruction_pairs(self._records(0), self._records(1))
        if source.kind == "udhr":
            return udhr.pair_rows(*files)
        if (plugin := pair_source.plugin_of(source.kind)) is not None:
            return pair_source.read(plugin, files, pivot, language)
        if source.kind in ("jsonl", "datasets"):
            rows = jsonl.read_rows(files[0]) if source.kind == "jsonl" else hub.read_rows(files)
            return (pair_row(row, source, pivot=pivot, language=language) for row in rows)
        if len(files) == 1:
            return (_split(line) for line in stream_lines(files[0]))
        return pair_rows(files, (pivot, language))

    def _records(self, place: int) -> RowFile:
        file = self.files[place]
        return record_file(lambda: bactrian_x.read_records(file), bactrian_x.key(file) if self.keep else None)


_FORMS = {
    "tsv": "write each row as pivot sentence, tab, sentence of the other language",
    "opus100": "give the files of the language pair as OPUS-100 releases them",
    "bactrian_x": "give files of the same release: their records share their ids",
    "udhr": "give the declarations as HTML, each article in <article data-number=...> with its paragraphs",
    "jsonl": "name the columns that hold the two sides in `columns`",
    "datasets": "name the columns that hold the two sides in `columns`",
}


def _refusal(sides: Sequence[str]) -> str:
    if len(sides) != 2:
        return "ragged"
    if not all(sides):
        return "empty"
    if max(map(len, sides)) > MAX_TEXT_CHARS:
        return "too_long"
    if "\0" in sides[0] or "\0" in sides[1]:
        return "control"
    if not is_text(sides[0]) or not is_text(sides[1]):
        return "not_text"
    return "identical" if sides[0] == sides[1] else ""


def _split(line: str | None) -> RawRow:
    return RawRow((), refusal="too_long") if line is None else RawRow(line.split("\t"))
