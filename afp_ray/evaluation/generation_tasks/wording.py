"""The words that questions are asked in, to the letter those of lm-evaluation-harness where it has the language."""

from collections.abc import Mapping

from afp_ray.data.mixing import ANSWER_CLAUSE
from afp_ray.errors import TaskError
from afp_ray.languages import Language

# What stands before a text, a question about it, and its answer. Arabic, Romanian and Chinese are as the harness has
# them, slips and half-width colons included, so that numbers compare.
READING: Mapping[str, tuple[str, str, str]] = {
    "ar": ("سيا", "سؤال", "إجابة"),
    "de": ("Kontext", "Frage", "Antwort"),
    "el": ("Συμφραζόμενα", "Ερώτηση", "Απάντηση"),
    "en": ("Context", "Question", "Answer"),
    "es": ("Contexto", "Pregunta", "Respuesta"),
    "hi": ("प्रसंग", "सवाल", "उत्तर"),
    "id": ("Konteks", "Pertanyaan", "Jawaban"),
    "ro": ("Context", "Întrebare", "Răspuns"),
    "ru": ("Контекст", "Вопрос", "Ответ"),
    "sw": ("Muktadha", "Swali", "Jibu"),
    "th": ("บริบท", "คำถาม", "คำตอบ"),
    "tr": ("Bağlam", "Soru", "Cevap"),
    "vi": ("Bối cảnh", "Câu hỏi", "Trả lời"),
    "zh": ("语境", "问题", "回答"),
}
# What stands before a problem, before its answer, and before an answer in steps, marks included.
PROBLEM: Mapping[str, tuple[str, str, str]] = {
    "bn": ("প্রশ্ন: ", "Answer:", "ধাপে ধাপে উত্তর:"),
    "de": ("Frage: ", "Antwort:", "Schritt-für-Schritt-Antwort:"),
    "en": ("Question: ", "Answer:", "Step-by-Step Answer:"),
    "es": ("Pregunta: ", "Respuesta:", "Respuesta paso a paso:"),
    "fr": ("Question : ", "Réponse :", "Réponse étape par étape :"),
    "ja": ("問題： ", "Answer:", "ステップごとの答え:"),
    "ru": ("Задача: ", "Answer:", "Пошаговоерешение:"),
    "sw": ("Swali: ", "Answer:", "Jibu la Hatua kwa Hatua:"),
    "te": ("ప్రశ్న: ", "Answer:", "దశలవారీగా సమాధానం:"),
    "th": ("โจทย์: ", "Answer:", "คำตอบทีละขั้นตอน:"),
    "zh": ("问题： ", "Answer:", "逐步解答:"),
}


def clause(text: str, target: Language) -> str:
    """`text Answer in Chinese:`, the form of the training rows."""
    return f"{text} {ANSWER_CLAUSE.format(language=target.name)}"


def native(table: Mapping[str, tuple[str, str, str]], language: Language, *, task: str) -> tuple[str, str, str]:
    """The words of `language`.

    Raises: TaskError when the table has none.
    """
    if language.code not in table:
        raise TaskError(
            f"{task} has no words to ask in {language.name} ({language.code})",
            where="evaluation.generation.question_form",
            allowed=f"native in {', '.join(table)}; clause in every language",
            fix="set evaluation.generation.question_form: clause, or drop the language",
        )
    return table[language.code]
