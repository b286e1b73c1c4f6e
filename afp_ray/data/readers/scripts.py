"""Tells from the script of the letters whether the two sides of translation pairs were swapped."""

import unicodedata
from collections.abc import Sequence

from afp_ray.data.rows import TranslationPair
from afp_ray.languages import language_row

NUM_SAMPLED = 100

# First words of the Unicode names of the letters that a script is written with.
_LETTERS = {
    "Latn": ("LATIN",),
    "Hans": ("CJK",),
    "Jpan": ("HIRAGANA", "KATAKANA", "CJK"),
    "Kore": ("HANGUL",),
    "Arab": ("ARABIC",),
    "Beng": ("BENGALI",),
    "Cyrl": ("CYRILLIC",),
    "Deva": ("DEVANAGARI",),
    "Geor": ("GEORGIAN",),
    "Grek": ("GREEK",),
    "Gujr": ("GUJARATI",),
    "Hebr": ("HEBREW",),
    "Khmr": ("KHMER",),
    "Mlym": ("MALAYALAM",),
    "Mymr": ("MYANMAR",),
    "Sinh": ("SINHALA",),
    "Taml": ("TAMIL",),
    "Telu": ("TELUGU",),
    "Thai": ("THAI",),
    "Armn": ("ARMENIAN",),
    "Cans": ("CANADIAN SYLLABICS",),
    "Cher": ("CHEROKEE",),
    "Ethi": ("ETHIOPIC",),
    "Guru": ("GURMUKHI",),
    "Hani": ("CJK",),
    "Hant": ("CJK",),
    "Knda": ("KANNADA",),
    "Laoo": ("LAO",),
    "Nkoo": ("NKO",),
    "Olck": ("OL CHIKI",),
    "Orya": ("ORIYA",),
    "Syrc": ("SYRIAC",),
    "Tfng": ("TIFINAGH",),
    "Thaa": ("THAANA",),
    "Tibt": ("TIBETAN",),
    "Yiii": ("YI ",),
}


def share_of_script(text: str, script: str) -> float:
    """Share in [0, 1] of the letters of `text` that `script` (ISO 15924) is written with; 0 without letters."""
    words = _LETTERS[script]
    letters = [unicodedata.name(letter, "") for letter in text if letter.isalpha()]
    return sum(name.startswith(words) for name in letters) / len(letters) if letters else 0.0


def columns_are_swapped(pairs: Sequence[TranslationPair]) -> bool:
    """Whether most of a sample of `pairs` has each side in the other side's script.

    False where both share one script, or one is none of those that are told apart here.
    """
    scripts = [language_row(code).script for code in (pairs[0].source_language, pairs[0].target_language)]
    if scripts[0] == scripts[1] or not set(scripts) <= _LETTERS.keys():
        return False
    sample = pairs[:: max(1, len(pairs) // NUM_SAMPLED)]
    swapped = sum(
        share_of_script(pair.source, scripts[1]) > 0.5
        and share_of_script(pair.target, scripts[0]) > 0.5
        and share_of_script(pair.source, scripts[0]) <= 0.5
        for pair in sample
    )
    return swapped * 2 > len(sample)
