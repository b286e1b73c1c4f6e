"""The Language Confusion Benchmark: whether every line of an answer is in its language, and free of English words.

    answer  --cut at "\\nQ:", ASCII punctuation off-->  lines of five words or more  --language of each-->  verdict

An answer passes by lines when all of its lines are in the language; of those, it passes by words when no English word
of more than three lower-case letters stands in it, which is asked of languages in other scripts alone. Rates are means
over the answers of a language, then over the languages. An answer without a line of five words is judged by neither.

The published code splits Chinese and Japanese into words by a segmenter. Here two characters count as one, which
decides nothing but which lines are long enough; an English word in such a text is a run of Latin letters.

Files: answers as they were published, a CSV (or .csv.gz) with `model`, `completion`, `task` and `language`; the list
`words` (or words.gz) of the benchmark beside it.

Source: arXiv:2406.20052.
"""

import csv
import io
import re
import string
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

from afp_ray.data.identification import Identifier, identifier_signature, identify
from afp_ray.data.readers.files import plain_file
from afp_ray.data.readers.streams import read_text
from afp_ray.errors import DataError
from afp_ray.records.confusion import ConfusionAnswer, LanguageConfusion

MIN_WORDS = 5
"""Of a line that is judged."""
MIN_CONFIDENCE = 0.3
"""Guesses at or below this probability are of no language."""
WORDS_JUDGED = frozenset({"ar", "hi", "ja", "ko", "ru", "zh"})
"""Languages in whose script an English word is told from the rest."""
_UNSPACED = frozenset({"ja", "zh"})
_CHARACTERS_PER_WORD = 2
_COLUMNS = ("model", "completion", "task", "language")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_LATIN = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one answer is found to be.

    Attributes:
        passes_lines: all its lines are in the language; null without a line that is long enough.
        passes_words: no English word stands in it; null where that is not asked.
    """

    passes_lines: bool | None
    passes_words: bool | None = None


def judge(
    answer: str, language: str, *, english: frozenset[str] | None = None, by: Identifier = "py3langid"
) -> Judgement:
    """Judge one answer.

    Args:
        answer: as the model wrote it.
        language: that was asked for.
        english: English words; null judges no words.
        by: what identifies languages.
    """
    text = answer.partition("\nQ:")[0].translate(_NO_PUNCTUATION)
    lines = [line for line in text.split("\n") if _num_words(line, language) >= MIN_WORDS]
    if not lines:
        return Judgement(None)
    if not all(_is_in(line, language, by) for line in lines):
        return Judgement(False)
    if english is None or language not in WORDS_JUDGED:
        return Judgement(True)
    return Judgement(True, not any(word in english for word in _LATIN.findall(text)))


def score_answers(path: Path, *, by: Identifier = "py3langid") -> ConfusionAnswer:
    """Judge the answers of a file, by model, kind of prompt and language.

    Args:
        path: of the answers.
        by: what identifies languages.
    Raises: DataError when the file is missing, or has not the columns of the benchmark.
    """
    english, judged = _english_beside(path), defaultdict[tuple[str, str], dict[str, list[Judgement]]](dict)
    for row in _rows(path):
        languages = judged[row["model"], row["task"]]
        verdict = judge(row["completion"], row["language"], english=english, by=by)
        languages.setdefault(row["language"], []).append(verdict)
    if not judged:
        raise DataError("there is no answer in it", where=str(path), fix="give a file with a row for each answer")
    rows: list[LanguageConfusion] = []
    for (model, kind), languages in judged.items():
        of_languages = [_of_language(model, kind, language, answers) for language, answers in sorted(languages.items())]
        rows += [_mean(of_languages), *of_languages]
    notes = ["a word of Chinese and Japanese is two characters, for want of a segmenter"]
    if english is None:
        notes.append(f"words were not judged: no list of English words beside the answers ({path.parent}/words)")
    return ConfusionAnswer(file=str(path), signature=identifier_signature(by), rows=tuple(rows), notes=tuple(notes))


def _of_language(model: str, kind: str, language: str, answers: Sequence[Judgement]) -> LanguageConfusion:
    by_lines = [answer.passes_lines for answer in answers if answer.passes_lines is not None]
    return LanguageConfusion(
        model=model,
        kind=kind,
        language=language,
        answers=len(by_lines),
        skipped=len(answers) - len(by_lines),
        line_pass_rate=_share(by_lines),
        word_pass_rate=_share([answer.passes_words for answer in answers if answer.passes_words is not None]),
    )


def _mean(languages: Sequence[LanguageConfusion]) -> LanguageConfusion:
    by_lines = [row.line_pass_rate for row in languages if row.line_pass_rate is not None]
    by_words = [row.word_pass_rate for row in languages if row.word_pass_rate is not None]
    return LanguageConfusion(
        model=languages[0].model,
        kind=languages[0].kind,
        language=None,
        answers=sum(row.answers for row in languages),
        skipped=sum(row.skipped for row in languages),
        line_pass_rate=_share(by_lines),
        word_pass_rate=_share(by_words),
    )


def _share(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _num_words(line: str, language: str) -> float:
    if language in _UNSPACED:
        return len("".join(line.split())) / _CHARACTERS_PER_WORD
    return len(line.split())


def _is_in(line: str, language: str, by: Identifier) -> bool:
    code, probability = identify(line, by=by)
    return code == language and probability > MIN_CONFIDENCE


def _rows(path: Path) -> Iterator[Mapping[str, str]]:
    if not path.is_file():
        raise DataError("there is no such file", where=str(path), fix="give a CSV of answers, or a .csv.gz")
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(io.StringIO(read_text(plain_file(path)), newline=""))
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(
            f"it has no column {' and no column '.join(missing)}",
            where=f"{path}:1",
            allowed=", ".join(_COLUMNS),
            fix="write answers as the benchmark publishes them",
        )
    for row in reader:
        if None in row.values():
            raise DataError("a row has fewer columns than the first line", where=f"{path}:{reader.line_num}")
        yield row


def _english_beside(path: Path) -> frozenset[str] | None:
    """The benchmark's list, from the folder of the answers; null where it is not there."""
    for name in ("words", "words.txt", "words.gz"):
        if (path.parent / name).is_file():
            return english_words(path.parent / name)
    return None


@cache
def english_words(path: Path) -> frozenset[str]:
    """Words of more than three letters, all lower-case, of a list with one a line."""
    words = map(str.strip, read_text(plain_file(path)).split("\n"))
    return frozenset(word for word in words if len(word) > 3 and word.islower())
