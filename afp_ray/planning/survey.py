"""Looks at what a user has on disk and says what each file, folder or model can serve a study as."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from afp_ray.config import ModelConfig, SourceConfig
from afp_ray.config.data import SourceKind
from afp_ray.config.model import EMBEDDED
from afp_ray.data.readers import instructions, jsonl
from afp_ray.data.readers.files import plain_file, without_packing
from afp_ray.data.readers.origins import INSTRUCTION_KINDS, languages_of
from afp_ray.errors import DataError, UserError
from afp_ray.evaluation.available import task_folders
from afp_ray.languages import is_known, known_codes, name_pattern
from afp_ray.models.describe import ModelDescription, describe
from afp_ray.models.packaged import PACKAGED

CORPORA: Final[tuple[SourceKind, ...]] = (
    *("flores", "ntrex", "tico19", "tatoeba", "opus100", "udhr", "bactrian_x", "xquad", "mt_bench"),
)
"""Kinds of source that are a folder whose files have names of their own."""
PIVOT = "en"
_TABLES, _OBJECTS = (".tsv",), (".jsonl", ".ndjson", ".json")
_COLUMNS = {
    "instruction": ("instruction", "prompt", "question"),
    "output": ("output", "response", "answer", "completion"),
    "input": ("input", "context"),
    "id": ("id", "idx", "uid"),
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Corpus:
    """A source of training rows.

    Attributes:
        source: as `data.sources` has it.
        pivot: code on one side of its pairs.
        pairs: codes that it has pairs of with the pivot.
        instructions: codes that it has instructions in, the pivot included.
    """

    source: SourceConfig
    pivot: str
    pairs: tuple[str, ...] = ()
    instructions: tuple[str, ...] = ()


@dataclass(slots=True)
class Survey:
    """What was found.

    Attributes:
        models: what each model is, by name.
        corpora: sources of training rows.
        beside: corpora that lie in a folder of tasks; they were not named themselves.
        data_dirs: folders that evaluation tasks read from, with the names of those tasks.
        unusable: by name, why nothing can be made of it.
    """

    models: dict[str, ModelDescription] = field(default_factory=dict)
    corpora: list[Corpus] = field(default_factory=list)
    beside: list[Corpus] = field(default_factory=list)
    data_dirs: dict[str, Sequence[str]] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)


def survey(names: Sequence[str]) -> Survey:
    """What the files, folders and models of `names` are; a folder of several things is looked into one level deep.

    Files whose names differ by their languages alone are one corpus: `pairs.en-th.tsv`, `pairs.en-zh.tsv`.
    """
    seen, files = Survey(), list[Path]()
    for name in names:
        try:
            _look_at(name, seen, files)
        except UserError as error:
            seen.unusable[name] = _reason(error)
    by_template: dict[str, dict[Path, _Name]] = {}
    for file in files:
        of_file = _named(file)
        by_template.setdefault(of_file.template, {})[file] = of_file
    for template, members in by_template.items():
        try:
            seen.corpora.append(_corpus_of(template, members))
        except UserError as error:
            seen.unusable[str(next(iter(members))) if len(members) == 1 else template] = _reason(error)
    return seen


def _reason(error: UserError) -> str:
    return f"{error.problem}{f'; {error.fix}' if error.fix else ''}"


def _look_at(name: str, seen: Survey, files: list[Path]) -> None:
    """Add what `name` is; files of rows are collected in `files`."""
    path = Path(name).expanduser()
    if name in (EMBEDDED, *PACKAGED) or (path / "config.json").is_file():
        seen.models[name] = describe(ModelConfig(name=name))
    elif path.is_dir():
        _look_into(path, seen, files)
    elif path.is_file():
        if _ending(path) not in (*_TABLES, *_OBJECTS):
            raise DataError(
                "neither a table (.tsv) nor a file of JSON objects (.jsonl)", fix="give it one of these forms"
            )
        files.append(path)
    elif _HUB_ID.fullmatch(name) and _ending(path) not in (*_TABLES, *_OBJECTS):
        seen.models[name] = describe(ModelConfig(name=name))
    else:
        raise DataError("there is no such file or folder", fix="check the path")


def _ending(path: Path) -> str:
    return Path(without_packing(path.name)).suffix.lower()


def _look_into(path: Path, seen: Survey, files: list[Path]) -> None:
    tasks = task_folders(path)
    if tasks:
        seen.data_dirs[str(path)] = sorted(tasks)
        inside = (entry for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.name.startswith("."))
        seen.beside += [corpus for entry in inside for corpus in _corpora_in(entry)]
        return
    of_parent = [name for name, folders in task_folders(path.parent).items() if path.name in folders]
    corpora = _corpora_in(path)
    seen.corpora += corpora
    if of_parent:
        seen.data_dirs[str(path.parent)] = sorted({*seen.data_dirs.get(str(path.parent), ()), *of_parent})
    if of_parent or corpora:
        return
    before = len(seen.models), len(seen.corpora), len(files)
    for entry in sorted(path.iterdir()):
        if entry.name.startswith(".") or (entry.is_file() and _ending(entry) not in (*_TABLES, *_OBJECTS)):
            continue
        if entry.is_file():
            files.append(entry)
        elif (entry / "config.json").is_file():
            _look_at(str(entry), seen, files)
        elif entry.is_dir():
            seen.corpora += _corpora_in(entry)
    if (len(seen.models), len(seen.corpora), len(files)) == before:
        raise DataError(
            "the folder holds no model, no corpus and no rows of a task",
            fix="`afp tasks --data-dir` says which files the tasks look for, docs/data.md those of the corpora",
        )


def _corpora_in(folder: Path) -> list[Corpus]:
    """What the corpora of known names have in a folder; none, one, or several of a folder that mixes them."""
    found = []
    for kind in CORPORA:
        source = SourceConfig(kind=kind, path=str(folder))
        pairs, told = _pairs_in(source), _instructions_in(source)
        if pairs or told:
            found.append(Corpus(source, PIVOT, pairs, told))
    return found


def _pairs_in(source: SourceConfig) -> tuple[str, ...]:
    """Languages that a corpus has pairs of; a folder that is none of its kind has none."""
    try:
        return tuple(languages_of(source, PIVOT))
    except UserError:
        return ()


def _instructions_in(source: SourceConfig) -> tuple[str, ...]:
    """Languages that a corpus has instructions in; none where it lacks the pivot."""
    if source.kind not in INSTRUCTION_KINDS:
        return ()
    try:
        codes = instructions.languages_of(source, PIVOT)
    except UserError:
        return ()
    return tuple(codes) if PIVOT in codes else ()


@dataclass(frozen=True, slots=True)
class _Name:
    """A file's path with `{source}` and `{target}` for the languages in its name, and those languages."""

    template: str
    pivot: str
    language: str


