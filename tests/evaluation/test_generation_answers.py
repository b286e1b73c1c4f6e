"""Right answers: numbers in any script, words as SQuAD compares them, sums of chrF."""

from decimal import Decimal

import numpy as np
import pytest
from sacrebleu.metrics import CHRF

from afp_ray.evaluation.answer_metrics import answer_words, em, exact_match, f1, last_number
from afp_ray.evaluation.generation_scores import to_scores
from afp_ray.evaluation.predictions import Prediction
from afp_ray.evaluation.text_metrics import chrf, chrf_of_totals


@pytest.mark.parametrize(
    "text, language, expected",
    [
        ("18", "en", "18"),
        ("She makes 9 * 2 = $18 a day.", "en", "18"),
        ("The answer is 70,000 dollars.", "en", "70000"),
        ("1,234,567", "en", "1234567"),
        ("1,00,000 টাকা", "bn", "100000"),
        ("1'500", "en", "1500"),
        ("18.00", "en", "18"),
        ("12.500", "en", "12.5"),
        ("12.500", "de", "12500"),
        ("12.500,75 Euro", "de", "12500.75"),
        ("12,500.75", "de", "12500.75"),
        ("2,5", "fr", "2.5"),
        ("70 000 roubles", "fr", "70000"),
        ("70\u202f000 €", "fr", "70000"),
        ("70 000", "en", "70000"),
        (r"\boxed{9{,}500}", "en", "9500"),
        (r"\boxed{\text{9{,}500 dollars}}", "en", "9500"),
        (r"\boxed{9,\!500}", "en", "9500"),
        (r"9\,500", "en", "9500"),
        (r"\$9\;500\,750", "en", "9500750"),
        ("9~500", "en", "9500"),
        ("9 500", "en", "9500"),
        ("9\u00a0500 yuan", "zh", "9500"),
        ("9\u2009500.", "sw", "9500"),
        (r"\boxed{1{,}00{,}000}", "bn", "100000"),
        (r"\boxed{১,০০,০০০}", "bn", "100000"),
        (r"\boxed{\frac{1}{2}}", "en", "0.5"),
        (r"-\dfrac{3}{4}", "en", "-0.75"),
        (r"3\frac12", "de", "3.5"),
        (r"\frac{9}{8}", "de", "1.125"),
        (r"\frac{x}{2}", "en", "2"),
        (r"\frac{3}{0}", "en", "0"),
        (r"3{,}14", "de", "3.14"),
        (r"\boxed{25\text{ cm}^2}", "en", "25"),
        (r"\boxed{25 \mathrm{~m}^{2}}", "en", "25"),
        (r"2^{10}", "en", "10"),
        (r"\boxed{18\%}", "en", "18"),
        ("in 2020 500 people", "en", "500"),
        ("1 20 300", "en", "20300"),
        ("12 3456", "en", "3456"),
        ("0.125", "de", "0.125"),
        ("-7", "en", "-7"),
        ("it is −7", "en", "-7"),
        ("10-3", "en", "3"),
        ("উত্তর হল ১১।", "bn", "11"),
        ("คำตอบคือ ๗๐,๐๐๐", "th", "70000"),
        ("उत्तर १२ है", "hi", "12"),
        ("الجواب ١٬٢٣٤", "ar", "1234"),
        ("٣٫٥", "ar", "3.5"),
        ("答案是 １８，０００。", "zh", "18000"),
        ("సమాధానం ౧౮", "te", "18"),
        ("5²", "en", "5"),
        ("16 eggs, then 2, 3 and 4.", "en", "4"),
        ("ABC", "en", None),
        ("", "en", None),
    ],
)
def test_the_last_number_is_read_as_its_language_writes_it(text: str, language: str, expected: str | None) -> None:
    assert last_number(text, language) == (None if expected is None else Decimal(expected))


def test_exact_match_compares_values_not_digits() -> None:
    metric = exact_match("th")
    assert metric.example("ตอบ ๒,๑๒๕ บาท", "2,125") == 1
    assert metric.example("2125.00", "2,125") == 1
    assert metric.example("2125 / 2", "2,125") == 0
    assert metric.example("", "3") == 0
    assert metric.corpus(["3", "4", "5", ""], ["3", "4", "6", "7"]) == 0.5
    assert exact_match("de").signature != metric.signature


