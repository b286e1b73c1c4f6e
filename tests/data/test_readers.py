"""Files as users have them: clean rows are kept, each fault is counted or refused with its place and its remedy."""

import json
import os
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from afp_ray.config import DataConfig, SourceConfig
from afp_ray.data import sources
from afp_ray.data.readers import archives, scripts
from afp_ray.errors import DataError


def config(kind: str, path: Path | str, *languages: str, **fields: Any) -> DataConfig:
    source = SourceConfig(kind=kind, path=str(path))  # type: ignore[arg-type]
    return DataConfig(sources=(source,), languages=languages or ("zh",), **fields)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def squad(*paragraphs: tuple[str, list[tuple[str, str, str]]]) -> str:
    """SQuAD JSON of (context, [(id, question, answer)])."""
    held = [
        {
            "context": context,
            "qas": [
                {"id": i, "question": q, "answers": [{"text": a, "answer_start": 0}] if a else []} for i, q, a in qas
            ],
        }
        for context, qas in paragraphs
    ]
    return json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": held}]})


def test_tsv_keeps_clean_rows_and_counts_the_others_by_reason(tmp_path: Path) -> None:
    path = write(
        tmp_path / "pairs.tsv",
        b"\xef\xbb\xbfone\t\xe4\xb8\x80\r\n"  # byte order mark and CRLF
        b"two\r\n"  # ragged
        b"three\t\xe4\xb8\x89\textra\r\n"  # ragged
        b"\t\xe5\x9b\x9b\r\n"  # empty
        b"  five  \t \xe4\xba\x94 \r\n"
        b"OK\tOK\r\n"  # identical
        b"nul\t\x00\r\n"  # control
        b"one\t\xe4\xb8\x80\r\n"  # repeated
        b"\r\n"  # ragged: an empty line
        b"six\t\xe5\x85\xad",  # no line end
    )
    pairs, (report,) = sources.read_pairs(config("tsv", path))
    assert [(pair.source, pair.target) for pair in pairs] == [("one", "一"), ("five", "五"), ("six", "六")]
    assert {(pair.source_language, pair.target_language) for pair in pairs} == {("en", "zh")}
    assert report.refused == {"ragged": 3, "empty": 1, "identical": 1, "control": 1, "repeated": 1}
    assert (report.num_read, report.num_kept) == (10, 3)
    assert report.num_read == report.num_kept + sum(report.refused.values())


def test_text_is_brought_to_one_normal_form(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Sí, così è")
    (pair,) = sources.load_pairs(config("tsv", write(tmp_path / "a.tsv", f"yes\t{decomposed}\n"), "it"))
    assert pair.target == "Sí, così è"


def test_separators_inside_a_sentence_do_not_end_its_line(tmp_path: Path) -> None:
    text = "a\u2028b\x85c\x0bd"
    pairs = sources.load_pairs(config("tsv", write(tmp_path / "a.tsv", f"{text}\t甲\ntwo\t乙\n")))
    assert [pair.source for pair in pairs] == [text, "two"]


def test_repeated_pivot_sentences_share_their_content_across_languages(tmp_path: Path) -> None:
    write(tmp_path / "en-zh.tsv", "cat\t猫\ndog\t狗\n")
    write(tmp_path / "en-sw.tsv", "dog\tmbwa\n")
    pairs = sources.load_pairs(config("tsv", tmp_path / "{source}-{target}.tsv", "zh", "sw"))
    content = {(pair.target_language, pair.source): pair.content_id for pair in pairs}
    assert content["zh", "dog"] == content["sw", "dog"] != content["zh", "cat"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n", "is empty"),
        (b"a\xe4\n", "a.tsv:1: byte 0xe4 is not UTF-8"),
        ("one\t一\n".encode() + "zwei\tüber\n".encode("latin-1"), "a.tsv:2: byte 0xfc is not UTF-8"),
        ("one\t一\n".encode("utf-16"), "a.tsv:1: byte 0xff is not UTF-8"),
        (b"one two\nthree\n", "none of 2 rows is usable (2 ragged)"),
        (b"same\tsame\n", "none of 1 rows is usable (1 identical)"),
        ("一\tone\n二\ttwo\n".encode(), "swap the two sides"),
    ],
)
def test_unusable_tsv_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "a.tsv", content)
    with pytest.raises(DataError) as caught:
        sources.check(config("tsv", path, num_pairs=1, num_instructions=0))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "fix:" in str(caught.value)


