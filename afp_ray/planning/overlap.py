"""Finds evaluation rows whose text also stands in the training rows: exactly, or by a long run of words.

The evaluation side is small and is kept as 64-bit hashes; the training side is read once, text by text, and may be of
any size. A text counts from `MIN_WORDS` words on (`MIN_CHARACTERS` characters where a script writes no word space): a
name or a "yes" that stands in both tells nothing. A short sentence may stand in both by chance, "He went to the shop.";
a row is suspect when training has every text of it, or a run of `NUM_WORDS` words of one; in scripts without word space
of as many characters as write about so many words.

Source: 13-word overlap as in Language Models are Few-Shot Learners, arXiv:2005.14165, appendix C.
"""

import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from afp_ray.config import DIRECTIONS, SPLITS, EvaluationConfig, Split
from afp_ray.evaluation.prompts import generation_languages, load_direction, sides, task_of
from afp_ray.evaluation.questions import load_rows
from afp_ray.evaluation.task import Row
from afp_ray.evaluation.tasks import choice_task
from afp_ray.languages import find_language
from afp_ray.records.plans import Overlap, OverlapExample, OverlapReport

NUM_WORDS = 13
"""Length of a run of words that both sides share."""
NUM_CHARACTERS = {"Hans": 30, "Hant": 30, "Jpan": 30, "Thai": 60, "Laoo": 60, "Khmr": 60, "Mymr": 60, "Tibt": 60}
"""The same by script, where one writes no word space: a Chinese word has two characters, a Thai one four or five."""
OTHER_CHARACTERS = 60
"""Of a script that is not among them."""
MIN_WORDS = 4
MIN_CHARACTERS = 8
_NO_TEXT = frozenset({"label", "question", "answer", "AnswerRightEnding"})
"""Fields of the choice tasks that are no text to read."""

Text = tuple[str, str]
"""Language code and text."""


@dataclass(slots=True)
class Cell:
    """One task in one language on one split, with what of it was seen in training."""

    task: str
    language: str
    split: Split
    rows: Sequence[Row]
    fields: Mapping[str, str]
    """Language of each field that is text to read."""
    num_texts: dict[int, int] = field(default_factory=dict)
    known: dict[int, set[str]] = field(default_factory=dict)
    exact: set[int] = field(default_factory=set)
    contained: set[int] = field(default_factory=set)

    def suspects(self) -> set[int]:
        """Rows all of whose texts are known, or a long run of one."""
        return self.contained | {row for row, names in self.known.items() if len(names) == self.num_texts[row]}

    example: OverlapExample | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an evaluation text stands: cell, row of the cell, field; and whether it is long enough to tell anything."""

    cell: int
    row: int
    field: str
    is_long: bool


class _Hashes:
    """Hashes with the places that they came from, found by binary search; membership is a set."""

    def __init__(self, found: Sequence[tuple[int, int]]) -> None:
        pairs = np.array(sorted(found), dtype=np.int64).reshape(-1, 2)
        self._keys: npt.NDArray[np.int64] = pairs[:, 0]
        self._places: npt.NDArray[np.int64] = pairs[:, 1]
        self.known = frozenset(self._keys.tolist())

    def places(self, key: int) -> list[int]:
        """Numbers of the places with this hash."""
        first, last = np.searchsorted(self._keys, key, "left"), np.searchsorted(self._keys, key, "right")
        return [int(place) for place in self._places[first:last]]


def find_overlap(
    config: EvaluationConfig, training: Iterable[Text], *, languages: Sequence[str], pivot: str
) -> OverlapReport:
    """Compare the evaluation rows of a trial with training texts.

    Args:
        config: what is scored; rows beyond `limit` are not looked at.
        training: every text that may be trained on, read once.
        languages: languages that are scored.
        pivot: language of the other side of a row in two languages.
    Returns: one entry for each task, language and split.
    Raises: TaskError, DataError or ConfigError for rows that cannot be read.
    """
    cells = list(evaluated_cells(config, languages, pivot))
    places: list[_Place] = []
    exact: list[tuple[int, int]] = []
    runs: list[tuple[int, int]] = []
    for number, cell in enumerate(cells):
        for index, row in enumerate(cell.rows):
            for name, code in cell.fields.items():
                words, is_long = normalized(str(row[name]), code)
                if not words:
                    continue
                cell.num_texts[index] = cell.num_texts.get(index, 0) + 1
                places.append(_Place(number, index, name, is_long))
                exact.append((hash(words), len(places) - 1))
                runs += [(key, len(places) - 1) for key in _runs(words, code)]
    whole, parts = _Hashes(exact), _Hashes(runs)
    num_texts = 0
    for language, text in training:
        num_texts += 1
        words, _ = normalized(text, language)
        if (key := hash(words)) in whole.known:
            for number in whole.places(key):
                _mark(cells, places[number], text, "exact")
        for key in parts.known.intersection(_runs(words, language)):
            for number in parts.places(key):
                _mark(cells, places[number], text, "contained")
    return OverlapReport(training_texts=num_texts, cells=tuple(_summary(cell) for cell in cells))


def normalized(text: str, language: str) -> tuple[str | tuple[str, ...], bool]:
    """What is compared: words in small letters without punctuation, or characters where no space is written.

    Returns: a tuple of words, or text without any space; and whether it is long enough to tell anything.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_separators()).split()
    row = find_language(language)
    if row is not None and not row.space:
        joined = "".join(folded)
        return joined, len(joined) >= MIN_CHARACTERS
    return tuple(folded), len(folded) >= MIN_WORDS


