"""Turns the sources of a configuration into translation pairs and parallel instructions, with their fingerprint."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice

from afp_ray.config import DataConfig, SourceConfig, Split
from afp_ray.data import embedded
from afp_ray.data.pair_parts import (
    count_by_language,
    is_large,
    read_files,
    read_language,
    without_repeated_pairs,
)
from afp_ray.data.readers import instructions, parallel
from afp_ray.data.readers.files import digest_of, expand_path
from afp_ray.data.readers.origins import (
    Origin,
    files_of,
    heldout_digests,
    instruction_digests,
    instruction_origin,
    instruction_sources,
    pair_digests,
    pair_origin,
    pair_sources,
    require_each_language,
    require_embedded,
    require_some,
)
from afp_ray.data.readers.report import ReadReport
from afp_ray.data.row_tables import InstructionPart, InstructionRows, PairPart, PairRows
from afp_ray.data.rows import ParallelInstruction, TranslationPair
from afp_ray.errors import DataError

__all__ = [
    "ReadReport",
    "check",
    "expand_path",
    "fingerprint",
    "heldout_fingerprint",
    "load_heldout_pairs",
    "load_instructions",
    "load_pairs",
    "read_instructions",
    "read_pairs",
    "reading_config",
]


def load_pairs(config: DataConfig) -> Sequence[TranslationPair]:
    """Every usable pair of the configured languages; the pivot side is `source`.

    Returns: a list where the files are small, a `PairTable` on disk where they are large; [] when the trial asks for
        no pairs and no translation tasks.
    Raises: DataError when a language has no pairs, or a file cannot be read.
    """
    return read_pairs(config)[0] if _needs_pairs(config) else []


def read_pairs(config: DataConfig) -> tuple[Sequence[TranslationPair], list[ReadReport]]:
    """Every usable pair, whatever amount is asked for, and what each source gave for each language.

    A pair that an earlier row of the same language already gave is refused as `repeated`.

    Raises: DataError as `load_pairs`.
    """
    keep = is_large(files_of(config, has_pairs=True, has_instructions=False))
    parts: list[PairPart] = []
    reports: list[ReadReport] = []
    for source in pair_sources(config.sources):
        for language in require_some(source, pivot=config.pivot, languages=config.languages):
            part, report = read_language(source, pivot=config.pivot, language=language, keep=keep)
            parts.append(part)
            reports.append(report)
    distinct = list(without_repeated_pairs(parts, keep))
    for part, report in zip(distinct, reports, strict=True):
        repeated = report.num_kept - len(part)
        report.num_kept = len(part)
        report.refused += Counter(repeated=repeated)
    require_each_language(config, count_by_language(distinct))
    return PairRows(distinct) if keep else [pair for part in distinct for pair in part], reports


def load_instructions(config: DataConfig) -> Sequence[ParallelInstruction]:
    """Every instruction of the sources that hold some, in the pivot and in all configured languages.

    Returns: a list where the files are small, a sequence that lies on disk where they are large; [] when the trial
        asks for no instructions, or for translation tasks alone.
    Raises: DataError when no source holds instructions, or one of them lacks a language.
    """
    return read_instructions(config)[0] if _needs_instructions(config) else []


def read_instructions(config: DataConfig) -> tuple[Sequence[ParallelInstruction], list[ReadReport]]:
    """Every instruction, whatever amount is asked for, and what each source gave.

    Raises: DataError as `load_instructions`.
    """
    languages = (config.pivot, *config.languages)
    keep = is_large(files_of(config, has_pairs=False, has_instructions=True))
    parts: list[Sequence[ParallelInstruction] | InstructionPart] = []
    reports: list[ReadReport] = []
    for source in instruction_sources(config.sources):
        rows: Sequence[ParallelInstruction] | InstructionPart
        if source.kind == "embedded":
            require_embedded(languages)
            rows = [_only(row, languages) for row in embedded.parallel_instructions("train")]
            report = ReadReport("embedded", "", len(rows), len(rows))
        else:
            rows, report = instructions.read_instructions(source, instructions.locate(source, languages), keep=keep)
        parts.append(rows)
        reports.append(report)
    return InstructionRows(parts) if keep else [row for part in parts for row in part], reports


def load_heldout_pairs(
    source: SourceConfig, *, pivot: str, language: str, split: Split, num_pairs: int
) -> list[TranslationPair]:
    """Pairs for retrieval, no text twice on either side.

    Args:
        source: where they come from. A source that holds out both splits itself gives those; another one gives the
            first half of its lines to validation and the rest to test, so that the halves of line-aligned languages
            hold the same content.
        pivot, language: codes of the two sides.
        split: `validation` or `test`.
        num_pairs: number of pairs, the first ones of the split.
    Raises: DataError when there are fewer, or the source has no pairs of the language.
    """
    require_some(source, pivot=pivot, languages=(language,))
    candidates = _heldout_candidates(source, split, pivot=pivot, language=language)
    distinct = list(islice(_distinct(candidates), num_pairs))
    if len(distinct) < num_pairs:
        raise DataError(
            f"{num_pairs} held-out pairs asked, but {source.kind} has {len(distinct)} of {language} in {split}",
            where="evaluation.representation.num_pairs",
            allowed=f"at most {len(distinct)} for {language}",
            fix="lower num_pairs, or give a source with more rows",
        )
    return distinct


def reading_config(config: DataConfig) -> DataConfig:
    """`config` with everything at its default that does not change what is read: trials that share it share their rows.

    Amounts are brought down to whether they are 0, the share of translation tasks to none, some or all.
    """
    share = config.translation_share
    return DataConfig(
        sources=config.sources,
        pivot=config.pivot,
        languages=config.languages,
        language_names=config.language_names,
        num_pairs=int(config.has_pairs),
        num_instructions=int(config.has_instructions),
        translation_share=share if share in (0.0, 1.0) else 0.5,
    )


def fingerprint(config: DataConfig) -> str:
    """SHA-256 over the bytes that the trial's rows are read from, in hex; the names of the files do not enter it.

    Files that the trial does not read do not enter it either: a trial without pairs and instructions has the same
    fingerprint whatever its sources are.

    Raises: DataError when a file is missing or cannot be read.
    """
    parts: list[str] = []
    if _needs_pairs(config):
        for source in pair_sources(config.sources):
            parts += pair_digests(source, pivot=config.pivot, languages=config.languages)
    if _needs_instructions(config):
        for source in instruction_sources(config.sources):
            parts += instruction_digests(source, (config.pivot, *config.languages))
    return digest_of(parts)


def heldout_fingerprint(source: SourceConfig, pivot: str, languages: Iterable[str]) -> str:
    """SHA-256 over the bytes that held-out pairs of `languages` are read from, in hex.

    Raises: DataError when a file is missing or cannot be read.
    """
    return digest_of(heldout_digests(source, pivot=pivot, languages=languages))


def check(config: DataConfig) -> None:
    """Refuse what could not be drawn later, before anything starts.

    Raises: DataError for a missing or broken file, a language without rows, more pairs than there are, instructions
        or translation tasks without a source.
    """
    if _needs_pairs(config):
        _check_pairs(config)
    if _needs_instructions(config):
        _num_instructions(config)


def _num_instructions(config: DataConfig) -> int:
    languages = (config.pivot, *config.languages)
    origins = tuple(instruction_origin(source, languages) for source in instruction_sources(config.sources))
    return _check_instructions(_of_sources(config), origins)


def describe_all(config: DataConfig) -> Iterator[str]:
    """What `all` is of the rows of the sources, before the filter and with held-out sentences: a sentence each."""
    if config.num_pairs == "all" and _needs_pairs(config):
        counts = count_pairs(config)
        listed = ", ".join(f"{language} {counts[language]:,}" for language in config.languages)
        yield f"data.num_pairs: all is {sum(counts.values()):,} pairs ({listed})"
    if config.num_instructions == "all" and _needs_instructions(config):
        yield f"data.num_instructions: all is {_num_instructions(config):,} instructions"


def _needs_pairs(config: DataConfig) -> bool:
    return config.has_pairs or (config.has_instructions and config.translation_share > 0)


def _needs_instructions(config: DataConfig) -> bool:
    return config.has_instructions and config.translation_share < 1


def _check_pairs(config: DataConfig) -> None:
    if not config.has_pairs:
        raise DataError(
            f"data.translation_share is {config.translation_share:g}, and there are no pairs to make the tasks from",
            where="data.num_pairs",
            allowed="1 or more",
            fix="set data.num_pairs, or data.translation_share: 0",
        )
    counts = count_pairs(config)
    total = sum(counts.values())
    if config.num_pairs != "all" and config.num_pairs > total:
        listed = ", ".join(f"{language} {counts[language]}" for language in config.languages)
        raise DataError(
            f"{config.num_pairs} pairs asked, but the sources have {total} ({listed})",
            where="data.num_pairs",
            allowed=f"0 to {total}",
            fix="lower data.num_pairs, or add a source",
        )


def count_pairs(config: DataConfig) -> Mapping[str, int]:
    """Usable pairs of the sources by language, before the filter and with held-out sentences."""
    origins = tuple(
        pair_origin(source, pivot=config.pivot, language=language)
        for source in pair_sources(config.sources)
        for language in config.languages
    )
    return _count_pairs(_of_sources(config), origins)


def _of_sources(config: DataConfig) -> DataConfig:
    """What is read of the sources whatever is drawn of it."""
    names = config.language_names
    return DataConfig(sources=config.sources, pivot=config.pivot, languages=config.languages, language_names=names)


@lru_cache(maxsize=256)
def _count_pairs(config: DataConfig, origins: tuple[Origin | None, ...]) -> Mapping[str, int]:
    """Usable pairs by language; `origins` makes a changed file a new entry of the cache."""
    pairs = load_pairs(config)
    if isinstance(pairs, PairRows):
        return Counter({language: len(rows) for language, rows in pairs.by_language().items()})
    return Counter(pair.target_language for pair in pairs)


@lru_cache(maxsize=256)
def _check_instructions(config: DataConfig, origins: tuple[Origin, ...]) -> int:
    """Read the instructions once and count them; `origins` makes a changed file a new entry of the cache."""
    return len(load_instructions(config))


def _heldout_candidates(source: SourceConfig, split: Split, *, pivot: str, language: str) -> Iterator[TranslationPair]:
    """Pairs of the split: the source's own, or those of one half of its lines."""
    if source.kind == "embedded":
        yield from embedded.translation_pairs(pivot, language, split)
        return
    files = parallel.locate_split(source, split, pivot=pivot, language=language)
    if files:
        yield from parallel.read_pairs(source, files, pivot=pivot, language=language, keep=is_large(files)).pairs
        return
    files = parallel.locate(source, pivot=pivot, language=language)
    rows = read_files(source, pivot=pivot, language=language, keep=is_large(files or ()))
    half = rows.num_lines // 2
    first = split == "validation"
    yield from (pair for pair, line in zip(rows.pairs, rows.lines(), strict=True) if (line < half) == first)


def _only(row: ParallelInstruction, languages: Sequence[str]) -> ParallelInstruction:
    """`row` in `languages` alone."""
    prompts = {code: row.prompts[code] for code in languages}
    return ParallelInstruction(prompts, {code: row.responses[code] for code in languages}, row.content_id, row.kind)


def _distinct(pairs: Iterable[TranslationPair]) -> Iterator[TranslationPair]:
    """`pairs` without those whose source or target came before: a repeated text has two right answers."""
    sources: set[str] = set()
    targets: set[str] = set()
    for pair in pairs:
        if pair.source not in sources and pair.target not in targets:
            sources.add(pair.source)
            targets.add(pair.target)
            yield pair