def test_paths_that_are_no_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    faults = {"": "is a folder", "pipe": "a pipe or", "none.tsv": "does not exist", "loop": "cannot be read"}
    for name, message in faults.items():
        with pytest.raises(DataError, match=message) as caught:
            sources.check(config("tsv", tmp_path / name, num_instructions=0))
        assert caught.value.fix
    with pytest.raises(DataError, match="NUL"):
        sources.check(config("tsv", f"{tmp_path}/\0", num_instructions=0))
    with pytest.raises(DataError, match="is not a folder"):
        sources.check(config("tico19", write(tmp_path / "file", "x"), num_instructions=0))
    with pytest.raises(DataError, match="does not exist"):
        sources.check(config("tatoeba", tmp_path / "away", num_instructions=0))


def test_home_and_the_data_variable_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AFP_DATA_DIR", str(tmp_path / "data"))
    write(tmp_path / "data" / "a.tsv", "one\t一\n")
    for path in ("~/data/a.tsv", "${AFP_DATA_DIR}/a.tsv"):
        assert len(sources.load_pairs(config("tsv", path))) == 1
    monkeypatch.delenv("AFP_DATA_DIR")
    with pytest.raises(DataError, match="not set") as caught:
        sources.load_pairs(config("tsv", "${AFP_DATA_DIR}/a.tsv"))
    assert "export AFP_DATA_DIR" in caught.value.fix
    with pytest.raises(DataError, match="unknown variable"):
        sources.load_pairs(config("tsv", "${HOME}/a.tsv"))


def test_one_tsv_cannot_hold_two_languages(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "one\t一\n")
    with pytest.raises(DataError, match="cannot hold 2 languages") as caught:
        sources.load_pairs(config("tsv", path, "zh", "th"))
    assert "{target}" in caught.value.fix


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("news.{target}.txt", ("news.en.txt", "news.th.txt")),
        ("{source}/all.txt", ("en/all.txt", "th/all.txt")),
        ("open.{source}-{target}", ("open.en-th.en", "open.en-th.th")),
        ("open.{target}-{source}", ("open.en-th.en", "open.en-th.th")),  # named in the order of OPUS
        ("{source}-{target}/{language}.txt", ("en-th/en.txt", "en-th/th.txt")),
    ],
)
def test_aligned_files_are_found_by_their_template(tmp_path: Path, template: str, names: tuple[str, str]) -> None:
    write(tmp_path / names[0], "one\n\nthree\n")
    write(tmp_path / names[1], "หนึ่ง\nสอง\nสาม")
    pairs, (report,) = sources.read_pairs(config("aligned", tmp_path / template, "th"))
    assert [(pair.source, pair.target) for pair in pairs] == [("one", "หนึ่ง"), ("three", "สาม")]
    assert report.refused == {"empty": 1}


def test_aligned_files_of_different_lengths_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.en", "1\n2\n3\n")
    write(tmp_path / "a.th", "๑\n๒\n")
    with pytest.raises(DataError, match=r"a\.en:3: 3 lines, but .*a\.th has 2"):
        sources.load_pairs(config("aligned", tmp_path / "a.{target}", "th"))
    with pytest.raises(DataError, match="where the language stands"):
        sources.load_pairs(config("aligned", tmp_path / "a", "th"))


def test_tico19_takes_the_english_of_the_pair_where_there_is_one(tmp_path: Path) -> None:
    write(tmp_path / "tico19-test.eng", "shared\nx\n")
    write(tmp_path / "tico19-test.zho", "甲\n乙\n")
    write(tmp_path / "eng-swa/tico19-test.eng", "own\nx\n")
    write(tmp_path / "eng-swa/tico19-test.swa", "yangu\nna\n")
    pairs = sources.load_pairs(config("tico19", tmp_path, "zh", "sw"))
    assert [(pair.source, pair.target, pair.content_id) for pair in pairs] == [
        ("shared", "甲", "tico19:1"),
        ("x", "乙", "tico19:2"),
        ("own", "yangu", "tico19:1"),
        ("x", "na", "tico19:2"),
    ]


