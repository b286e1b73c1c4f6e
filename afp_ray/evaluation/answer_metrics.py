"""How right a short answer is: its number, or its words beside those of the reference, in any script."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from statistics import fmean

from afp_ray.evaluation.text_metrics import TextMetric, words
from afp_ray.languages import language_row

ARTICLES = {"en": frozenset({"a", "an", "the"})}
"""Words that an answer is free to have or not, as SQuAD leaves them out; of English alone."""
_COMMA = "af az bg cs de el es et eu fi fr gl hr id it ka kk lt lv mk mn nl pl pt ro ru sl sv tr uk vi"
COMMA_LANGUAGES = frozenset(_COMMA.split())
"""Languages that write a comma before decimals, and a point or a space between thousands."""
_MARKS = {"٬": ",", "，": ",", "٫": ".", "．": ".", "−": "-", "’": "'"}
_SPACES = "\u00a0\u202f\u2002\u2005\u2006\u2007\u2008\u2009\u200a"
"""Spaces that no line breaks at, or that are thin: they stand inside numbers."""
_POINT = "\ue000"
"""Stands before the decimals of a fraction, and is no mark of any language."""
_COMMANDS = re.compile(r"\\(?:text\w*|math\w+|mbox|boxed|fbox|num)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"(?:(\d+)\s*)?\\[cdt]?frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
_EXPONENT = re.compile(r"(?<=[^\W\d])\^(?:\{[^{}]*\}|\d+)")
_LATEX_SPACE = re.compile(r"\\[,;: ]|(?<=\d)~(?=\d)|&nbsp;|&thinsp;")


def last_number(text: str, language: str) -> Decimal | None:
    """The last number of a text, with digits of any script.

    Commas, apostrophes and thin spaces before three digits part thousands (also by two, as in India), and so does a
    plain space where nothing else stands between; in languages that write decimals after a comma, so do points. LaTeX
    is read as it is set: `\\boxed{9{,}500}`, `9\\,500` and `\\frac{1}{2}`.

    Args:
        text: any text.
        language: whose way of writing decimals it follows.
    Returns: the number, or null where the text has none.
    """
    plain = _set("".join(_digit(character) for character in text))
    numbers = list(_number(language in COMMA_LANGUAGES).finditer(plain))
    if not numbers:
        return None
    last = numbers[-1]
    whole = re.sub(r"\D", "", last["grouped"] or last["plain"])
    return Decimal(f"{last['sign']}{whole}.{last['decimals'] or 0}")


def _set(text: str) -> str:
    """`text` with the marks of LaTeX taken off as far as they stand in, around or after numbers."""
    if "\\" not in text and "{" not in text and "^" not in text and "~" not in text and "&" not in text:
        return text
    text = re.sub(r"\\!|\\(?=[$%#&_])|\{([.,])\}", r"\1", text)
    while (inner := _COMMANDS.sub(r"\1", text)) != text:
        text = inner
    text = re.sub(r"\{([.,])\}", r"\1", text)
    return _EXPONENT.sub("", _FRACTION.sub(_value, _LATEX_SPACE.sub("\u2009", text)))


def _value(fraction: re.Match[str]) -> str:
    """The value of a fraction, and of a whole number before it, in digits."""
    whole, *parts = fraction.groups()
    above, below = (Decimal(part) for part in parts if part is not None)
    if not below:
        return fraction[0]  # nothing divides by zero
    value = Decimal(whole or 0) + above / below
    return f"{value.normalize():f}".replace(".", _POINT)


def _digit(character: str) -> str:
    value = unicodedata.decimal(character, None)
    return _MARKS.get(character, character) if value is None else str(value)


@cache
def _number(is_comma: bool) -> re.Pattern[str]:
    """Matches a number as one writes it.

        -1,234,567.89     sign, grouped (1 to 3 digits, then groups behind the same mark), decimals
        12,34,567         groups of two, as in India; the last has three
        1 234 567         groups behind a plain space, of three digits each
        1234567.89        plain, decimals

    Args:
        is_comma: decimals follow a comma, and points part thousands.
    """
    parts = f",'{_SPACES}" + ("." if is_comma else "")
    decimals = f"[.,{_POINT}]" if is_comma else f"[.{_POINT}]"
    by_mark = rf"(?P<part>[{parts}])(?:\d{{2,3}}(?P=part))*\d{{3}}"
    return re.compile(
        r"(?P<sign>(?<![\w)])-|)"
        rf"(?:(?P<grouped>[1-9]\d{{0,2}}(?:{by_mark}|(?: \d{{3}})+)(?!\d))|(?P<plain>\d+))"
        rf"(?:{decimals}(?P<decimals>\d+))?"
    )


def exact_match(language: str) -> TextMetric:
    """Share of texts whose last number is the reference.

    Source: Shi et al., Language Models are Multilingual Chain-of-Thought Reasoners, arXiv:2210.03057.
    """

    def example(text: str, reference: str) -> float:
        return float(last_number(text, language) == last_number(reference, "en"))

    style = "comma" if language in COMMA_LANGUAGES else "point"
    return _mean("exact_match", f"last number|digits of any script|LaTeX as set|decimals:{style}", example)


def answer_words(text: str, language: str) -> list[str]:
    """Words of an answer: lower case, without punctuation, in English without articles.

    In languages that put no space between words, every character of such a script is a word.
    """
    lower = unicodedata.normalize("NFKC", text).casefold()
    bare = "".join(c for c in lower if unicodedata.category(c)[0] != "P" and c not in string.punctuation)
    parts = bare.split() if language_row(language).space else words(bare)
    return [word for word in parts if word not in ARTICLES.get(language, ())]


def f1(language: str) -> TextMetric:
    """Harmonic mean of the shares of words that an answer and its reference have in common, mean over examples.

    Source: Rajpurkar et al., SQuAD, arXiv:1606.05250; for languages without spaces Lewis et al., MLQA,
        arXiv:1910.07475.
    """

    def example(text: str, reference: str) -> float:
        own, wanted = answer_words(text, language), answer_words(reference, language)
        shared = sum((Counter(own) & Counter(wanted)).values())
        if not own or not wanted:
            return float(own == wanted)
        return 2 * shared / (len(own) + len(wanted))

    return _mean("f1", f"F1|{_signature(language)}", example)


def em(language: str) -> TextMetric:
    """Share of answers whose words are those of the reference.

    Source: as `f1`.
    """

    def example(text: str, reference: str) -> float:
        return float(answer_words(text, language) == answer_words(reference, language))

    return _mean("em", f"EM|{_signature(language)}", example)


def _signature(language: str) -> str:
    unit = "words" if language_row(language).space else "characters"
    articles = ",".join(sorted(ARTICLES.get(language, ()))) or "kept"
    return f"SQuAD answers|tok:{unit}|case:lower|punctuation:removed|articles:{articles}"


def _mean(name: str, signature: str, example: Callable[[str, str], float]) -> TextMetric:
    def corpus(texts: Sequence[str], references: Sequence[str]) -> float:
        return fmean(example(*pair) for pair in zip(texts, references, strict=True))

    return TextMetric(name, signature, example, corpus)
