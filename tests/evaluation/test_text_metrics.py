"""BLEU, chrF++ and ROUGE in thirty languages, against the libraries and closed forms; the language of an answer."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from afp_ray.data import identification
from afp_ray.errors import DataError, TaskError
from afp_ray.evaluation.answer_rate import UNKNOWN, answer_metrics, check_identifiable, language_of
from afp_ray.evaluation.text_metrics import (
    NUM_TOTALS,
    bleu,
    bleu_of_totals,
    bleu_tokenizer,
    chrf,
    rouge,
    spbleu,
    translation_metrics,
    words,
)
from afp_ray.languages import LANGUAGES

SENTENCES = {
    "ar": "ذهبت الطفلة إلى السوق واشترت تفاحة حمراء كبيرة.",
    "bg": "Момичето отиде на пазара и купи една голяма червена ябълка.",
    "bn": "মেয়েটি বাজারে গিয়ে একটি বড় লাল আপেল কিনেছিল।",
    "cs": "Dívka šla na trh a koupila si velké červené jablko.",
    "de": "Das Mädchen ging auf den Markt und kaufte einen großen roten Apfel.",
    "el": "Το κορίτσι πήγε στην αγορά και αγόρασε ένα μεγάλο κόκκινο μήλο.",
    "en": "The girl went to the market and bought a big red apple.",
    "es": "La niña fue al mercado y compró una manzana roja muy grande.",
    "et": "Tüdruk läks turule ja ostis endale suure punase õuna.",
    "eu": "Neskatoa azokara joan zen eta sagar gorri handi bat erosi zuen.",
    "fa": "دختر به بازار رفت و یک سیب بزرگ قرمز خرید.",
    "fi": "Tyttö meni torille ja osti itselleen suuren punaisen omenan.",
    "fr": "La fille est allée au marché et a acheté une grosse pomme rouge.",
    "he": "הילדה הלכה לשוק וקנתה תפוח אדום גדול.",
    "hi": "लड़की बाज़ार गई और उसने एक बड़ा लाल सेब खरीदा।",
    "ht": "Ti fi a te ale nan mache a epi li te achte yon gwo pòm wouj.",
    "id": "Gadis itu pergi ke pasar dan membeli sebuah apel merah besar.",
    "it": "La ragazza andò al mercato e comprò una grande mela rossa.",
    "ja": "少女は市場へ行って大きな赤いりんごを買いました。",
    "ka": "გოგონა ბაზარში წავიდა და დიდი წითელი ვაშლი იყიდა.",
    "km": "ក្មេងស្រីបានទៅផ្សារហើយទិញផ្លែប៉ោមក្រហមធំមួយ។",
    "ko": "소녀는 시장에 가서 크고 빨간 사과를 하나 샀습니다.",
    "my": "မိန်းကလေးသည် ဈေးသို့သွား၍ ပန်းသီးနီကြီးတစ်လုံး ဝယ်ခဲ့သည်။",
    "pt": "A menina foi ao mercado e comprou uma grande maçã vermelha.",
    "qu": "Sipasqa qhatuman rispa huk hatun puka mansanata rantirqan.",
    "ru": "Девочка пошла на рынок и купила большое красное яблоко.",
    "sw": "Msichana alikwenda sokoni na akanunua tofaa kubwa jekundu.",
    "ta": "சிறுமி சந்தைக்குச் சென்று ஒரு பெரிய சிவப்பு ஆப்பிளை வாங்கினாள்.",
    "te": "అమ్మాయి మార్కెట్‌కు వెళ్లి ఒక పెద్ద ఎర్ర ఆపిల్ కొన్నది.",
    "th": "เด็กหญิงไปตลาดแล้วซื้อแอปเปิลสีแดงลูกใหญ่หนึ่งลูก",
    "tr": "Kız pazara gitti ve kocaman kırmızı bir elma satın aldı.",
    "uk": "Дівчина пішла на ринок і купила велике червоне яблуко.",
    "ur": "لڑکی بازار گئی اور اس نے ایک بڑا سرخ سیب خریدا۔",
    "vi": "Cô bé đi chợ và mua một quả táo đỏ rất to.",
    "zh": "女孩去市场买了一个又大又红的苹果。",
}


def test_the_sentences_are_of_thirty_languages_and_more() -> None:
    assert len(SENTENCES) >= 30
    assert set(SENTENCES) <= set(LANGUAGES)


@pytest.mark.parametrize("language", sorted(SENTENCES))
def test_identical_text_scores_100_in_every_language(language: str) -> None:
    text = SENTENCES[language]
    for metric in (*translation_metrics(language, None), *(rouge(kind) for kind in ("rouge1", "rouge2", "rougeL"))):
        assert metric.corpus([text], [text]) == pytest.approx(1.0, abs=1e-12), metric.name
        assert metric.example(text, text) == pytest.approx(1.0, abs=1e-12), metric.name


@pytest.mark.parametrize("language", sorted(SENTENCES))
def test_half_a_text_scores_less_and_another_script_nothing(language: str) -> None:
    text = SENTENCES[language]
    half = text[: len(text) // 2]
    other = SENTENCES["ka" if language != "ka" else "en"].rstrip(".")
    for metric in (bleu(language), chrf(), rouge("rouge1"), rouge("rougeL")):
        assert 0 < metric.example(half, text) < 1, metric.name
        assert metric.example(other, text) == 0, metric.name


def test_short_sentences_equal_to_their_references_score_100() -> None:
    assert bleu("en").corpus(["Hello.", "Good night."], ["Hello.", "Good night."]) == pytest.approx(1)
    assert bleu("zh").corpus(["好"], ["好"]) == pytest.approx(1)


def test_every_language_has_the_tokenizer_of_its_script() -> None:
    chosen = {code: bleu_tokenizer(code) for code in LANGUAGES}
    assert chosen["zh"] == "zh"
    assert {code for code, name in chosen.items() if name == "char"} == {"ko"} | {
        code for code, row in LANGUAGES.items() if row.space == "" and code != "zh"
    }
    assert {"ja", "th", "my", "ko"} <= {code for code, name in chosen.items() if name == "char"}
    assert chosen["en"] == chosen["hi"] == "13a"


@pytest.mark.parametrize("language, tokenizer", [("zh", "zh"), ("th", "char"), ("sw", "13a")])
def test_the_signature_says_how_bleu_was_computed(language: str, tokenizer: str) -> None:
    assert f"|tok:{tokenizer}|" in bleu(language).signature
    assert "eff:yes" in bleu(language).signature
    assert "nw:2" in chrf().signature


def random_pairs(number: int, seed: int) -> tuple[list[str], list[str]]:
    """References, and texts that keep some of their words."""
    draws = random.Random(seed)
    references = [" ".join(draws.choices("abcdefghij", k=draws.randint(1, 12))) for _ in range(number)]
    texts = [" ".join(word if draws.random() < 0.8 else "z" for word in line.split()[:9]) for line in references]
    return texts, references


@pytest.mark.parametrize("seed, number", list(itertools.product(range(6), (1, 3, 40))))
def test_bleu_of_totals_is_that_of_sacrebleu(seed: int, number: int) -> None:
    texts, references = random_pairs(number, seed)
    metric = bleu("en")
    assert metric.totals is not None
    totals = np.array([metric.totals(*pair) for pair in zip(texts, references, strict=True)])
    assert totals.shape == (number, NUM_TOTALS)
    expected = BLEU(effective_order=True).corpus_score(texts, [references]).score / 100
    assert bleu_of_totals(totals.sum(axis=0)[None])[0] == pytest.approx(expected, abs=1e-12)
    assert metric.corpus(texts, references) == pytest.approx(expected, abs=1e-12)


def test_bleu_of_totals_in_closed_form() -> None:
    # 10 words against 10, 8 / 6 / 4 / 2 n-grams right of 10 / 9 / 8 / 7
    totals = [[10, 10, 8, 6, 4, 2, 10, 9, 8, 7]]
    assert bleu_of_totals(np.array(totals, dtype=float))[0] == pytest.approx((0.8 * 6 / 9 * 0.5 * 2 / 7) ** 0.25)
    # the same, half as long as the reference: exp(1 - 20 / 10)
    shorter = np.array([[10, 20, *totals[0][2:]]], dtype=float)
    assert bleu_of_totals(shorter)[0] == pytest.approx(np.exp(-1) * (0.8 * 6 / 9 * 0.5 * 2 / 7) ** 0.25)
    assert bleu_of_totals(np.zeros((1, NUM_TOTALS)))[0] == 0


def test_an_empty_text_scores_nothing() -> None:
    for metric in (*translation_metrics("en", None), rouge("rouge1"), rouge("rougeL")):
        assert metric.corpus([""], ["The cat."]) == 0


def test_rouge_counts_words_in_closed_form() -> None:
    # 3 of 4 words and 3 of 5: F = 2 * 0.75 * 0.6 / 1.35; one bigram of 3 and of 4
    text, reference = "the red cat sleeps", "a cat sleeps the night"
    assert rouge("rouge1").example(text, reference) == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert rouge("rouge2").example(text, reference) == pytest.approx(2 * (1 / 3) * (1 / 4) / (1 / 3 + 1 / 4))
    assert rouge("rougeL").example(text, reference) == pytest.approx(2 * (2 / 4) * (2 / 5) / (2 / 4 + 2 / 5))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The cat's 2 toys!", ["the", "cat", "s", "2", "toys"]),
        ("Straße, СТОЛ", ["strasse", "стол"]),
        ("他买了iPhone 15。", ["他", "买", "了", "iphone", "15"]),
        ("खरीदा। घर", ["खरीदा", "घर"]),
        ("กินดี", ["กิ", "น", "ดี"]),
        ("ｅｎ ①", ["en", "1"]),
        ("…!?", []),
        ("cafe\u0301", ["café"]),
    ],
)
def test_words_are_runs_of_letters_or_single_characters(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_characters_of_unspaced_scripts_keep_their_marks() -> None:
    for language in ("th", "km", "my"):
        found = words(SENTENCES[language])
        assert "".join(found) and all(not word.startswith(("\u0e34", "\u17b6", "\u102c")) for word in found)
        assert len(found) > 10


def test_spbleu_is_refused_without_its_file_or_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="does not exist"):
        spbleu(str(tmp_path / "none.model"))
    (tmp_path / "some.model").write_bytes(b"model")
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    with pytest.raises(TaskError, match="sentencepiece") as caught:
        spbleu(str(tmp_path / "some.model"))
    assert "pip install" in caught.value.fix


def test_spbleu_scores_pieces_and_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the library cuts texts into pairs of characters."""

    class Processor:
        def __init__(self, model_file: str) -> None:
            assert Path(model_file).is_file()

        def encode(self, text: str, out_type: type) -> list[str]:
            assert out_type is str
            return [text[place : place + 2] for place in range(0, len(text), 2)]

    stand_in = type("sentencepiece", (), {"SentencePieceProcessor": Processor})
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", stand_in)
    (tmp_path / "some.model").write_bytes(b"model")
    metric = spbleu(str(tmp_path / "some.model"))
    assert "tok:spm-9372c470eead" in metric.signature
    assert metric.corpus(["abcdefgh"], ["abcdefgh"]) == pytest.approx(1)
    # pieces ab cd ef against ab cd gh: 2 of 3, 1 of 2, and none of 1, smoothed to a half
    assert metric.example("abcdef", "abcdgh") == pytest.approx((2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3))
    assert [m.name for m in translation_metrics("zh", str(tmp_path / "some.model"))] == ["bleu", "chrf++", "spbleu"]


