"""Tells which share of the letters of a text its language's script writes."""

import re
from functools import lru_cache

from afp_ray.languages import find_language

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Letters of a script by its ISO 15924 code, combining marks included.
_LETTERS = {
    "Latn": "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0300-\u036f\u1e00-\u1eff",
    "Hans": _HAN,
    "Hant": _HAN,
    "Hani": _HAN,
    "Jpan": "\u3040-\u30ff\uff66-\uff9f" + _HAN,
    "Kore": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af" + _HAN,
    "Arab": "\u0610-\u061a\u0620-\u065f\u066e-\u06d3\u06d5-\u06dc\u06ea-\u06ef\u06fa-\u06fc\u0750-\u077f\ufb50-\ufefc",
    "Cyrl": "\u0400-\u052f",
    "Grek": "\u0370-\u03ff\u1f00-\u1fff",
    "Deva": "\u0900-\u0963\u0970-\u097f",
    "Beng": "\u0980-\u09e5\u09f0-\u09ff",
    "Taml": "\u0b80-\u0be5",
    "Telu": "\u0c00-\u0c65",
    "Mlym": "\u0d00-\u0d65",
    "Thai": "\u0e01-\u0e3a\u0e40-\u0e4e",
    "Mymr": "\u1000-\u103f\u1050-\u109f",
    "Khmr": "\u1780-\u17d3",
    "Hebr": "\u0590-\u05ff",
    "Geor": "\u10a0-\u10ff",
    "Armn": "\u0530-\u058f",
    "Ethi": "\u1200-\u135a",
    "Gujr": "\u0a80-\u0ae5",
    "Guru": "\u0a00-\u0a65",
    "Knda": "\u0c80-\u0ce5",
    "Sinh": "\u0d80-\u0df4",
    "Laoo": "\u0e80-\u0ecd",
    "Orya": "\u0b00-\u0b65",
    "Tibt": "\u0f40-\u0fbc",
    "Cans": "\u1400-\u167f\u18b0-\u18f5",
    "Cher": "\u13a0-\u13fd\uab70-\uabbf",
    "Nkoo": "\u07ca-\u07f5",
    "Olck": "\u1c5a-\u1c7d",
    "Syrc": "\u0710-\u074f",
    "Tfng": "\u2d30-\u2d7f",
    "Thaa": "\u0780-\u07b1",
    "Yiii": "\ua000-\ua48c",
}

_WEIGHT = {"Hans": 3, "Hant": 3, "Hani": 3, "Jpan": 2, "Kore": 2}


def script_of(language: str) -> str:
    """ISO 15924 code of the script of `language`, "" where its letters are not listed here and none can be wrong."""
    row = find_language(language)
    return row.script if row is not None and row.script in _LETTERS else ""


def count_letters(text: str) -> int:
    """Letters of `text`, of any script, without combining marks."""
    return sum(map(str.isalpha, text))


def script_share(text: str, script: str) -> float:
    """Share in [0, 1] of the letters of `text` that `script` writes; 1 for an unknown script or a text without letters.

    Combining marks of the script count as its letters, so that scripts which write vowels as marks are not put back; a
    Han character counts as several letters, since it stands for as much: Chinese texts keep foreign names in Latin.
    """
    if not script:
        return 1.0
    own = len(_pattern(script).findall(text)) * _WEIGHT.get(script, 1)
    others = count_letters(_pattern(script).sub("", text))
    return own / (own + others) if own + others else 1.0


@lru_cache(maxsize=64)
def _pattern(script: str) -> re.Pattern[str]:
    return re.compile(f"[{_LETTERS[script]}]")
