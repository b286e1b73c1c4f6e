"""One row per language: what every row must hold, and that each benchmark renders in all of its languages."""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from afp_ray.config import DataConfig
from afp_ray.data.quality.scripts import script_of, script_share
from afp_ray.data.readers.codes import tico19_code
from afp_ray.data.readers.scripts import share_of_script
from afp_ray.errors import TaskError
from afp_ray.evaluation.tasks import TASKS
from afp_ray.languages import (
    LANGUAGES,
    OTHERS,
    WORDS,
    declare,
    find_language,
    known_codes,
    language_row,
    name_pattern,
)

_BACTRIAN_X = (
    "af ar az bn cs de en es et fa fi fr gl gu he hi hr id it ja ka kk km ko lt lv mk ml mn mr my ne nl pl ps pt ro ru "
    "si sl sv sw ta te th tl tr uk ur vi xh zh"
)
BACTRIAN_X = _BACTRIAN_X.split()
BENCHMARKS = {
    "xnli": "ar bg de el en es fr hi ru sw th tr ur vi zh",
    "xcopa": "et ht id it qu sw ta th tr vi zh",
    "xstorycloze": "ar en es eu hi id my ru sw te zh",
    "pawsx": "de en es fr ja ko zh",
    "xwinograd": "en fr ja pt ru zh",
}
FLORES_200 = (
    "afr_Latn arb_Arab azj_Latn ben_Beng bul_Cyrl ces_Latn deu_Latn ell_Grek eng_Latn spa_Latn est_Latn eus_Latn "
    "pes_Arab fin_Latn fra_Latn glg_Latn guj_Gujr heb_Hebr hin_Deva hrv_Latn hat_Latn ind_Latn ita_Latn jpn_Jpan "
    "kat_Geor kaz_Cyrl khm_Khmr lit_Latn lvs_Latn mkd_Cyrl mal_Mlym khk_Cyrl mar_Deva mya_Mymr npi_Deva nld_Latn "
    "pol_Latn pbt_Arab por_Latn ron_Latn rus_Cyrl sin_Sinh slv_Latn swe_Latn swh_Latn tam_Taml tel_Telu tha_Thai "
    "tgl_Latn tur_Latn ukr_Cyrl urd_Arab vie_Latn xho_Latn zho_Hans"
)
GOLDEN = Path(__file__).parent / "golden"
WITHOUT_SPACES = {"zh", "ja", "th", "my", "km"}


