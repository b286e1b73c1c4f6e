"""Finds files whose names write a language otherwise than by its code: `news.zh_CN.txt`, `dev/zho_Hans.jsonl`."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from afp_ray.data.readers.archives import is_archive
from afp_ray.data.readers.columns import is_named_by, named
from afp_ray.data.readers.files import (
    SourceFile,
    expand_path,
    is_spare,
    members_of,
    plain_file,
    rows_file,
    two_files_fit,
)
from afp_ray.data.readers.folders import listed, walk
from afp_ray.errors import DataError
from afp_ray.languages import name_pattern

_PLACEHOLDER = re.compile(r"\{(source|target|language)\}")


def fitting(names: Iterable[str], template: str, *, pivot: str, language: str, side: str = "") -> list[str]:
    """Those of `names` that are `template` with its placeholders filled by any spelling of the languages."""
    codes = {"source": pivot, "target": language, "language": side or language}
    pattern, end, seen = "", 0, set[str]()
    for placeholder in _PLACEHOLDER.finditer(template):
        pattern += re.escape(template[end : placeholder.start()])
        # A placeholder that stands twice is written alike both times.
        pattern += (
            f"(?P={placeholder[1]})"
            if placeholder[1] in seen
            else f"(?P<{placeholder[1]}>{name_pattern(codes[placeholder[1]])})"
        )
        seen.add(placeholder[1])
        end = placeholder.end()
    whole = re.compile(pattern + re.escape(template[end:]))
    return [name for name in names if whole.fullmatch(name)]


def spelled(template: str, *, pivot: str, language: str, side: str = "") -> Path | None:
    """The file or folder that the path `template` names in another spelling of its languages; None without one.

    Args:
        template: a path with placeholders; an archive may stand in its middle.
        pivot, language, side: what fills `{source}`, `{target}` and `{language}`.
    Raises: DataError when several spellings are there.
    """
    path = expand_path(template)
    parts = path.parts if path.is_absolute() else (".", *path.parts)  # the first part may be the one that is spelled
    paths = [Path(parts[0])]
    for number, part in enumerate(parts[1:], start=1):
        if not is_named_by(part) and not any(map(_is_archive, paths)):
            paths = [path / part for path in paths]
            continue
        if any(map(_is_archive, paths)):
            rest = "/".join(parts[number:])
            members = ((path, [file.member for file in members_of(path)]) for path in paths if _is_archive(path))
            fits = ((path, fitting(names, rest, pivot=pivot, language=language, side=side)) for path, names in members)
            paths = [path / name for path, names in fits for name in names]
            break
        entries = ((path, sorted(entry.name for entry in path.iterdir())) for path in paths if path.is_dir())
        fits = ((path, fitting(names, part, pivot=pivot, language=language, side=side)) for path, names in entries)
        paths = [path / name for path, names in fits for name in names]
    paths = [path for path in paths if is_there(path)]
    if len(paths) > 1:
        raise two_files_fit([str(path) for path in paths], f"{Path(template).name} of {side or language}")
    return paths[0] if paths else None


def named_file(
    template: str, *, pivot: str, language: str, side: str = "", is_spelled: bool = True
) -> SourceFile | None:
    """The file of rows that `template` names by the codes of its languages, else in another spelling of them.

    Args:
        template: a path; without placeholders it is one file.
        pivot, language, side: what fills `{source}`, `{target}` and `{language}`.
        is_spelled: whether other spellings are looked for.
    Raises: DataError when several spellings are there, or several files in an archive may hold the rows.
    """
    file = rows_file(expand_path(named(template, pivot=pivot, language=language, side=side)))
    if file is not None or not is_spelled or not is_named_by(template):
        return file
    path = spelled(template, pivot=pivot, language=language, side=side)
    return rows_file(path) if path else None


def is_there(path: Path) -> bool:
    """Whether a file or folder lies at `path`, which may lead into an archive."""
    if path.exists():
        return True
    archive = next((part for part in path.parents if _is_archive(part)), None)
    return archive is not None and path.relative_to(archive).as_posix() in {file.member for file in members_of(archive)}


def sides_in(place: Path, *, pivot: str, language: str) -> tuple[SourceFile, SourceFile] | None:
    """Two files in a folder or archive whose names differ by the language alone: `corpus.en-zh.en`, `corpus.en-zh.zh`.

    Returns: the pivot's file and the other one; None when no two files are so named.
    Raises: DataError when several pairs are, or one side has several spellings.
    """
    files = list(_files_in(place))
    of_each_side = [_by_template(files, code) for code in (pivot, language)]
    both = [template for template in of_each_side[0] if template in of_each_side[1]]
    # `en/news.en` is both `*/news.en` and `*/news.*`: the same files are one pair, whichever of them is seen.
    pairs = {tuple(_chosen(side[template], template) for side in of_each_side): template for template in both}
    if len(pairs) > 1:
        names = sorted(template.replace("*", "{language}") for template in pairs.values())
        raise DataError(
            f"{len(pairs)} pairs of files of {pivot} and {language} lie there: {listed(names)}",
            where=str(place),
            allowed="one file a side",
            fix=f"say which, with {{language}} for the side's language: {place}/{names[0]}",
        )
    return next(((first, second) for first, second in pairs), None)


def _by_template(files: Iterable[tuple[str, SourceFile]], code: str) -> dict[str, list[tuple[bool, SourceFile]]]:
    """Files by their name with `*` for the language, and whether it is written by its code."""
    tag = re.compile(rf"(?<![A-Za-z0-9])({name_pattern(code)})(?![A-Za-z0-9])")
    by_template: dict[str, list[tuple[bool, SourceFile]]] = {}
    for name, file in files:
        spots = list(tag.finditer(name))
        templates = {f"{name[: spot.start()]}*{name[spot.end() :]}": spot[1] == code for spot in spots}
        if spots:
            templates[tag.sub("*", name)] = all(spot[1] == code for spot in spots)
        for template, is_code in templates.items():
            by_template.setdefault(template, []).append((is_code, file))
    return by_template


def _chosen(files: list[tuple[bool, SourceFile]], template: str) -> SourceFile:
    """The file that is named by the code itself, else the only one."""
    own = [file for is_code, file in files if is_code] or [file for _, file in files]
    if len(own) > 1:
        raise two_files_fit([file.label for file in own], template)
    return own[0]


def _files_in(place: Path) -> Iterator[tuple[str, SourceFile]]:
    """Name from `place` on, and file."""
    if _is_archive(place):
        yield from ((file.member, file) for file in members_of(place))
        return
    for path in walk(place):
        if not is_spare(path.name) and path.is_file():
            yield path.relative_to(place).as_posix(), plain_file(path)


def _is_archive(path: Path) -> bool:
    return is_archive(path.name) and path.is_file()
