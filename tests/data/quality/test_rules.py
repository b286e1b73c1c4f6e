"""Rules on single sides and rows, duplicates, and the words that rows are compared by."""

import numpy as np
import pytest

from afp_ray.config.data import FilterLimits
from afp_ray.data.identification import misidentified
from afp_ray.data.quality.duplicates import DuplicateFinder, shingles
from afp_ray.data.quality.rules import Side, is_prose, log_ratio, refused_row, too_unequal
from afp_ray.data.quality.scripts import script_share
from afp_ray.data.quality.words import MAX_WORDS, is_closed, numbers, stems

LIMITS = FilterLimits()
ENGLISH = "The children walked home along the river before it started to rain."
GERMAN = "Die Kinder gingen am Fluss entlang nach Hause, bevor es zu regnen begann."
SPANISH = "Los niños volvieron a casa por la orilla del río antes de que lloviera."
CHINESE = "孩子们在下雨之前沿着河边走回了家。"


@pytest.mark.parametrize(
    ("target", "language", "reason"),
    [
        (GERMAN, "de", ""),
        (CHINESE, "zh", ""),
        ("  ", "de", "empty"),
        (ENGLISH.upper().replace(".", "!"), "de", "identical"),
        (CHINESE, "de", "script_target"),
        (GERMAN, "zh", "script_target"),
        (SPANISH, "de", "wrong_language_target"),
        ("Ja.", "es", ""),  # too short to name its language
        ("COVID-19 的 PCR 检测和 RNA 序列都显示同样的结果", "zh", ""),  # names in Latin letters are usual
    ],
)
def test_a_row_is_refused_for_its_first_fault(target: str, language: str, reason: str) -> None:
    assert refused_row(Side(ENGLISH, "en"), Side(target, language), LIMITS) == reason


def test_the_source_side_is_looked_at_too_and_a_null_limit_switches_a_rule_off() -> None:
    assert refused_row(Side(GERMAN, "en"), Side(SPANISH, "es"), LIMITS) == "wrong_language_source"
    open_limits = FilterLimits(min_language_confidence=None, min_script_share=None)
    assert refused_row(Side(GERMAN, "en"), Side(CHINESE, "es"), open_limits) == ""


def test_a_language_is_not_taken_for_its_own_varieties() -> None:
    malay = "Kanak-kanak itu berjalan pulang di tepi sungai sebelum hujan mula turun."
    assert misidentified(malay, "id", confidence=0.3) == ""
    assert misidentified(malay, "sw", confidence=0.3) in ("id", "ms")
    assert misidentified(GERMAN, "xx", confidence=0.1) == ""  # a language that the model does not know


def test_the_share_of_a_script_counts_marks_and_weighs_han() -> None:
    assert script_share("नमस्ते", "Deva") == 1.0
    assert script_share("नमस्ते abc", "Deva") == pytest.approx(6 / 9)
    assert script_share("中文 abcdef", "Hans") == pytest.approx(6 / 12)
    assert script_share("12 + 3", "Deva") == 1.0
    assert script_share("text", "") == 1.0


def test_lengths_are_held_against_the_median_of_their_language_pair() -> None:
    ratios = np.array([log_ratio("a" * 90, "b" * length) for length in (40, 40, 40, 41, 39, 5, 300)], np.float32)
    assert too_unequal(ratios, 3.0).tolist() == [False] * 5 + [True, True]
    assert not too_unequal(ratios, None).any()
    assert too_unequal(np.zeros(0, np.float32), 3.0).tolist() == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ENGLISH, True),
        ("308", False),
        ("Paris", False),
        ("def area(radius):\n    return 3.14159 * radius ** 2  # the area of a circle of this radius", False),
        ("```\nprint the words one after another in a long line of plain letters\n```", False),
    ],
)
def test_code_and_numbers_are_no_prose(text: str, expected: bool) -> None:
    assert is_prose(text, min_letters=40) is expected


def test_words_of_every_kind_of_script() -> None:
    assert stems("Walking walked (WALKS), 2020!") == ["walki", "walke", "walks", "2020"]
    assert stems("我们走") == ["我们", "们走"]
    assert stems("हिन्दी भाषा") == ["हिन्द", "भाषा"]
    assert len(stems(" ".join(f"w{number}" for number in range(500)))) == MAX_WORDS
    assert numbers("07 of ١٩ and २०२०") == ["7", "19", "2020"]
    assert [is_closed(text) for text in ("Yes.", "是。」", "यह।", "cut off in", "")] == [True, True, True, False, False]


def finder(rows: list[str], near: float | None = 0.9) -> list[str]:
    held = DuplicateFinder(near, rows.__getitem__)
    return [held.add(index, text) for index, text in enumerate(rows)]


def test_duplicates_are_found_and_templates_of_other_numbers_are_not() -> None:
    base = f"{ENGLISH} {GERMAN} {SPANISH}"
    rows = [base, base, base.replace("rain.", "rain !"), base.replace("home", "away"), "short", "other"]
    assert finder(rows) == ["", "duplicate", "near_duplicate", "near_duplicate", "", ""]
    assert finder(rows, None) == ["", "duplicate", "", "", "", ""]
    assert finder([f"{base} It has 12 houses.", f"{base} It has 13 houses."]) == ["", ""]


def test_an_overlap_below_the_limit_is_no_duplicate() -> None:
    left, right = shingles(ENGLISH), shingles(ENGLISH.replace("river before", "road until"))
    overlap = len(np.intersect1d(left, right)) / len(np.union1d(left, right))
    rows = [ENGLISH, ENGLISH.replace("river before", "road until")]
    assert 0.5 < overlap < 0.9
    assert finder(rows) == ["", ""]


def test_hashes_do_not_depend_on_the_process() -> None:
    assert shingles("abcdef").tolist() == sorted(
        sum(ord(letter) * 1099511628211**index for index, letter in enumerate(run)) % 2**64
        for run in ("abcde", "bcdef")
    )
