"""Keeps the translation pairs whose sides are in their languages, say the same, and came only once."""

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from afp_ray.config.data import FilterLimits
from afp_ray.data.quality import misalignment
from afp_ray.data.quality.duplicates import DuplicateFinder
from afp_ray.data.quality.misalignment import NoiseModel
from afp_ray.data.quality.report import FilterReport, LanguageReport
from afp_ray.data.quality.rules import Side, joined, log_ratio, refused_row, too_unequal
from afp_ray.data.quality.similarity import Embed, MarginSimilarity
from afp_ray.data.rows import TranslationPair
from afp_ray.data.selection import Selection
from afp_ray.errors import DataError

_CHUNK = 4096
_REASONS = (
    "",
    "empty",
    "identical",
    "script_source",
    "script_target",
    "wrong_language_source",
    "wrong_language_target",
    "duplicate",
    "near_duplicate",
    "length_ratio",
    "misaligned",
)
_CODE = {reason: code for code, reason in enumerate(_REASONS)}


def filter_pairs(
    pairs: Sequence[TranslationPair], limits: FilterLimits, *, embed: Embed | None = None
) -> tuple[Selection[TranslationPair], FilterReport]:
    """Keep the pairs whose sides are in their languages, say the same, and came only once.

    The rows are gone through twice and never held together: a row costs about 60 bytes.

    Args:
        pairs: rows of one or more language pairs, in memory or on disk.
        limits: what passes.
        embed: states of texts, further evidence of misalignment; None goes by the texts alone.
    Returns: the kept rows and the counts by target language.
    Raises: DataError when nothing of a language is left.
    """
    reasons, groups, names = _first_pass(pairs, limits)
    report = FilterReport()
    for group, name in enumerate(names):
        indices = np.flatnonzero(groups == group)
        language = report.pairs.setdefault(name[1], LanguageReport())
        language.is_judged = judge(pairs, indices[reasons[indices] == 0], reasons, limits, embed) or language.is_judged
        _count(pairs, indices, reasons, language)
    for code, language in report.pairs.items():
        if language.num_read and not language.num_kept:
            listed = ", ".join(f"{count} {reason}" for reason, count in language.dropped.most_common())
            raise DataError(
                f"the filter leaves none of {language.num_read} pairs of {code} ({listed})",
                where="data.filter_limits",
                fix="widen the limit that dropped most, or look at the rows with `afp data filter`",
            )
    return Selection(pairs, array("q", np.flatnonzero(reasons == 0).tolist())), report


def _first_pass(
    pairs: Sequence[TranslationPair], limits: FilterLimits
) -> tuple[NDArray[np.uint8], NDArray[np.int16], list[tuple[str, str]]]:
    """Reason of each row by all that needs no learning, its language pair, and the language pairs."""
    reasons = np.zeros(len(pairs), np.uint8)
    groups = np.zeros(len(pairs), np.int16)
    ratios = np.zeros(len(pairs), np.float32)
    names: dict[tuple[str, str], int] = {}
    finders: list[DuplicateFinder] = []

    def text_of(index: int) -> str:
        return joined((pairs[index].source, pairs[index].target))

    for index, pair in enumerate(pairs):
        name = pair.source_language, pair.target_language
        group = names.setdefault(name, len(names))
        if group == len(finders):
            finders.append(DuplicateFinder(limits.near_duplicate, text_of))
        groups[index] = group
        reason = refused_row(Side(pair.source, name[0]), Side(pair.target, name[1]), limits)
        if not reason:
            reason = finders[group].add(index, joined((pair.source, pair.target)))
        reasons[index] = _CODE[reason]
        ratios[index] = log_ratio(pair.source, pair.target)
    for group in range(len(names)):
        indices = np.flatnonzero((groups == group) & (reasons == 0))
        reasons[indices[too_unequal(ratios[indices], limits.max_length_ratio)]] = _CODE["length_ratio"]
    return reasons, groups, list(names)


def judge(
    pairs: Sequence[TranslationPair],
    indices: NDArray[np.int64],
    reasons: NDArray[np.uint8],
    limits: FilterLimits,
    embed: Embed | None,
) -> bool:
    """Mark the misaligned rows of one language pair.

    Args:
        pairs: rows.
        indices: of the rows of the language pair that passed so far, in `pairs`.
        reasons: (R,) one code a row; written where a row is misaligned.
        limits, embed: as in `filter_pairs`.
    Returns: whether there were enough rows to learn from; where not, nothing is marked.
    """
    if limits.max_noise_probability is None or len(indices) < misalignment.MIN_ROWS:
        return False
    rng = np.random.default_rng(len(indices))
    sample = indices
    if len(indices) > misalignment.MAX_ROWS:
        sample = np.sort(rng.choice(indices, misalignment.MAX_ROWS, replace=False))
    sources, targets = _sides(pairs, sample)
    similarity = MarginSimilarity(embed, sources, targets) if embed is not None else None
    model = NoiseModel(sources, targets, similarity=similarity)
    limit = limits.max_noise_probability
    reasons[sample[model.own_probability > limit]] = _CODE["misaligned"]
    others = np.setdiff1d(indices, sample, assume_unique=True)
    for begin in range(0, len(others), _CHUNK):
        chunk = others[begin : begin + _CHUNK]
        reasons[chunk[model.probability(*_sides(pairs, chunk)) > limit]] = _CODE["misaligned"]
    if similarity is not None and limits.min_similarity is not None:
        for begin in range(0, len(indices), _CHUNK):
            chunk = indices[begin : begin + _CHUNK]
            reasons[chunk[similarity(*_sides(pairs, chunk)) < limits.min_similarity]] = _CODE["misaligned"]
    return True


def _sides(pairs: Sequence[TranslationPair], indices: NDArray[np.int64]) -> tuple[list[str], list[str]]:
    rows = [pairs[int(index)] for index in indices]
    return [row.source for row in rows], [row.target for row in rows]


def _count(
    pairs: Sequence[TranslationPair], indices: NDArray[np.int64], reasons: NDArray[np.uint8], report: LanguageReport
) -> None:
    report.num_read += len(indices)
    counts = np.bincount(reasons[indices], minlength=len(_REASONS))
    report.num_kept += int(counts[0])
    for code, reason in enumerate(_REASONS):
        if code and counts[code]:
            report.dropped[reason] += int(counts[code])
            for index in indices[reasons[indices] == code][: report.num_missing_examples(reason)]:
                pair = pairs[int(index)]
                report.show(reason, {pair.source_language: pair.source, pair.target_language: pair.target})
