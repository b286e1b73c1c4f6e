"""Whether an answer is written in the language that was asked for."""

from collections.abc import Sequence
from functools import cache
from statistics import fmean

from afp_ray.data.identification import identifiable_languages, identifier_signature, identify
from afp_ray.errors import TaskError
from afp_ray.evaluation.text_metrics import TextMetric, words
from afp_ray.languages import known_codes, language_row

UNKNOWN = "unknown"
MIN_CHARACTERS = 8
"""Texts with fewer bytes' worth of letters are not judged; a letter beyond Latin counts by its UTF-8 bytes."""
MIN_CONFIDENCE = 0.3
"""Guesses below this probability are not believed."""


@cache
def language_of(text: str) -> str:
    """The language that a text is written in, among all that the identifier knows.

    Returns: an ISO 639-1 code, or `unknown` for texts too short to tell, and for guesses of low confidence.
    """
    if sum(len(word.encode()) for word in words(text)) < MIN_CHARACTERS:
        return UNKNOWN
    code, confidence = identify(text)
    return code if confidence >= MIN_CONFIDENCE else UNKNOWN


def check_identifiable(language: str) -> None:
    """Refuse a language that the identifier does not know.

    Raises: TaskError naming those that it knows.
    """
    identifiable = identifiable_languages()
    if language not in identifiable:
        raise TaskError(
            f"answer_language cannot tell {language_row(language).name} ({language}): the identifier does not know it",
            where="evaluation.languages",
            allowed=", ".join(code for code in known_codes() if code in identifiable),
            fix="drop the language, or the task answer_language",
        )


def answer_metrics(language: str) -> tuple[TextMetric, ...]:
    """Share of answers in `language`, and share of those whose language cannot be told (they count as missed)."""
    signature = f"{identifier_signature()}|min bytes:{MIN_CHARACTERS}|min confidence:{MIN_CONFIDENCE}"

    def metric(name: str, wanted: str) -> TextMetric:
        def example(text: str, reference: str) -> float:
            return float(language_of(text) == wanted)

        def corpus(texts: Sequence[str], references: Sequence[str]) -> float:
            return fmean(example(text, "") for text in texts)

        return TextMetric(name, signature, example, corpus)

    return metric("target_language_rate", language), metric("unknown_language_rate", UNKNOWN)
