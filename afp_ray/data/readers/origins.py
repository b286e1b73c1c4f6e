"""Says where the rows of a source lie for each language, and refuses sources and languages that have none."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from afp_ray import plugins
from afp_ray.config import SPLITS, DataConfig, SourceConfig
from afp_ray.data import embedded
from afp_ray.data.readers import instructions, parallel
from afp_ray.data.readers.columns import columns_key
from afp_ray.data.readers.files import HubRevision, SourceFile, digest
from afp_ray.data.readers.layouts import locate_split
from afp_ray.data.readers.sentences import form_key
from afp_ray.data.readers.unread import lying_at
from afp_ray.errors import DataError
from afp_ray.languages import known_codes
from afp_ray.plugins import Names

PAIR_KINDS = Names(plugins.SOURCES, ("embedded", *parallel.PAIR_KINDS.own))
"""Source kinds that hold translation pairs."""
INSTRUCTION_KINDS = ("embedded", *instructions.INSTRUCTION_KINDS)
"""Source kinds that hold instructions."""


Origin = str | tuple[SourceFile, ...]
"""Where the rows of one language lie: the fingerprint of the embedded corpus, or files."""


def pair_sources(sources: Sequence[SourceConfig]) -> list[SourceConfig]:
    """Those of `sources` that hold translation pairs.

    Raises: DataError when none does.
    """
    of_pairs = [
        source for source in sources if source.kind in PAIR_KINDS and (source.holds_pairs or not source.columns)
    ]
    if not of_pairs:
        raise DataError(
            f"no source holds translation pairs, only {', '.join(source.kind for source in sources)}",
            where="data.sources",
            allowed=", ".join(PAIR_KINDS),
            fix="add one of these, or set data.num_pairs: 0 and data.translation_share: 0",
        )
    return of_pairs


def instruction_sources(sources: Sequence[SourceConfig]) -> list[SourceConfig]:
    """Those of `sources` that hold instructions.

    Raises: DataError when none does.
    """
    of_instructions = [source for source in sources if source.kind in INSTRUCTION_KINDS and not source.holds_pairs]
    if not of_instructions:
        raise DataError(
            f"no source holds instructions, only {', '.join(source.kind for source in sources)}",
            where="data.sources",
            allowed=", ".join(INSTRUCTION_KINDS),
            fix="add one of these, set data.num_instructions: 0, or make all of them translation tasks with "
            "data.translation_share: 1",
        )
    return of_instructions


def pair_origin(source: SourceConfig, *, pivot: str, language: str) -> Origin | None:
    """Where the pairs of `language` lie in `source`; None when it has none of them."""
    if source.kind == "embedded":
        return embedded.corpus_fingerprint() if {pivot, language} <= set(embedded.LANGUAGES) else None
    if source.kind not in PAIR_KINDS or (source.columns and not source.holds_pairs):
        return None
    return parallel.locate(source, pivot=pivot, language=language)


def instruction_origin(source: SourceConfig, languages: Sequence[str]) -> Origin:
    """Where the instructions of `source` lie.

    Raises: DataError when it lacks one of `languages`.
    """
    if source.kind == "embedded":
        require_embedded(languages)
        return embedded.corpus_fingerprint()
    files = instructions.locate(source, languages)
    return tuple(file for held in files.values() for file in held)


def languages_of(source: SourceConfig, pivot: str) -> list[str]:
    """Languages that `source` has pairs of, beside `pivot`."""
    codes = (code for code in known_codes() if code != pivot)
    return [code for code in codes if pair_origin(source, pivot=pivot, language=code) is not None]


def require_some(source: SourceConfig, *, pivot: str, languages: Sequence[str]) -> list[str]:
    """Those of `languages` that `source` has; a source that has none of them is an error.

    Raises: DataError that lists what the source has; or when one two-column file would have to hold several languages.
    """
    readable = [code for code in languages if pair_origin(source, pivot=pivot, language=code) is not None]
    if not readable:
        has = ", ".join(languages_of(source, pivot))
        there = lying_at(source.path or "") if source.kind != "datasets" else ""
        raise DataError(
            f"{source.kind} has no pairs of {pivot} with {', '.join(languages)}",
            where=source.path or "the embedded corpus",
            allowed=f"beside {pivot}: {has}"
            if has
            else f"nothing beside {pivot}: no file of it was found" + (f", but {there}" if there else ""),
            fix="correct the path, choose another language or another source",
        )
    holds_one = source.kind == "tsv" or (source.kind in ("jsonl", "datasets") and not source.subset)
    names_several = any("{target}" in text for text in (source.path or "", *(source.columns or {}).values()))
    if holds_one and len(languages) > 1 and not names_several:
        raise DataError(
            f"one {'two-column file' if source.kind == 'tsv' else source.kind + ' source'} cannot hold "
            f"{len(languages)} languages ({', '.join(languages)})",
            where=source.path or "",
            allowed="one file a language",
            fix="put {target} where the language stands in the name, for instance pairs.en-{target}.tsv",
        )
    return readable


def require_each_language(config: DataConfig, counts: Mapping[str, int]) -> None:
    """Refuse a configured language without pairs.

    Raises: DataError that lists what each source has.
    """
    for language in config.languages:
        if not counts.get(language):
            has = "; ".join(
                f"{source.kind}: {', '.join(languages_of(source, config.pivot))}"
                for source in pair_sources(config.sources)
            )
            raise DataError(
                f"no source has pairs of {config.pivot} with {language}",
                where="data.languages",
                allowed=has,
                fix=f"remove {language}, or add a source that has it",
            )


def require_embedded(languages: Sequence[str]) -> None:
    """Refuse languages that the embedded corpus lacks.

    Raises: DataError that lists the ones it has.
    """
    missing = [code for code in languages if code not in embedded.LANGUAGES]
    if missing:
        raise DataError(
            f"the embedded corpus has no instructions in {', '.join(missing)}",
            where="data.languages",
            allowed=", ".join(embedded.LANGUAGES),
            fix="choose among these, or replace the embedded source",
        )


def pair_digests(source: SourceConfig, *, pivot: str, languages: Iterable[str]) -> list[str]:
    """One line a language: what names its pairs and the hashes of their files."""
    origins = {language: pair_origin(source, pivot=pivot, language=language) for language in languages}
    columns = columns_key(source)
    return [
        f"pairs {source.kind} {pivot} {language} {columns}{_digest(origin)}"
        f"{form_key(source.kind, origin) if isinstance(origin, tuple) else ''}"
        for language, origin in origins.items()
    ]


def heldout_digests(source: SourceConfig, *, pivot: str, languages: Iterable[str]) -> list[str]:
    """One line a language: what names its held-out pairs and the hashes of their files."""
    lines = []
    for language in languages:
        lines += pair_digests(source, pivot=pivot, languages=(language,))
        for split in SPLITS:
            files = locate_split(source, split, pivot=pivot, language=language)
            lines += [f"{split} {_digest(files)}"] if files else []
    return lines


def files_of(config: DataConfig, *, has_pairs: bool, has_instructions: bool) -> list[SourceFile]:
    """Every file that the rows of `config` are read from.

    Raises: DataError when a source has none of the languages, or cannot be read.
    """
    origins: list[Origin | None] = []
    if has_pairs:
        for source in pair_sources(config.sources):
            origins += [pair_origin(source, pivot=config.pivot, language=language) for language in config.languages]
    if has_instructions:
        languages = (config.pivot, *config.languages)
        origins += [instruction_origin(source, languages) for source in instruction_sources(config.sources)]
    return [file for origin in origins if isinstance(origin, tuple) for file in origin]


def instruction_digests(source: SourceConfig, languages: Sequence[str]) -> list[str]:
    """What names the instructions of `source` and the hashes of their files."""
    return [f"instructions {source.kind} {columns_key(source)}{_digest(instruction_origin(source, languages))}"]


def _digest(origin: Origin | None) -> str:
    if origin is None or isinstance(origin, str):
        return str(origin)
    return " ".join(digest(file) for file in origin)


def files_by_path(
    config: DataConfig, heldout: SourceConfig | None, languages: Sequence[str]
) -> Iterator[tuple[str, list[SourceFile]]]:
    """Path of each source that lies on this machine, as it was written, and the files that are read from it.

    Args:
        config: sources of training; a term without rows reads none of them.
        heldout: source of the held-out pairs; null reads none.
        languages: languages that these are read in, beside the pivot.
    """
    for source, origin in (*_training_origins(config), *_heldout_origins(heldout, config.pivot, languages)):
        files = [file for file in origin or () if isinstance(file, SourceFile)]
        if source.path is not None and not any(isinstance(file, HubRevision) for file in files):
            yield source.path, files


def _training_origins(config: DataConfig) -> Iterator[tuple[SourceConfig, Origin | None]]:
    if config.has_pairs or (config.has_instructions and config.translation_share > 0):
        for source in pair_sources(config.sources):
            for language in config.languages:
                yield source, pair_origin(source, pivot=config.pivot, language=language)
    if config.has_instructions and config.translation_share < 1:
        for source in instruction_sources(config.sources):
            yield source, instruction_origin(source, (config.pivot, *config.languages))


def _heldout_origins(
    source: SourceConfig | None, pivot: str, languages: Sequence[str]
) -> Iterator[tuple[SourceConfig, Origin | None]]:
    """Files of the held-out splits, else of the whole source."""
    for language in languages if source is not None else ():
        assert source is not None
        splits = [locate_split(source, split, pivot=pivot, language=language) for split in SPLITS]
        for origin in splits if all(splits) else [pair_origin(source, pivot=pivot, language=language)]:
            yield source, origin
