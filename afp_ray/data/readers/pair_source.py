"""A kind of source of another package: where the files of two languages lie, and the rows that it reads from them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from afp_ray.config.data import SOURCE_KINDS
from afp_ray.data.readers.files import SourceFile, expand_path, plain_file
from afp_ray.data.readers.report import RawRow
from afp_ray.plugins import Plugin


@dataclass(frozen=True, slots=True)
class PairSource:
    """Translation pairs of a corpus that this package does not know; an entry point of `afp_ray.sources` names one.

    Attributes:
        locate: (the source's path, pivot, language) -> the files that hold their pairs; None where the corpus lacks
            the language.
        read: (these files, pivot, language) -> (sentence of the pivot, sentence of the language) of each row, in order.
            Empty, equal, repeated and overlong rows are refused and counted by us.
    """

    locate: Callable[[Path, str, str], tuple[Path, ...] | None]
    read: Callable[[tuple[Path, ...], str, str], Iterable[tuple[str, str]]]


def plugin_of(kind: str) -> Plugin | None:
    """The plug-in that reads sources of this kind; None for a kind of ours."""
    return None if kind in SOURCE_KINDS.own else SOURCE_KINDS.plugins().get(kind)


@cache
def reader_of(plugin: Plugin) -> PairSource:
    """What reads the sources of a plug-in.

    Raises: ConfigError when it cannot be imported, or is no `PairSource`.
    """
    reader: PairSource = plugin.load(PairSource)
    return reader


def locate(plugin: Plugin, path: str, pivot: str, language: str) -> tuple[SourceFile, ...] | None:
    """The files of two languages.

    Raises: DataError when one of them is not there.
    """
    find = plugin.guarded(reader_of(plugin).locate, "cannot find its files")
    files = find(expand_path(path), pivot, language)
    return None if files is None else tuple(plain_file(Path(file)) for file in files)


def read(plugin: Plugin, files: Sequence[SourceFile], pivot: str, language: str) -> Iterator[RawRow]:
    """The rows of these files, in the order of the plug-in."""
    with plugin.answering("cannot read its files"):
        for sides in reader_of(plugin).read(tuple(Path(file.path) for file in files), pivot, language):
            yield RawRow(tuple(sides))


def key_of(kind: str) -> str:
    """What beside the bytes of files decides the rows of a kind: the version of the package that reads them."""
    plugin = plugin_of(kind)
    return "" if plugin is None else f" {plugin.package} {plugin.version}"