def test_archives_give_what_their_files_would(tmp_path: Path) -> None:
    write(tmp_path / "plain/tatoeba.cmn-eng.cmn", "猫\n狗\n")
    write(tmp_path / "plain/tatoeba.cmn-eng.eng", "cat\ndog\n")
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed/all.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "plain", arcname=".")
    wanted = config("tatoeba", tmp_path / "plain")
    for path in (tmp_path / "packed", tmp_path / "packed/all.tar.xz"):
        assert sources.load_pairs(config("tatoeba", path)) == sources.load_pairs(wanted)
        assert sources.fingerprint(config("tatoeba", path, num_instructions=0)) == sources.fingerprint(
            config("tatoeba", tmp_path / "plain", num_instructions=0)
        )
    broken = write(tmp_path / "broken.tar.xz", (tmp_path / "packed/all.tar.xz").read_bytes()[:80])
    with pytest.raises(DataError, match="cannot be read"):
        sources.load_pairs(config("tatoeba", broken))


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 10)
    with tarfile.open(tmp_path / "big.tar.gz", "w:gz") as archive:
        archive.add(write(tmp_path / "zeros", b"\0" * 11))
    with pytest.raises(DataError, match="unpacks to more than 10 bytes"):
        sources.load_pairs(config("flores", tmp_path / "big.tar.gz"))


def test_tatoeba_pairs_every_language_with_english_alone(tmp_path: Path) -> None:
    write(tmp_path / "tatoeba.cmn-eng.cmn", "猫\n")
    write(tmp_path / "tatoeba.cmn-eng.eng", "cat\n")
    (pair,) = sources.load_pairs(config("tatoeba", tmp_path, "en", pivot="zh"))
    assert (pair.source, pair.target, pair.source_language) == ("猫", "cat", "zh")
    with pytest.raises(DataError, match="no pairs of zh with th") as caught:
        sources.load_pairs(config("tatoeba", tmp_path, "th", pivot="zh"))
    assert caught.value.allowed == "beside zh: en"


def test_xquad_rows_hold_all_languages_and_skip_what_one_lacks(tmp_path: Path) -> None:
    write(
        tmp_path / "xquad.en.json", squad(("C1", [("a", "Q1", "A1"), ("b", "Q2", "A2")]), ("C2", [("c", "Q3", "A3")]))
    )
    write(tmp_path / "xquad.th.json", squad(("ค1", [("a", "ถ1", "ต1"), ("b", "ถ2", "")]), ("ค2", [("d", "ถ3", "ต3")])))
    rows, (report,) = sources.read_instructions(config("xquad", tmp_path, "th"))
    (row,) = rows
    assert row.prompts == {"en": "Q1 C1", "th": "ถ1 ค1"}
    assert row.responses == {"en": "A1", "th": "ต1"}
    assert row.content_id == "xquad:0"
    assert report.refused == {"empty": 1, "unmatched": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "xquad.en.json:1:1: no JSON"),
        ('{"data": [\n{"paragraphs": oops}]}', "xquad.en.json:2:16: no JSON"),
        ('{"rows": []}', "not in SQuAD form"),
        ("[1]", "not in SQuAD form"),
        ('{"data": [{"paragraphs": [{"context": 5, "qas": [{"id": 1}]}]}]}', "not in SQuAD form"),
        ('{"data": []}', "none of 0 rows is usable"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_xquad_is_refused(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path / "xquad.en.json", content)
    write(tmp_path / "xquad.th.json", squad(("ค", [("a", "ถ", "ต")])))
    with pytest.raises(DataError) as caught:
        sources.load_instructions(config("xquad", tmp_path, "th"))
    assert message in str(caught.value)


def test_script_share_counts_letters_alone() -> None:
    assert scripts.share_of_script("ab 12 กข!", "Thai") == 0.5
    assert scripts.share_of_script("123 !?", "Latn") == 0.0
