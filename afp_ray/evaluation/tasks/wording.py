"""The words of the templates of lm-evaluation-harness (v0.4.13), which `template: harness` renders to the letter.

They are its own, errors included, and stay as they are when `languages.py` finds better ones.
"""

from collections.abc import Mapping

from afp_ray.errors import TaskError
from afp_ray.languages import Language

XNLI: Mapping[str, tuple[str, ...]] = {
    "ar": ("صحيح", "نعم", "لذا", "رقم"),
    "bg": ("правилно", "да", "така", "не"),
    "de": ("richtig", "Ja", "Auch", "Nein"),
    "el": ("σωστός", "Ναί", "Έτσι", "όχι"),
    "en": ("right", "Yes", "Also", "No"),
    "es": ("correcto", "Sí", "Asi que", "No"),
    "fr": ("correct", "Oui", "Aussi", "Non"),
    "hi": ("सही", "हाँ", "इसलिए", "नहीं"),
    "ru": ("правильно", "Да", "Так", "Нет"),
    "sw": ("sahihi", "Ndiyo", "Hivyo", "Hapana"),
    "th": ("ถูกต้อง", "ใช่", "ดังนั้น", "ไม่"),
    "tr": ("doğru", "Evet", "Böylece", "Hayır"),
    "ur": ("صحیح", "جی ہاں", "اس لئے", "نہیں"),
    "vi": ("đúng", "Vâng", "Vì vậy", "Không"),
    "zh": ("正确", "是的", "所以", "不是的"),
}
"""right, entailment, neutral, contradiction."""
PAWSX: Mapping[str, tuple[str, ...]] = {
    "de": ("richtig", "Nein", "Ja"),
    "en": ("right", "No", "Yes"),
    "es": ("verdad", "No", "Sí"),
    "fr": ("n'est-ce pas", "Non", "Oui"),
    "ja": ("ですね", "いいえ", "はい"),
    "ko": ("맞죠", "아니요", "예"),
    "zh": ("对吧", "不是", "是"),
}
"""right, no, yes."""
XCOPA: Mapping[str, tuple[str, ...]] = {
    "en": ("because", "therefore"),
    "et": ("sest", "seetõttu"),
    "ht": ("poukisa", "donk sa"),
    "id": ("karena", "maka"),
    "it": ("perché", "quindi"),
    "qu": ("imataq", "chaymi"),
    "sw": ("kwa sababu", "kwa hiyo"),
    "ta": ("காரணமாக", "எனவே"),
    "th": ("เพราะ", "ดังนั้น"),
    "tr": ("çünkü", "bu yüzden"),
    "vi": ("bởi vì", "vì vậy"),
    "zh": ("因为", "所以"),
}
"""cause, effect; English is the harness' COPA."""


def wording(task: str, table: Mapping[str, tuple[str, ...]], words: Language) -> tuple[str, ...]:
    """The words of `table` in the language of `words`.

    Raises: TaskError when the harness has no template of `task` in that language.
    """
    if words.code not in table:
        raise TaskError(
            f"the harness has no {task} template in {words.name} ({words.code})",
            where="evaluation.template",
            allowed=f"languages with one: {', '.join(table)}",
            fix="score with template: afp, with prompt_language: pivot, or drop the language",
        )
    return table[words.code]
