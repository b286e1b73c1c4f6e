"""Names what lies in the folder or archive of a source and is not read, so that nothing is passed over unseen."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from afp_ray.data.readers.archives import is_archive
from afp_ray.data.readers.columns import is_named_by
from afp_ray.data.readers.files import SourceFile, expand_path, members_of
from afp_ray.data.readers.folders import listed, walk_lazily
from afp_ray.errors import DataError
from afp_ray.languages import name_pattern

MAX_LISTED = 20_000
"""Files of a folder that are looked at; a path may lead to a whole disk."""
NUM_NAMED = 5
"""Files of a folder that are named."""
# What a language may be written as, of which the table of languages need not know; these words are none.
_WORDS = (
    "all|bin|bpe|csv|dev|doc|idx|ids|ini|log|new|old|out|pdf|raw|ref|rst|src|tar|tgt|tgz|tmp|tok|tsv|txt|vcb|xml|zip"
)
_TAG = rf"(?!(?:{_WORDS})(?![a-z]))[a-z]{{2,3}}(?:[-_][A-Za-z]{{4}})?(?:[-_](?:[A-Za-z]{{2}}|\d{{3}}))?"


@dataclass(frozen=True, slots=True)
class UnreadFiles:
    """What is not read of one folder or archive.

    Attributes:
        where: the folder or archive.
        names: the first files that are not read, hidden ones and those of other languages left out.
        num_files: number of these files.
        num_other_languages: files that are named as those that are read, but for the language.
        is_cut: whether there are more files than were looked at, or a folder that cannot be entered.
    """

    where: str
    names: tuple[str, ...]
    num_files: int
    num_other_languages: int
    is_cut: bool = False

    def __str__(self) -> str:
        """One line that names them."""
        more = f" and {self.num_files - len(self.names)} more" if self.num_files > len(self.names) else ""
        parts = [", ".join(self.names) + more] if self.names else []
        if self.num_other_languages:
            parts.append(f"{self.num_other_languages} file{'s' * (self.num_other_languages > 1)} of other languages")
        cut = " (not all of it was looked at)" if self.is_cut else ""
        return f"not read in {self.where}: {'; '.join(parts)}{cut}"


def unread(read: Iterable[tuple[str, Iterable[SourceFile]]], codes: Sequence[str]) -> list[UnreadFiles]:
    """What is not read of the folders and archives that sources lie in.

    Args:
        read: path of a source as it was written, and files that are read from it; a path may come several times.
        codes: the languages that are read.
    """
    by_path: dict[str, set[SourceFile]] = {}
    for path, files in read:
        by_path.setdefault(path, set()).update(files)
    by_folder = (unread_at(path, files, codes=codes) for path, files in by_path.items())
    return [one for one in by_folder if one is not None]


def unread_at(path: str, read: Iterable[SourceFile], *, codes: Sequence[str]) -> UnreadFiles | None:
    """What lies at the path of a source and is not among the files `read`.

    Args:
        path: as the user wrote it; of a path with placeholders the folder before them.
        read: files of the languages `codes`.
        codes: the languages that are read.
    Returns: None where everything is read, or the path is one plain file.
    """
    root, depth = _root_of(expand_path(path))
    used = list(read)
    held = {(os.path.realpath(file.path), file.member) for file in used}
    opened = {place for place, member in held if member}
    left: list[str] = []
    num_looked = 0
    is_cut = False
    try:
        for name, place, member in _files_at(root, depth, opened):
            num_looked += 1
            if num_looked > MAX_LISTED:
                is_cut = True
                break
            if (place, member) not in held and not any(part.startswith(".") for part in Path(name).parts):
                left.append(name)
    except DataError:  # a folder beside the files that are read: they are read all the same
        is_cut = True
    tag = re.compile(
        rf"(?<![A-Za-z0-9])(?:{'|'.join(map(name_pattern, dict.fromkeys(codes))) or '(?!)'})(?![A-Za-z0-9])"
    )
    # Other parts of a corpus are named where they are in a language that is read, and counted in all others.
    own = {name for name in left if tag.search(name)}
    shaped = {_TAG.join(map(re.escape, tag.split(name))) for name in (*own, *(_name(file, root) for file in used))}
    shapes = re.compile("|".join(sorted(shaped)) or "(?!)")
    names = [name for name in left if name in own or not shapes.fullmatch(name)]
    if not left:
        return None
    return UnreadFiles(str(root), tuple(names[:NUM_NAMED]), len(names), len(left) - len(names), is_cut)


def lying_at(path: str) -> str:
    """The first files at the path of a source, for a message; "" where there are none."""
    files = unread_at(path, (), codes=())
    return listed([*files.names, *([""] * (files.num_files - len(files.names)))], NUM_NAMED) if files else ""


def _root_of(path: Path) -> tuple[Path, int | None]:
    """The folder or archive of a source, and how deep its files lie; None for any depth."""
    parts = path.parts
    number = next((number_of_parts for number_of_parts, part in enumerate(parts) if is_named_by(part)), len(parts))
    for number_of_parts in range(1, number + 1):
        root = Path(*parts[:number_of_parts])
        if is_archive(root.name) and root.is_file():
            return root, None
    return Path(*parts[:number]), len(parts) - number or None


def _files_at(root: Path, depth: int | None, opened: set[str]) -> Iterator[tuple[str, str, str]]:
    """Name from `root` on, real place, and name inside it, of each file; of archives that were `opened` the members."""
    files: Iterable[Path] = ()
    if root.is_file():
        files = (root,) if is_archive(root.name) else ()
    elif root.is_dir():
        files = walk_lazily(root, depth=depth)
    for file in files:
        real_path = os.path.realpath(file)
        if file == root or (real_path in opened and is_archive(file.name)):
            prefix = "" if file == root else f"{file.relative_to(root).as_posix()}/"
            yield from ((prefix + member.member, real_path, member.member) for member in members_of(file))
        else:
            yield file.relative_to(root).as_posix(), real_path, ""


def _name(file: SourceFile, root: Path) -> str:
    """Name of a file that is read from `root` on."""
    if file.path == str(root):
        return file.member
    name = os.path.relpath(file.path, root)
    return f"{name}/{file.member}" if file.member else name
