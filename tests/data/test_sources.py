"""Sources of a trial: which languages they have, what `check` refuses, what the fingerprint names."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from afp_ray.config import DataConfig, SourceConfig
from afp_ray.data import embedded, sources
from afp_ray.errors import DataError


def tsv(folder: Path, **rows: int) -> SourceConfig:
    """A source with `rows` distinct pairs by language; a later language repeats the English of an earlier one."""
    folder.mkdir(exist_ok=True)
    for language, count in rows.items():
        text = "".join(f"word {n}\t{language} {n}\n" for n in range(count))
        (folder / f"{language}.tsv").write_text(text)
    return SourceConfig(kind="tsv", path=str(folder / "{target}.tsv"))


def config(*held: SourceConfig, languages: tuple[str, ...] = ("de", "fr"), **fields: Any) -> DataConfig:
    return DataConfig(sources=held, languages=languages, **{"num_instructions": 0, "num_pairs": 1} | fields)


def test_sources_add_up_and_a_pair_counts_once(tmp_path: Path) -> None:
    both = (tsv(tmp_path / "a", de=3), tsv(tmp_path / "b", de=5, fr=2))
    pairs, reports = sources.read_pairs(config(*both))
    assert [pair.target for pair in pairs] == ["de 0", "de 1", "de 2", "de 3", "de 4", "fr 0", "fr 1"]
    assert [(report.language, report.num_kept) for report in reports] == [("de", 3), ("de", 2), ("fr", 2)]
    assert reports[1].refused == {"repeated": 3}


def test_a_language_that_no_source_has_is_refused_with_those_they_have(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no source has pairs of en with it") as caught:
        sources.check(config(tsv(tmp_path, de=3, fr=2), languages=("de", "it")))
    assert caught.value.allowed == "tsv: de, fr"
    with pytest.raises(DataError, match="tsv has no pairs of en with it") as caught:
        sources.check(config(tsv(tmp_path, de=3, fr=2), languages=("it",)))
    assert caught.value.allowed == "beside en: de, fr"


def test_more_pairs_than_there_are_are_refused_with_the_counts(tmp_path: Path) -> None:
    source = tsv(tmp_path, de=3, fr=2)
    sources.check(config(source, num_pairs=5))
    with pytest.raises(DataError, match=r"6 pairs asked, but the sources have 5 \(de 3, fr 2\)") as caught:
        sources.check(config(source, num_pairs=6))
    assert caught.value.where == "data.num_pairs"
    assert caught.value.allowed == "0 to 5"


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    source = tsv(tmp_path, de=3, fr=2)
    before = sources.fingerprint(config(source))
    with pytest.raises(DataError):
        sources.check(config(source, num_pairs=6))
    tsv(tmp_path, de=30)
    sources.check(config(source, num_pairs=6))
    assert sources.fingerprint(config(source)) != before


def test_instructions_need_a_source_that_has_every_language(tmp_path: Path) -> None:
    pairs_alone = tsv(tmp_path / "pairs", de=3, fr=2)
    with pytest.raises(DataError, match="no source holds instructions, only tsv") as caught:
        sources.check(config(pairs_alone, num_instructions=1))
    assert "data.num_instructions: 0" in caught.value.fix
    sources.check(config(pairs_alone, num_instructions=1, translation_share=1.0))
    (tmp_path / "xquad.en.json").write_text("{}")
    (tmp_path / "xquad.de.json").write_text("{}")
    xquad = SourceConfig(kind="xquad", path=str(tmp_path))
    with pytest.raises(DataError, match="xquad has no instructions in fr") as caught:
        sources.check(config(xquad, num_pairs=0, num_instructions=1))
    assert caught.value.allowed == "en, de"
    with pytest.raises(DataError, match="no source holds translation pairs, only xquad"):
        sources.check(config(xquad))
    with pytest.raises(DataError, match="embedded corpus has no instructions in it") as caught:
        sources.check(config(SourceConfig(), languages=("zh", "it"), num_pairs=0, num_instructions=1))
    assert caught.value.allowed == ", ".join(embedded.LANGUAGES)


def test_translation_tasks_need_pairs(tmp_path: Path) -> None:
    source = tsv(tmp_path, de=3, fr=2)
    with pytest.raises(DataError, match="no pairs to make the tasks from"):
        sources.check(config(source, num_pairs=0, num_instructions=4, translation_share=1.0))


def test_more_instructions_than_rows_are_allowed() -> None:
    sources.check(config(SourceConfig(), languages=("zh", "th"), num_pairs=10, num_instructions=10**6))


def test_the_embedded_source_gives_the_training_split_in_the_configured_languages() -> None:
    wanted = config(SourceConfig(), languages=("zh", "sw"), num_instructions=1)
    pairs = sources.load_pairs(wanted)
    heldout = sources.load_heldout_pairs(SourceConfig(), pivot="en", language="zh", split="test", num_pairs=50)
    assert {pair.target_language for pair in pairs} == {"zh", "sw"}
    assert {pair.source_language for pair in pairs} == {"en"}
    assert {pair.content_id for pair in pairs}.isdisjoint(pair.content_id for pair in heldout)
    rows = sources.load_instructions(wanted)
    assert len(rows) == len(embedded.parallel_instructions("train"))
    assert all(set(row.prompts) == set(row.responses) == {"en", "zh", "sw"} for row in rows)


def test_the_fingerprint_names_content_not_paths(tmp_path: Path) -> None:
    source = tsv(tmp_path / "a", de=3, fr=2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    moved = SourceConfig(kind="tsv", path=str(tmp_path / "b" / "{target}.tsv"))
    base = sources.fingerprint(config(source))
    assert sources.fingerprint(config(moved)) == base
    os.utime(tmp_path / "b" / "de.tsv", (1, 1))
    assert sources.fingerprint(config(moved)) == base
    assert sources.fingerprint(config(source, languages=("de",))) != base
    (tmp_path / "b" / "fr.tsv").write_text("word 0\tfr other\nword 1\tfr 1\n")
    assert sources.fingerprint(config(moved)) != base
    assert len(base) == 64


def test_the_fingerprint_leaves_out_what_the_trial_does_not_read(tmp_path: Path) -> None:
    untrained = {"num_pairs": 0, "num_instructions": 0}
    missing = SourceConfig(kind="tsv", path=str(tmp_path / "none.tsv"))
    assert sources.fingerprint(config(missing, **untrained)) == sources.fingerprint(config(SourceConfig(), **untrained))
    with pytest.raises(DataError, match="does not exist"):
        sources.fingerprint(config(missing, languages=("de",)))


def test_rows_are_read_only_where_the_trial_asks_for_them(tmp_path: Path) -> None:
    source = tsv(tmp_path, de=3, fr=2)
    assert len(sources.load_pairs(config(source))) == 5
    assert sources.load_instructions(config(source)) == []
    assert sources.load_instructions(config(source, num_instructions=9, translation_share=1.0)) == []
    assert sources.load_pairs(config(source, num_pairs=0)) == []


def test_trials_that_read_the_same_rows_share_their_reading_config(tmp_path: Path) -> None:
    source = tsv(tmp_path, de=3, fr=2)
    one = config(source, num_pairs=2, num_instructions=5, translation_share=0.2, cross_probability=0.1, seed=1)
    other = config(source, num_pairs=4, num_instructions=7, translation_share=0.9, cross_probability=0.9, seed=2)
    assert sources.reading_config(one) == sources.reading_config(other)
    for changed in ({"num_pairs": 0}, {"num_instructions": 0}, {"translation_share": 1.0}, {"translation_share": 0.0}):
        assert sources.reading_config(one.model_copy(update=changed)) != sources.reading_config(one)
    pairs_alone = config(source, num_pairs=4)
    assert sources.fingerprint(pairs_alone) == sources.fingerprint(sources.reading_config(pairs_alone))


def test_heldout_halves_split_by_line_so_that_languages_share_content(tmp_path: Path) -> None:
    (tmp_path / "tico19-test.eng").write_text("a\nb\nc\nd\n")
    (tmp_path / "tico19-test.deu").write_text("A\n\nC\nD\n")  # the second line is unusable in German alone
    (tmp_path / "tico19-test.fra").write_text("à\nbé\ncé\ndé\n")
    source = SourceConfig(kind="tico19", path=str(tmp_path))

    def content(language: str, split: Any) -> list[str]:
        pairs = sources.load_heldout_pairs(source, pivot="en", language=language, split=split, num_pairs=1)
        return [pair.content_id for pair in pairs]

    assert content("de", "test") == content("fr", "test") == ["tico19:3"]
    assert content("de", "validation") == ["tico19:1"]
    with pytest.raises(DataError, match="2 held-out pairs asked, but tico19 has 1 of de in validation"):
        sources.load_heldout_pairs(source, pivot="en", language="de", split="validation", num_pairs=2)
    with pytest.raises(DataError, match="no pairs of en with th"):
        sources.load_heldout_pairs(source, pivot="en", language="th", split="test", num_pairs=1)


def test_heldout_pairs_repeat_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("x\tX\nx\tY\nz\tX\nq\tQ\n" * 2)
    source = SourceConfig(kind="tsv", path=str(tmp_path / "a.tsv"))
    pairs = sources.load_heldout_pairs(source, pivot="en", language="de", split="test", num_pairs=2)
    assert [(pair.source, pair.target) for pair in pairs] == [("x", "X"), ("q", "Q")]


def test_the_readers_and_the_mixes_load_no_heavy_library() -> None:
    code = "import sys, afp_ray.data.sources, afp_ray.data.mixing; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("torch", "numpy", "ray", "transformers", "datasets") if f"'{name}'" in loaded]


def test_heldout_fingerprint_depends_on_content_and_languages(tmp_path: Path) -> None:
    source = tsv(tmp_path, de=3, fr=2)
    one = sources.heldout_fingerprint(source, "en", ["de"])
    assert one == sources.heldout_fingerprint(source, "en", ("de",))
    assert one != sources.heldout_fingerprint(source, "en", ["de", "fr"])
    assert one != sources.heldout_fingerprint(SourceConfig(), "en", ["de"])
