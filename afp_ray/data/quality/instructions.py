"""Keeps the instructions that are usable in all their languages, since a draw may ask for any of them.

Prompts are translations of each other and are judged as translation pairs are. Responses may be written anew in each
language, and may be code, numbers, names or the language that the prompt asks for; of them only prose is looked at,
and only for its language.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from afp_ray.config.data import FilterLimits
from afp_ray.data.identification import misidentified
from afp_ray.data.quality.duplicates import DuplicateFinder
from afp_ray.data.quality.pairs import judge
from afp_ray.data.quality.report import FilterReport, LanguageReport
from afp_ray.data.quality.rules import Side, is_prose, joined, log_ratio, refused_side, too_unequal
from afp_ray.data.quality.similarity import Embed
from afp_ray.data.rows import ParallelInstruction, TranslationPair
from afp_ray.errors import DataError

MIN_PROMPT_LETTERS, MIN_RESPONSE_LETTERS = 10, 40
"""Letters from which a prompt and a response are looked at for their language."""


def filter_instructions(
    rows: Sequence[ParallelInstruction], limits: FilterLimits, *, pivot: str, embed: Embed | None = None
) -> tuple[list[ParallelInstruction], FilterReport]:
    """Keep the instructions whose every language version passes.

    Args:
        rows: candidates.
        limits: what passes.
        pivot: language whose prompts the others are compared with; a row without it is compared with nothing.
        embed: states of texts, further evidence of prompts that do not translate each other; None goes by the texts.
    Returns: the kept rows in their order, and by language the versions that failed and why.
    Raises: DataError when no row is left.
    """
    reasons = [{language: _refused(row, language, limits) for language in row.prompts} for row in rows]
    report = FilterReport(num_instructions_read=len(rows))
    for language in dict.fromkeys(language for row in rows for language in row.prompts):
        entry = report.instructions.setdefault(language, LanguageReport())
        if language != pivot:
            entry.is_judged = _compare(rows, reasons, language, limits, pivot, embed)
    _mark_duplicates(rows, reasons, limits, pivot)
    passing = []
    for row, by_language in zip(rows, reasons, strict=True):
        _count(row, by_language, report)
        if not any(by_language.values()):
            passing.append(row)
    report.num_instructions_kept = len(passing)
    if rows and not passing:
        counts = Counter(reason for by_language in reasons for reason in by_language.values() if reason)
        raise DataError(
            f"the filter leaves none of {len(rows)} instructions "
            f"({', '.join(f'{count} {reason}' for reason, count in counts.most_common())})",
            where="data.filter_limits",
            fix="widen the limit that dropped most, or look at the rows with `afp data filter`",
        )
    return passing, report


def _refused(row: ParallelInstruction, language: str, limits: FilterLimits) -> str:
    """Reason why the version in `language` cannot be used by itself; "" for one that can."""
    prompt, response = row.prompts[language], row.responses[language]
    if not prompt.strip() or not response.strip():
        return "empty"
    if is_prose(prompt, min_letters=MIN_PROMPT_LETTERS):
        reason = refused_side(Side(prompt, language), limits)
        if reason:
            return f"{reason}_prompt"
    if is_prose(response, min_letters=MIN_RESPONSE_LETTERS):
        reason = refused_side(Side(response, language), limits)
        if reason and not _is_asked_for(row, language, limits):
            return f"{reason}_response"
    return ""


def _is_asked_for(row: ParallelInstruction, language: str, limits: FilterLimits) -> bool:
    """Whether the instruction asks for a language: most versions, two at least, answer in one that is not theirs."""
    confidence = limits.min_language_confidence or 0.5
    answered_in = {
        code: misidentified(text, code, confidence=confidence)
        for code, text in row.responses.items()
        if is_prose(text, min_letters=MIN_RESPONSE_LETTERS)
    }
    answered = answered_in.get(language, "")
    others = [other for code, other in answered_in.items() if code != answered]
    return answered != "" and others.count(answered) >= 2 and others.count(answered) * 2 > len(others)


def _compare(
    rows: Sequence[ParallelInstruction],
    reasons: Sequence[dict[str, str]],
    language: str,
    limits: FilterLimits,
    pivot: str,
    embed: Embed | None,
) -> bool:
    """Mark prompts of `language` that do not translate the pivot's; whether there were enough to learn from."""
    indices = [
        index
        for index, row in enumerate(rows)
        if language in row.prompts
        and pivot in row.prompts
        and not reasons[index][language]
        and not reasons[index][pivot]
    ]
    pairs = [
        TranslationPair(row.prompts[pivot], row.prompts[language], pivot, language, row.content_id)
        for row in (rows[index] for index in indices)
    ]
    codes: NDArray[np.uint8] = np.zeros(len(pairs), np.uint8)
    ratios = np.array([log_ratio(pair.source, pair.target) for pair in pairs], np.float32)
    unequal = too_unequal(ratios, limits.max_length_ratio)
    is_judged = judge(pairs, np.flatnonzero(~unequal), codes, limits, embed)
    for index, pair, is_unequal, code in zip(indices, pairs, unequal, codes, strict=True):
        if pair.source == pair.target and is_prose(pair.source, min_letters=MIN_PROMPT_LETTERS):
            reasons[index][language] = "identical"
        elif is_unequal:
            reasons[index][language] = "length_ratio"
        elif code:
            reasons[index][language] = "misaligned"
    return is_judged


def _mark_duplicates(
    rows: Sequence[ParallelInstruction], reasons: Sequence[dict[str, str]], limits: FilterLimits, pivot: str
) -> None:
    """Mark rows that repeat an earlier one, by prompt and response of the pivot, or of the first version without it.

    Near duplicates have one response: questions on the same paragraph differ in a few words and in what they ask.
    """

    def sides(index: int) -> tuple[str, str]:
        row = rows[index]
        language = pivot if pivot in row.prompts else next(iter(row.prompts))
        return row.prompts[language], row.responses[language]

    def text_of(index: int) -> str:
        return joined(sides(index))

    def answers_alike(later: int, earlier: int) -> bool:
        return sides(later)[1].casefold().split() == sides(earlier)[1].casefold().split()

    finder = DuplicateFinder(limits.near_duplicate, text_of, may_repeat=answers_alike)
    for index, by_language in enumerate(reasons):
        if by_language and not any(by_language.values()):
            by_language[pivot if pivot in by_language else next(iter(by_language))] = finder.add(index, text_of(index))


def _count(row: ParallelInstruction, by_language: dict[str, str], report: FilterReport) -> None:
    for language, reason in by_language.items():
        entry = report.instructions[language]
        entry.num_read += 1
        entry.num_kept += not any(by_language.values())
        if reason:
            entry.dropped[reason] += 1
            if entry.num_missing_examples(reason) > 0:
                entry.show(reason, {"prompt": row.prompts[language], "response": row.responses[language]})
