"""Finds the files of translation pairs, whichever way a corpus names them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from afp_ray import plugins
from afp_ray.config import SourceConfig, Split
from afp_ray.data.readers import bactrian_x, hub, jsonl, opus100, pair_source
from afp_ray.data.readers.archives import is_archive
from afp_ray.data.readers.codes import flores_names, ntrex_code, tatoeba_code, tico19_code, udhr_code
from afp_ray.data.readers.columns import is_named_by, named
from afp_ray.data.readers.files import SourceFile, expand_path, find, plain_file
from afp_ray.data.readers.spelling import named_file, sides_in, spelled
from afp_ray.errors import DataError
from afp_ray.plugins import Names

Files = tuple[SourceFile, ...]
"""Files that hold both sides, or the pivot's file and the other language's."""


def locate(source: SourceConfig, *, pivot: str, language: str) -> Files | None:
    """Files that hold pairs of `pivot` and `language`.

    Returns: the files; None when the corpus is there and lacks the language.
    Raises: DataError when the corpus is not there, or its path cannot name files of two languages.
    """
    if source.kind == "jsonl":
        return jsonl.locate(source, pivot=pivot, language=language)
    if source.kind == "datasets":
        return hub.locate(source, pivot=pivot, language=language)
    if (plugin := pair_source.plugin_of(source.kind)) is not None:
        return pair_source.locate(plugin, source.path or "", pivot, language)
    return _LAYOUTS[source.kind](source.path or "", pivot, language)


def locate_split(source: SourceConfig, split: Split, *, pivot: str, language: str) -> Files | None:
    """Files of a split that the corpus itself holds out; None when it holds out none, or not both."""
    splits = ("validation", "test")
    find_split = _SPLITS.get(source.kind)
    if find_split is None:
        return None
    by_split = {name: find_split(source.path or "", pivot, language, name) for name in splits}
    return by_split[split] if all(by_split.values()) else None


def _locate_tsv(path: str, pivot: str, language: str) -> Files | None:
    file = named_file(path, pivot=pivot, language=language)
    if file is None and "{target}" not in path:
        return (plain_file(expand_path(named(path, pivot=pivot, language=language))),)  # which says that it is missing
    return (file,) if file else None


def _locate_aligned(path: str, pivot: str, language: str) -> Files | None:
    """`{language}` in the path is the side's own language, with one of `{source}` and `{target}` standing for it too.

    A path with both `{source}` and `{target}` and no `{language}` names a pair of Moses files: `corpus.en-zh` is
    `corpus.en-zh.en` and `corpus.en-zh.zh`. The two codes may stand in either order, as OPUS sorts them. The path of an
    archive, or of a folder where no language stands in it, holds both sides.
    """
    orders = ((pivot, language), (language, pivot))
    for first, second in orders:
        inside = _inside(path, first, second)
        if inside is not None and (found := sides_in(inside, pivot=pivot, language=language)):
            return found
    if not is_named_by(path) and inside is not None:
        return None
    if "{source}" in path and "{target}" in path:
        template = path if "{language}" in path else path + ".{language}"
    else:
        template = path.replace("{source}", "{language}").replace("{target}", "{language}")
    if "{language}" not in template:
        if is_archive(path):
            plain_file(expand_path(path))  # says that it is not there
        raise DataError(
            "the path of aligned files does not say where the language stands",
            where=path,
            allowed="{target} for the language of the file, {source} and {target} for corpus.en-zh.en, or the folder "
            "or archive that holds both files",
            fix="put {target} in the path, for instance news.{target}.txt",
        )
    for is_spelled in (False, True):
        for first, second in orders:
            sides = [
                named_file(template, pivot=first, language=second, side=side, is_spelled=is_spelled)
                for side in (pivot, language)
            ]
            if sides[0] and sides[1]:
                return sides[0], sides[1]
    return None


def _inside(path: str, first: str, second: str) -> Path | None:
    """The archive at `path`, or the folder at a path without languages."""
    root = expand_path(named(path, pivot=first, language=second))
    if is_named_by(path) and not root.exists() and is_archive(path):
        root = spelled(path, pivot=first, language=second) or root
    if root.is_dir():
        return None if is_named_by(path) else root
    return root if is_archive(root.name) and root.is_file() else None


def _both(root: str, pivot_names: Sequence[str], language_names: Sequence[str]) -> Files | None:
    first, second = find(root, pivot_names), find(root, language_names)
    return (first, second) if first and second else None


def _locate_tico19(path: str, pivot: str, language: str) -> Files | None:
    """One folder for all languages, or one a pair: the English of the pairs differs in a few lines."""
    codes = [tico19_code(code) for code in (pivot, language)]
    names = [[f"tico19-test.{code}"] for code in codes]
    if "eng" in codes:
        other = codes[1] if codes[0] == "eng" else codes[0]
        names = [[f"eng-{other}/{side[0]}", *side] for side in names]
    return _both(path, *names)


def _locate_tatoeba(path: str, pivot: str, language: str) -> Files | None:
    """Every file pairs a language with English."""
    expand_path(path)
    codes = [tatoeba_code(code) for code in (pivot, language)]
    if "eng" not in codes:
        return None
    other = codes[1] if codes[0] == "eng" else codes[0]
    return _both(path, *([f"tatoeba.{other}-eng.{code}"] for code in codes))


def _locate_flores(path: str, pivot: str, language: str) -> Files | None:
    return _flores(path, pivot, language, "devtest")


def _flores(path: str, pivot: str, language: str, part: str) -> Files | None:
    names = (flores_names(code, part) for code in (pivot, language))
    texts, objects = zip(*names, strict=True)
    return _both(path, *texts) or _both(path, *objects)


def _flores_split(path: str, pivot: str, language: str, split: str) -> Files | None:
    """The release holds out `dev` for validation and `devtest` for the report."""
    return _flores(path, pivot, language, "dev" if split == "validation" else "devtest")


def _locate_ntrex(path: str, pivot: str, language: str) -> Files | None:
    """English is the source of every translation, and named so."""
    names = []
    for code in (pivot, language):
        name = f"newstest2019-{'src' if code == 'en' else 'ref'}.{ntrex_code(code)}.txt"
        names.append([name, f"NTREX-128/{name}"])
    return _both(path, *names)


def _locate_udhr(path: str, pivot: str, language: str) -> Files | None:
    codes = (udhr_code(code) for code in (pivot, language))
    return _both(path, *([f"{code}.html", f"declaration/{code}.html"] for code in codes))


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
    "udhr": _locate_udhr,
    "bactrian_x": _locate_bactrian_x,
}
_SPLITS: Mapping[str, Callable[[str, str, str, str], Files | None]] = {
    "flores": _flores_split,
    "opus100": opus100.locate_split,
}
PAIR_KINDS = Names(plugins.SOURCES, (*_LAYOUTS, "jsonl", "datasets"))
"""Source kinds that are files of translation pairs, those of plug-ins included."""
