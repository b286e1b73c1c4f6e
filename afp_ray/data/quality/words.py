"""Cuts a text of any language into the words, numbers and closing marks that the quality filter compares."""

import re
import unicodedata
from functools import lru_cache

STEM_LENGTH = 5
"""Letters of a word that count: inflected forms meet in their beginning (a poor man's stemmer, for every alphabet)."""
MAX_WORDS = 80
"""Distinct words of a side that count; a longer side is known by its first ones and would cost the square."""
_CLOSING = frozenset(".!?。！？।॥۔؟։።።…．؛;:：")
_WRAPPING = "\"'”’»)]}）」』】〉›“„ "
# Scripts that write no space between words: Thai, Lao, Tibetan, Burmese, Khmer, Han, Kana.
_UNSPACED = "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u9fff"
_DIGITS = re.compile(r"\d+")


def stems(text: str) -> list[str]:
    """Distinct beginnings of the words of `text` in their order; pairs of characters where words have no space between.

    Returns: at most `MAX_WORDS` strings, in lower case and in Unicode's compatible form.
    """
    distinct: dict[str, None] = {}  # in order, as a set is not
    for spaced, unspaced in _pattern().findall(unicodedata.normalize("NFKC", text).lower()):
        if spaced:
            distinct[spaced[:STEM_LENGTH]] = None
        else:
            bigrams = (unspaced[begin : begin + 2] for begin in range(max(1, len(unspaced) - 1)))
            distinct.update(dict.fromkeys(bigrams))
        if len(distinct) >= MAX_WORDS:
            break
    return list(distinct)[:MAX_WORDS]


def numbers(text: str) -> list[str]:
    """The runs of digits of `text` in its order, whatever digits the script has, in ASCII.

    Leading zeros are left out, since dates are written with and without them.
    """
    runs = _DIGITS.findall(unicodedata.normalize("NFKC", text))
    return ["".join(str(unicodedata.decimal(digit)) for digit in run).lstrip("0") or "0" for run in runs]


def is_closed(text: str) -> bool:
    """Whether `text` ends as a sentence or a heading ends in one of many scripts, closing quotes and brackets aside."""
    bare = text.rstrip(_WRAPPING)
    return bare[-1:] in _CLOSING and bool(bare)


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    """Runs of word characters; combining marks belong to words, which `\\w` does not know."""
    marks = (chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000)
    outside = "".join(re.escape(mark) for mark in marks if unicodedata.category(mark)[0] in "PSZC")
    return re.compile(f"([^\\s{outside}{_UNSPACED}]+)|([{_UNSPACED}]+)")