@cache
def _separators() -> Mapping[int, str]:
    """Punctuation, symbols and controls, each of which becomes a space; marks over letters stay."""
    return {code: " " for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] in "PSC"}


def run_limit(language: str) -> tuple[int, Literal["words", "characters"]]:
    """Length of a run that counts in a language, and what it counts."""
    row = find_language(language)
    if row is None or row.space:
        return NUM_WORDS, "words"
    return NUM_CHARACTERS.get(row.script, OTHER_CHARACTERS), "characters"


def _runs(words: str | tuple[str, ...], language: str) -> Iterator[int]:
    """Hashes of every run of the length that counts."""
    size, _ = run_limit(language)
    return (hash(words[start : start + size]) for start in range(len(words) - size + 1))


def evaluated_cells(config: EvaluationConfig, languages: Sequence[str], pivot: str) -> Iterator[Cell]:
    """What is scored: the rows of every task in every language, on both splits."""
    side, spoken = generation_languages(config, languages=languages, pivot=pivot)
    for name in (*config.tasks, *config.own_tasks):
        if name in config.choice_tasks:
            task = choice_task(name, config)
            for language in config.languages_of(name, languages):
                rows = load_rows(task, config.data_dir, language).splits
                fields = {field: language for field in task.fields if field not in _NO_TEXT}
                yield from (Cell(name, language, split, rows[split][: config.limit], fields) for split in SPLITS)
            continue
        for direction in (one for one in DIRECTIONS[name] if one in spoken):
            for language in spoken[direction]:
                rows = load_direction(direction, config, language=language, pivot=side).splits
                source, target = sides(direction, language=language, pivot=side)
                fields = {"source": source, "target": target, **dict.fromkeys(task_of(direction).extra, target)}
                yield from (Cell(direction, language, split, rows[split][: config.limit], fields) for split in SPLITS)


def _mark(cells: Sequence[Cell], place: _Place, training: str, kind: Literal["exact", "contained"]) -> None:
    cell = cells[place.cell]
    if kind == "contained":
        cell.contained.add(place.row)
    else:
        cell.known.setdefault(place.row, set()).add(place.field)
        if not place.is_long:
            return
        cell.exact.add(place.row)
    if cell.example is None or (cell.example.kind == "exact" and kind == "contained"):
        row = cell.rows[place.row]
        text = str(row[place.field])
        run, length = longest_run(text, training, cell.fields[place.field]) if kind == "contained" else (None, 0)
        cell.example = OverlapExample(
            row=str(row.get("id", place.row)),
            field=place.field,
            kind=kind,
            text=text,
            training=training,
            run=run,
            run_length=length,
        )


def longest_run(text: str, training: str, language: str) -> tuple[str, int]:
    """The longest run of words, or characters, that two texts share, and its length."""
    (ours, _), (theirs, _) = (normalized(side, language) for side in (text, training))
    match = SequenceMatcher(None, ours, theirs, autojunk=False).find_longest_match()
    run = ours[match.a : match.a + match.size]
    return run if isinstance(run, str) else " ".join(run), match.size


def _summary(cell: Cell) -> Overlap:
    limit, unit = run_limit(cell.language)
    return Overlap(
        run_limit=limit,
        run_unit=unit,
        task=cell.task,
        language=cell.language,
        split=cell.split,
        rows=len(cell.rows),
        exact=len(cell.exact),
        contained=len(cell.contained - cell.exact),
        suspect=len(cell.suspects()),
        example=cell.example,
    )