@pytest.mark.parametrize(
    "text, reference, language, value",
    [
        ("The Pittsburgh Steelers!", "Pittsburgh Steelers", "en", 1.0),
        ("the cat sat", "a cat", "en", 2 / 3),
        ("cat cat", "cat", "en", 2 / 3),
        ("der Hund", "Hund", "de", 2 / 3),
        ("una casa", "casa", "es", 2 / 3),
        ("匹兹堡钢人队。", "匹兹堡钢人队", "zh", 1.0),
        ("匹兹堡", "匹兹堡钢人队", "zh", 2 * 3 / 9),
        ("ตอนเที่ยง", "ตอนเที่ยง", "th", 1.0),
        ("2014 年 NFL", "2014年", "zh", 2 * 2 / 5),
        ("“Noon”, at", "at noon", "en", 1.0),
        ("ÖĞLEN", "öğlen", "tr", 1.0),
        ("", "noon", "en", 0.0),
        ("...", "noon", "en", 0.0),
        ("the", "", "en", 1.0),
    ],
)
def test_f1_in_closed_form(text: str, reference: str, language: str, value: float) -> None:
    assert f1(language).example(text, reference) == pytest.approx(value)


def test_exact_words_need_order_and_all_of_them() -> None:
    assert em("en").corpus(["The Steelers.", "Steelers Pittsburgh"], ["steelers", "Pittsburgh Steelers"]) == 0.5
    assert em("zh").example("匹兹堡 钢人队", "匹兹堡钢人队") == 1
    assert em("de").example("der Hund", "Hund") == 0


def test_a_thai_mark_belongs_to_its_letter() -> None:
    assert answer_words("ที่", "th") == ["ที่"]
    assert answer_words("เที่ยง", "th") == ["เ", "ที่", "ย", "ง"]


PAIRS = [
    ("渡船 late", "渡船晚了"),
    ("the ferry is late", "the ferry was late."),
    ("", "nothing"),
    ("yes", "no"),
    ("a", "a"),
]


def test_chrf_of_totals_is_that_of_sacrebleu() -> None:
    metric = chrf()
    assert metric.totals is not None
    totals = np.array([metric.totals(*pair) for pair in PAIRS])
    scorer = CHRF(word_order=2)
    for chosen in ([0, 1, 2, 3, 4], [1, 3], [2], [1, 1, 4]):
        texts, references = zip(*(PAIRS[place] for place in chosen), strict=True)
        expected = scorer.corpus_score(list(texts), [list(references)]).score / 100
        assert chrf_of_totals(totals[chosen].sum(axis=0)[None])[0] == pytest.approx(expected, abs=1e-12)
    assert chrf_of_totals(np.zeros((1, 24)))[0] == 0


def test_the_standard_error_of_chrf_is_that_of_leaving_contents_out() -> None:
    rows = [
        Prediction("translation", "en", 0, 0, str(n), f"c{n // 2}", metric="bleu", text=text, reference=reference)
        for n, (text, reference) in enumerate([*PAIRS, PAIRS[1]])
    ]
    (score,) = to_scores(rows, [chrf()], "test")
    corpus = [
        chrf().corpus(
            [r.text for r in rows if r.content_id != gone], [r.reference for r in rows if r.content_id != gone]
        )
        for gone in ("c0", "c1", "c2")
    ]
    expected = np.sqrt(2 / 3 * ((np.array(corpus) - np.mean(corpus)) ** 2).sum())
    assert score.standard_error == pytest.approx(expected, rel=1e-9)
    assert score.demo_deviation is None


def test_scores_of_several_demonstration_seeds_have_a_deviation() -> None:
    texts = {0: ["at noon", "no"], 1: ["at one", "no"]}
    rows = [
        Prediction("xquad_qa", "en", 1, seed, str(n), str(n), metric="f1", text=text, reference=("at noon", "yes")[n])
        for seed, own in texts.items()
        for n, text in enumerate(own)
    ]
    (score,) = to_scores(rows, [f1("en")], "test")
    assert score.value == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert score.demo_deviation == pytest.approx(np.std([0.5, 0.25], ddof=1))
    assert score.n == 2