def golden(task: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((GOLDEN / f"{task}.json").read_text("utf-8"))
    return cases


def test_the_languages_of_bactrian_x_have_every_prompt_word() -> None:
    assert len(BACTRIAN_X) == 52
    lacking = {code: [word for word in WORDS if word not in LANGUAGES[code].words] for code in BACTRIAN_X}
    assert lacking == {code: [] for code in BACTRIAN_X}


def test_codes_are_unique_and_name_their_rows() -> None:
    rows = LANGUAGES.values()
    assert all(len(row.code) == 2 and len(row.code3) == 3 for row in rows)
    for field in ("code", "code3", "name"):
        assert len({getattr(row, field) for row in rows}) == len(LANGUAGES)
    assert all(row.code == code for code, row in LANGUAGES.items())


def test_codes_and_scripts_are_those_of_flores() -> None:
    """Korean is Kore, which names its Chinese characters too, and FLORES has one of the Quechuas."""
    names = {f"{row.code3}_{row.script}" for row in LANGUAGES.values()}
    assert names - {"kor_Kore", "que_Latn"} == set(FLORES_200.split())


def test_the_scripts_without_word_spaces_have_none() -> None:
    assert {code for code, row in LANGUAGES.items() if not row.space} == WITHOUT_SPACES
    assert {row.space for row in LANGUAGES.values()} == {"", " "}


@pytest.mark.parametrize("code", LANGUAGES)
def test_prompt_words_are_written_in_the_script_of_their_language(code: str) -> None:
    language = LANGUAGES[code]
    for word in language.words.values():
        assert word == unicodedata.normalize("NFC", word).strip()
        assert not set(word) & set("?,.;:!|_")
        assert share_of_script(word, language.script) == 1


@pytest.mark.parametrize(
    "script, text",
    [
        ("Beng", "ভাষা"),
        ("Geor", "ენა"),
        ("Gujr", "ભાષા"),
        ("Hebr", "שפה"),
        ("Khmr", "ភាសា"),
        ("Mlym", "ഭാഷ"),
        ("Sinh", "භාෂාව"),
    ],
)
def test_letters_belong_to_one_script(script: str, text: str) -> None:
    scripts = {row.script for row in LANGUAGES.values()}
    assert {name for name in scripts if share_of_script(text, name) > 0} == {script}


def test_yes_and_no_differ_and_so_do_cause_and_effect() -> None:
    for language in LANGUAGES.values():
        for first, second in (("yes", "no"), ("yes", "also"), ("also", "no"), ("because", "so")):
            if first in language.words:
                assert language.literal(first) != language.literal(second)


def test_a_missing_word_names_the_word_the_file_and_the_languages_that_have_it() -> None:
    with pytest.raises(TaskError, match=r"Quechua \(qu\) has no word for 'right'") as caught:
        LANGUAGES["qu"].literal("right")
    assert caught.value.where == "data.language_names.qu.words"
    assert "zh" in caught.value.allowed
    assert "data.language_names: {qu: {words: {right: ...}}}" in caught.value.fix


_ISO_639_1 = (
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el "
    "en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it "
    "iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt "
    "my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl "
    "sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo "
    "za zh zu"
)


def test_every_two_letter_code_has_a_name_and_a_script() -> None:
    rows = {**OTHERS, **LANGUAGES}
    assert set(_ISO_639_1.split()) <= set(rows)
    assert len(rows) == len(OTHERS) + len(LANGUAGES)
    for field in ("code3", "name"):
        assert len({getattr(row, field) for row in rows.values()}) == len(rows)
    assert all(row.code == code and len(row.script) == 4 and row.name for code, row in rows.items())
    assert {row.script for row in rows.values() if not row.space} >= {"Laoo", "Tibt", "Hant"}
    assert {code: tico19_code(code) for code in ("kr", "ku", "om", "am")} == {
        "kr": "kau",
        "ku": "kur",
        "om": "orm",
        "am": "amh",
    }


def test_a_script_that_is_told_by_its_letters_is_told_by_both_rules() -> None:
    words = {"am": "ሰላም", "ti": "ሰላም", "hy": "լեզու", "pa": "ਭਾਸ਼ਾ", "kn": "ಭಾಷೆ", "lo": "ພາສາ", "or": "ଭାଷା", "bo": "སྐད"}
    for code, word in words.items():
        assert share_of_script(word, language_row(code).script) > 0.5
        assert script_share(word, script_of(code)) == 1
        assert script_share("language", script_of(code)) == 0


def test_what_a_study_says_of_a_language_stands_before_the_table_until_the_next_trial() -> None:
    own = {"gsw": {"name": "Zurich German"}, "aaa": {"name": "Ghotuo", "script": "Thai", "words": {"so": "x"}}}
    data = DataConfig.model_validate({"language_names": own, "languages": ["gsw", "aaa"]})
    declare(data.declared)
    try:
        assert (language_row("gsw").name, language_row("gsw").script) == ("Zurich German", "Latn")
        assert (language_row("aaa").space, language_row("aaa").literal("so"), known_codes()[-1]) == ("", "x", "aaa")
        assert re.fullmatch(name_pattern("aaa"), "aaa_Thai")
    finally:
        declare({})
    assert language_row("gsw").name == "Swiss German"
    assert find_language("aaa") is None


@pytest.mark.parametrize(
    ("code", "name", "is_meant"),
    [
        *(("pt", "pt-br", True), ("en", "en-am", False), ("am", "amh_Ethi", True), ("fr", "fr_be", True)),
        *(("ko", "ko-kr", True), ("en", "en-kr", False), ("zh", "zh-tw", True), ("sr", "srp_Latn", False)),
    ],
)
def test_two_letters_after_a_language_are_a_region_or_another_language(code: str, name: str, is_meant: bool) -> None:
    assert (re.fullmatch(name_pattern(code), name) is not None) == is_meant


@pytest.mark.parametrize("task, code", [(task, code) for task, codes in BENCHMARKS.items() for code in codes.split()])
def test_every_language_of_a_benchmark_has_a_native_golden_prompt(task: str, code: str) -> None:
    """The golden prompts themselves are compared to the letter where the tasks are tested."""
    cases = [case for case in golden(task) if case["language"] == case["words"] == code]
    assert cases
    for case in cases:
        row = {"id": "0", "content_id": "0", **case["row"]}
        question = TASKS[task].example(row, LANGUAGES[code], LANGUAGES[code]).question
        assert [list(choice) for choice in question.choices] == case["choices"]


# PAWS-X words three languages apart from these words.
OWN_WORDS = [("xnli", code) for code in BACTRIAN_X]
OWN_WORDS += [("pawsx", code) for code in BACTRIAN_X if code not in ("es", "fr", "zh")]


@pytest.mark.parametrize("task, code", OWN_WORDS)
def test_a_language_renders_questions_in_its_own_words(task: str, code: str) -> None:
    """Any of them may be scored on translated rows of one's own."""
    row = {**golden(task)[0]["row"], "id": "0", "content_id": "0"}
    question = TASKS[task].example(row, LANGUAGES["en"], LANGUAGES[code]).question
    assert all(f", {LANGUAGES[code].literal('right')}?" in context for context, _ in question.choices)
    words = ("no", "yes") if task == "pawsx" else ("yes", "also", "no")
    for (_, ending), word in zip(question.choices, words, strict=True):
        assert ending.startswith(f" {LANGUAGES[code].literal(word)}, ")


@pytest.mark.parametrize("code, expected", [("tr", "ılık"), ("az", "ılık"), ("en", "ilık")])
def test_a_capital_loses_its_size_by_the_rules_of_the_alphabet(code: str, expected: str) -> None:
    row = {"premise": "A.", "choice1": "Ilık", "choice2": "b", "question": "cause", "label": 0}
    question = TASKS["xcopa"].example({"id": "0", "content_id": "0", **row}, LANGUAGES[code], LANGUAGES["en"]).question
    assert question.choices[0][1] == f" {expected}"