IDENTIFIED = sorted(set(SENTENCES) - {"id"})  # Indonesian and Malay share these words


@pytest.mark.parametrize("language", IDENTIFIED)
def test_the_language_of_a_sentence_is_told(language: str) -> None:
    assert language_of(SENTENCES[language]) in (language, UNKNOWN if language in ("qu", "ht") else language)


@pytest.mark.parametrize("text", ["", "  ", "Hugo.", "好", "12", "?!", "😀😀😀😀😀😀"])
def test_a_text_too_short_to_tell_is_unknown(text: str) -> None:
    assert language_of(text) == UNKNOWN


def test_a_guess_of_low_confidence_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    guesses = {"aaaaaaaaaa": ("yue", 0.31), "bbbbbbbbbb": ("en", 0.29), "cccccccccc": ("arz", 0.9)}
    stand_in = type("Identifier", (), {"classify": lambda self, text: guesses[text]})()
    monkeypatch.setattr(identification, "_py3langid", lambda: (stand_in, {}))
    assert [language_of(text) for text in guesses] == ["zh", UNKNOWN, "ar"]


def test_unknown_counts_as_missed_and_is_told() -> None:
    rate, unknown = answer_metrics("zh")
    texts = [SENTENCES["zh"], SENTENCES["en"], "好", SENTENCES["zh"]]
    assert (rate.name, unknown.name) == ("target_language_rate", "unknown_language_rate")
    assert rate.corpus(texts, [""] * 4) == 0.5
    assert unknown.corpus(texts, [""] * 4) == 0.25
    assert rate.signature.startswith("py3langid:")


def test_every_language_of_the_project_can_be_told() -> None:
    for language in LANGUAGES:
        check_identifiable(language)


def test_a_language_that_cannot_be_told_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identification, "_py3langid", lambda: (None, {"en": 0, "zh": 1}))
    with pytest.raises(TaskError, match="Swahili") as caught:
        check_identifiable("sw")
    assert caught.value.allowed == "en, zh"