def _named(file: Path) -> _Name:
    """What the name of a file of rows says; of one language, the other side is taken to be English."""
    spots = []
    for code in known_codes():
        pattern = re.compile(rf"(?<![A-Za-z0-9]){name_pattern(code)}(?![A-Za-z0-9])")
        spots += [(spot.start(), spot.end(), code) for spot in pattern.finditer(file.name)]
    spots.sort()
    beside = [
        (left, right) for left, right in pairwise(spots) if file.name[left[1] : right[0]] in ("-", "_", ".", "-to-")
    ]
    beside.sort(key=lambda pair: file.name[pair[0][1] : pair[1][0]] != ".")
    fill = {}
    if beside:
        left, right = beside[-1]
        pivot = PIVOT if right[2] == PIVOT else left[2]
        fill = {spot[:2]: "{source}" if spot[2] == pivot else "{target}" for spot in (left, right)}
        language = right[2] if pivot == left[2] else left[2]
    elif spots:
        pivot, language = PIVOT, spots[-1][2]
        fill = {spots[-1][:2]: "{target}"}
    else:
        return _Name(str(file), "", "")
    name = file.name
    for (start, end), placeholder in sorted(fill.items(), reverse=True):
        name = name[:start] + placeholder + name[end:]
    return _Name(str(file.parent / name), pivot, language)


def _corpus_of(template: str, files: Mapping[Path, _Name]) -> Corpus:
    """The source that files of one template are.

    Raises: DataError when their names or rows do not say what they are.
    """
    names = list(files.values())
    first, pivot = next(iter(files)), names[0].pivot
    codes = tuple(name.language for name in names if name.pivot == pivot)
    if _ending(first) in _TABLES:
        _require_languages(first, codes)
        return Corpus(SourceConfig(kind="tsv", path=template), pivot, pairs=codes)
    row = next((row for row in jsonl.read_rows(plain_file(first)) if isinstance(row, dict)), None)
    if row is None:
        raise DataError("no line of it is a JSON object", fix="give one object a line")
    for prefix, inner in (("translation.", row.get("translation")), ("", row)):
        sides = (
            [key for key, text in inner.items() if is_known(key) and isinstance(text, str)]
            if isinstance(inner, dict)
            else []
        )
        if len(sides) > 1:
            pivot = PIVOT if PIVOT in sides else sides[0]
            columns = {side: f"{prefix}{{{side}}}" for side in ("source", "target")}
            source = SourceConfig(kind="jsonl", path=str(first), columns=columns)
            return Corpus(source, pivot, pairs=tuple(code for code in sides if code != pivot))
    if "source" in row and "target" in row:
        _require_languages(first, codes)
        columns = {"source": "source", "target": "target"}
        return Corpus(SourceConfig(kind="jsonl", path=template, columns=columns), pivot, pairs=codes)
    return _instructions(row, template.replace("{target}", "{language}"), [name.language for name in names], first)


def _instructions(row: Mapping[str, Any], template: str, codes: Sequence[str], first: Path) -> Corpus:
    columns = {column: next((key for key in keys if key in row), "") for column, keys in _COLUMNS.items()}
    lacking = [column for column in ("id", "instruction", "output") if not columns[column]]
    if lacking:
        raise DataError(
            f"its rows have {', '.join(map(str, row))}: neither two languages nor an instruction ({', '.join(lacking)} "
            "missing)",
            fix="name the columns yourself: kind: jsonl with `columns` (docs/study-file.md)",
        )
    _require_languages(first, codes)
    if PIVOT not in codes:
        raise DataError(f"instructions in {', '.join(codes)} and none in {PIVOT}", fix=f"give the file of {PIVOT} too")
    source = SourceConfig(kind="jsonl", path=template, columns={name: key for name, key in columns.items() if key})
    return Corpus(source, PIVOT, instructions=tuple(codes))


def _require_languages(file: Path, codes: Sequence[str]) -> None:
    if not all(codes):
        raise DataError(
            "its name does not say which languages it holds", fix=f"name it like {file.stem}.en-zh{file.suffix}"
        )
