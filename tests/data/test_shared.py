"""Real files of TICO-19, Tatoeba, FLORES-200, NTREX-128, XQuAD and MT-Bench: the traps their folders are known for."""

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from afp_ray.config import DataConfig, SourceConfig
from afp_ray.data import sources
from afp_ray.data.mixing import ANSWER_CLAUSE, draw_instructions, draw_pairs
from afp_ray.data.readers.origins import pair_origin
from afp_ray.data.readers.scripts import share_of_script
from afp_ray.errors import DataError
from afp_ray.languages import LANGUAGES

pytestmark = pytest.mark.shared_data
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def root() -> Path:
    folder = Path(os.environ.get("AFP_DATA_DIR") or BESIDE)
    if not folder.is_dir():
        pytest.skip(f"real data is not at hand: AFP_DATA_DIR is unset and {BESIDE} does not exist")
    return folder


def source(root: Path, kind: Any, folder: str) -> SourceConfig:
    return SourceConfig(kind=kind, path=str(root / folder))


@pytest.mark.parametrize(
    ("kind", "folder", "counts"),
    [
        ("tico19", "tico19", {"zh": 2100, "ar": 2100, "sw": 2100, "hi": 2100}),
        ("tico19", "tico19/tico19-test_all.tar.xz", {"id": 2100, "my": 2100, "ta": 2100, "ur": 2100, "ru": 2100}),
        ("tatoeba", "tatoeba_laser", {"zh": 1000, "ar": 1000, "sw": 390, "th": 548, "ta": 307, "et": 1000}),
        ("ntrex", "ntrex128", {"zh": 1997, "sw": 1997, "th": 1997, "hi": 1997, "ja": 1997, "my": 1997, "ur": 1997}),
        ("ntrex", "ntrex128/ntrex128_30lang.tar.xz", {"ta": 1997, "te": 1997, "et": 1997, "ko": 1997}),
        ("flores", "flores200_devtest", {"zh": 1012, "ar": 1012, "sw": 1012, "th": 1012, "ja": 1012, "de": 1012}),
    ],
)
def test_every_line_is_a_pair_in_the_right_script(root: Path, kind: str, folder: str, counts: dict[str, int]) -> None:
    config = DataConfig(sources=(source(root, kind, folder),), languages=tuple(counts), num_instructions=0)
    started = time.perf_counter()
    sources.check(config)
    assert time.perf_counter() - started < 5  # about half a second, an archive unpacked
    pairs = sources.load_pairs(config)
    found = Counter(pair.target_language for pair in pairs)
    for code, count in counts.items():
        assert count - 10 <= found[code] <= count  # a few rows repeat, or are equal on both sides
        script = LANGUAGES[code].script
        rows = [pair for pair in pairs if pair.target_language == code][::50]
        assert sum(share_of_script(pair.target, script) > 0.5 for pair in rows) > 0.9 * len(rows)
        assert sum(share_of_script(pair.source, "Latn") > 0.5 for pair in rows) > 0.9 * len(rows)
    drawn = Counter(pair.target_language for pair in draw_pairs(pairs, num_pairs=len(counts) * 300, seed=0))
    assert set(drawn.values()) == {300}


def test_an_archive_and_the_files_beside_it_are_one_corpus(root: Path) -> None:
    config = {"languages": ("zh", "sw"), "num_instructions": 0}
    plain, packed = (source(root, "tico19", name) for name in ("tico19", "tico19/tico19-test_all.tar.xz"))
    one, other = (DataConfig(sources=(held,), **config) for held in (plain, packed))
    assert sources.load_pairs(one) == sources.load_pairs(other)
    assert sources.fingerprint(one) == sources.fingerprint(other)


def test_a_language_that_is_not_there_names_the_others(root: Path) -> None:
    with pytest.raises(DataError, match="tico19 has no pairs of en with th") as caught:
        sources.check(DataConfig(sources=(source(root, "tico19", "tico19"),), languages=("th",), num_instructions=0))
    assert {"zh", "ar", "sw", "my"} <= set(caught.value.allowed.removeprefix("beside en: ").split(", "))
    assert "th" not in caught.value.allowed
    xquad = source(root, "xquad", "xquad")
    with pytest.raises(DataError, match="xquad has no instructions in sw") as caught:
        sources.check(DataConfig(sources=(xquad,), languages=("zh", "sw"), num_pairs=0))
    assert set(caught.value.allowed.split(", ")) == {
        "en",
        "zh",
        "de",
        "es",
        "ru",
        "ar",
        "el",
        "hi",
        "th",
        "tr",
        "vi",
        "ro",
    }


