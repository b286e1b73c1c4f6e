"""Reads translation pairs: TSV, line-aligned files, TICO-19, Tatoeba, FLORES-200, NTREX-128, OPUS-100, Bactrian-X."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from afp_ray.config import SourceConfig
from afp_ray.data.readers import bactrian_x, opus100
from afp_ray.data.readers.files import SourceFile, clean, expand_path, find, plain_file, read_lines
from afp_ray.data.readers.report import RawRow, ReadReport
from afp_ray.data.readers.scripts import columns_are_swapped
from afp_ray.data.rows import TranslationPair
from afp_ray.errors import DataError
from afp_ray.languages import LANGUAGES

Files = tuple[SourceFile, ...]
"""Files that hold both sides, or the pivot's file and the other language's."""

# Where a corpus names a language otherwise than by its ISO 639-3 code.
TATOEBA_CODES = {"zh": "cmn", "ar": "ara"}
TICO19_CODES = {"ar": "ara", "sw": "swa"}
FLORES_CODES = {"ko": "kor_Hang", "qu": "quy_Latn"}
NTREX_CODES = {"zh": "zho-CN", "sw": "swa"}
NUMBERED = ("tico19", "flores", "ntrex")
"""Corpora whose line number names the same content in every language."""


@dataclass(frozen=True, slots=True)
class PairRows:
    """Pairs of one language from one source.

    Attributes:
        pairs: kept rows in the order of the file.
        lines: 0-based line of each pair.
        num_lines: lines of the file, refused ones included.
        report: counts by reason.
    """

    pairs: list[TranslationPair]
    lines: list[int]
    num_lines: int
    report: ReadReport


def locate(source: SourceConfig, *, pivot: str, language: str) -> Files | None:
    """Files that hold pairs of `pivot` and `language`.

    Returns: the files; None when the corpus is there and lacks the language.
    Raises: DataError when the corpus is not there, or its path cannot name files of two languages.
    """
    return _LAYOUTS[source.kind](source.path or "", pivot, language)


def read_pairs(source: SourceConfig, files: Files, *, pivot: str, language: str) -> PairRows:
    """Pairs in `files`, normalised, without rows that are ragged, empty or equal on both sides.

    Raises: DataError when no row is usable, the sides have different numbers of lines, a file is not UTF-8, or the
        columns are swapped.
    """
    report = ReadReport(f"{source.kind} {' + '.join(file.label for file in files)}", language)
    pairs, lines = [], []
    for line, row in enumerate(_rows(source.kind, files, pivot=pivot, language=language)):
        report.num_read += 1
        sides = [clean(side) for side in row.sides]
        reason = row.refusal or _refusal(sides)
        if reason:
            report.refuse(reason)
            continue
        number = str(line + 1) if source.kind in NUMBERED else ""
        name = row.name or number or hashlib.sha256(sides[0].encode()).hexdigest()[:12]
        pairs.append(TranslationPair(sides[0], sides[1], pivot, language, f"{source.kind}:{name}"))
        lines.append(line)
    report.num_kept = len(pairs)
    report.require_rows(_FORMS.get(source.kind, "give two files whose lines translate each other"))
    if columns_are_swapped(pairs):
        raise DataError(
            f"the first column is written in {LANGUAGES[language].name} script and the second is not",
            where=files[0].label,
            allowed=f"{pivot} first, then {language}",
            fix="swap the two sides",
        )
    return PairRows(pairs, lines, report.num_read, report)


_FORMS = {
    "tsv": "write each row as pivot sentence, tab, sentence of the other language",
    "opus100": "give the files of the language pair as OPUS-100 releases them",
    "bactrian_x": "give files of the same release: their records share their ids",
}


def _refusal(sides: Sequence[str]) -> str:
    if len(sides) != 2:
        return "ragged"
    if not all(sides):
        return "empty"
    if "\0" in sides[0] + sides[1]:
        return "control"
    return "identical" if sides[0] == sides[1] else ""


def _rows(kind: str, files: Files, *, pivot: str, language: str) -> Iterator[RawRow]:
    if kind == "opus100":
        return opus100.pair_rows(files, pivot=pivot, language=language)
    if kind == "bactrian_x":
        return bactrian_x.pair_rows(*files)
    if len(files) == 1:
        return (RawRow(line.split("\t")) for line in read_lines(files[0]))
    return (RawRow(sides) for sides in _sides(files))


def _sides(files: Files) -> Iterator[Sequence[str]]:
    first, second = (read_lines(file) for file in files)
    if len(first) != len(second):
        raise DataError(
            f"{len(first)} lines, but {files[1].label} has {len(second)}",
            where=f"{files[0].label}:{min(len(first), len(second)) + 1}",
            allowed="the same number of lines on both sides",
            fix="give files whose lines translate each other",
        )
    return zip(first, second, strict=True)


def _named(path: str, *, pivot: str, language: str, side: str = "") -> str:
    """`path` with its placeholders filled in."""
    values = {"{source}": pivot, "{target}": language, "{language}": side}
    for placeholder, value in values.items():
        path = path.replace(placeholder, value)
    return path


def _existing(path: str) -> SourceFile | None:
    expanded = expand_path(path)
    return plain_file(expanded) if expanded.exists() or expanded.is_symlink() else None


def _locate_tsv(path: str, pivot: str, language: str) -> Files | None:
    if "{target}" not in path:
        return (plain_file(expand_path(_named(path, pivot=pivot, language=language))),)
    file = _existing(_named(path, pivot=pivot, language=language))
    return (file,) if file else None


def _locate_aligned(path: str, pivot: str, language: str) -> Files | None:
    """`{language}` in the path is the side's own language, with one of `{source}` and `{target}` standing for it too.

    A path with both `{source}` and `{target}` and no `{language}` names a pair of Moses files: `corpus.en-zh` is
    `corpus.en-zh.en` and `corpus.en-zh.zh`. The two codes may stand in either order, as OPUS sorts them.
    """
    if "{source}" in path and "{target}" in path:
        template = path if "{language}" in path else path + ".{language}"
    else:
        template = path.replace("{source}", "{language}").replace("{target}", "{language}")
    if "{language}" not in template:
        raise DataError(
            "the path of aligned files does not say where the language stands",
            where=path,
            allowed="{target} for the language of the file, or {source} and {target} for corpus.en-zh.en",
            fix="put {target} in the path, for instance news.{target}.txt",
        )
    for first, second in ((pivot, language), (language, pivot)):
        sides = [_existing(_named(template, pivot=first, language=second, side=side)) for side in (pivot, language)]
        if sides[0] and sides[1]:
            return sides[0], sides[1]
    return None


def _both(root: str, pivot_names: Sequence[str], language_names: Sequence[str]) -> Files | None:
    first, second = find(root, pivot_names), find(root, language_names)
    return (first, second) if first and second else None


def _locate_tico19(path: str, pivot: str, language: str) -> Files | None:
    """One folder for all languages, or one a pair: the English of the pairs differs in a few lines."""
    codes = [TICO19_CODES.get(code, LANGUAGES[code].code3) for code in (pivot, language)]
    names = [[f"tico19-test.{code}"] for code in codes]
    if "eng" in codes:
        other = codes[1] if codes[0] == "eng" else codes[0]
        names = [[f"eng-{other}/{side[0]}", *side] for side in names]
    return _both(path, *names)


def _locate_tatoeba(path: str, pivot: str, language: str) -> Files | None:
    """Every file pairs a language with English."""
    expand_path(path)
    codes = [TATOEBA_CODES.get(code, LANGUAGES[code].code3) for code in (pivot, language)]
    if "eng" not in codes:
        return None
    other = codes[1] if codes[0] == "eng" else codes[0]
    return _both(path, *([f"tatoeba.{other}-eng.{code}"] for code in codes))


def _locate_flores(path: str, pivot: str, language: str) -> Files | None:
    rows = [LANGUAGES[code] for code in (pivot, language)]
    codes = [FLORES_CODES.get(row.code, f"{row.code3}_{row.script}") for row in rows]
    return _both(path, *([f"{code}.devtest", f"devtest/{code}.devtest"] for code in codes))


def _locate_ntrex(path: str, pivot: str, language: str) -> Files | None:
    """English is the source of every translation, and named so."""
    names = []
    for code in (pivot, language):
        code3 = NTREX_CODES.get(code, LANGUAGES[code].code3)
        name = f"newstest2019-{'src' if code == 'en' else 'ref'}.{code3}.txt"
        names.append([name, f"NTREX-128/{name}"])
    return _both(path, *names)


def _locate_bactrian_x(path: str, pivot: str, language: str) -> Files | None:
    return _both(path, *(bactrian_x.file_names(code) for code in (pivot, language)))


_LAYOUTS: Mapping[str, Callable[[str, str, str], Files | None]] = {
    "tsv": _locate_tsv,
    "aligned": _locate_aligned,
    "tico19": _locate_tico19,
    "tatoeba": _locate_tatoeba,
    "flores": _locate_flores,
    "ntrex": _locate_ntrex,
    "opus100": opus100.locate,
    "bactrian_x": _locate_bactrian_x,
}
PAIR_KINDS = tuple(_LAYOUTS)
"""Source kinds that are files of translation pairs."""