@pytest.mark.parametrize("folder", ["xquad", "xquad/xquad_12lang.tar.xz"])
def test_xquad_gives_one_row_a_question_in_every_language(root: Path, folder: str) -> None:
    languages = ("zh", "th", "tr", "ar")
    config = DataConfig(
        sources=(source(root, "xquad", folder),), languages=languages, num_pairs=0, num_instructions=3000
    )
    sources.check(config)
    rows = sources.load_instructions(config)
    assert len(rows) == 1190
    assert len({row.content_id for row in rows}) == 240
    assert all(set(row.prompts) == set(row.responses) == {"en", *languages} for row in rows)
    assert rows[0].responses["en"] == "308"
    assert sum(share_of_script(row.prompts["th"], "Thai") > 0.5 for row in rows) > 0.95 * len(rows)
    drawn = draw_instructions(rows, [], config, seed=0)
    crossing = sum(row.prompt_language != row.response_language for row in drawn)
    assert (len(drawn), crossing) == (3000, 1500)
    assert all(
        row.prompt.endswith(ANSWER_CLAUSE.format(language=LANGUAGES[row.response_language].name)) for row in drawn
    )


def test_mt_bench_answers_most_questions_outside_english(root: Path) -> None:
    folder = source(root, "mt_bench", "mt_bench_multilingual")
    for pivot, languages, count in (("de", ("th", "ja", "hi", "ta"), 80), ("de", ("ur",), 79), ("en", ("th",), 30)):
        config = DataConfig(sources=(folder,), pivot=pivot, languages=languages, num_pairs=0, num_instructions=100)
        sources.check(config)
        rows = sources.load_instructions(config)
        assert len(rows) == count
        assert sum(share_of_script(row.prompts[languages[0]], LANGUAGES[languages[0]].script) > 0.5 for row in rows) > (
            0.8 * count
        )


def test_heldout_halves_hold_the_same_lines_in_every_language(root: Path) -> None:
    held = source(root, "flores", "flores200_devtest")
    content = {
        (language, split): [
            pair.content_id
            for pair in sources.load_heldout_pairs(held, pivot="en", language=language, split=split, num_pairs=400)
        ]
        for language in ("zh", "sw")
        for split in ("validation", "test")
    }
    assert content["zh", "test"] == content["sw", "test"]
    assert set(content["zh", "test"]).isdisjoint(content["zh", "validation"])


def test_declarations_align_in_every_language(root: Path) -> None:
    languages = tuple(code for code in LANGUAGES if code != "en")
    config = DataConfig(sources=(source(root, "udhr", "udhr"),), languages=languages, num_instructions=0)
    pairs, reports = sources.read_pairs(config)
    assert {report.num_read for report in reports} == {60}
    assert min(report.num_kept for report in reports) >= 48  # the 30 articles have 50 paragraphs
    assert all(set(report.refused) <= {"unmatched"} for report in reports)
    by_content = {(pair.target_language, pair.content_id): pair for pair in pairs}
    assert "Rights" not in by_content["fr", "udhr:3.1"].target
    for code in languages:
        script = LANGUAGES[code].script
        assert share_of_script(by_content[code, "udhr:3.1"].target, script) > 0.5
        assert by_content[code, "udhr:3.1"].source.startswith("Everyone has the right to life")


def test_the_languages_of_bactrian_x_are_found_where_a_corpus_has_them(root: Path) -> None:
    found = {
        kind: {
            code
            for code in LANGUAGES
            if code != "en" and pair_origin(source(root, kind, folder), pivot="en", language=code)
        }
        for kind, folder in (("tatoeba", "tatoeba_laser"), ("ntrex", "ntrex128"), ("tico19", "tico19"))
    }
    assert {"az", "fa", "mn", "lv", "et", "gl", "xh", "tl", "zh", "sw"} <= found["tatoeba"]
    assert {"fa", "my", "ml", "uk", "ro", "he", "sw", "zh", "bn"} <= found["ntrex"]
    assert {"fa", "ps", "ne", "km", "mr", "tl", "bn", "sw"} <= found["tico19"]
