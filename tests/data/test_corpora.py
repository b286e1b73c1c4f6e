"""Bactrian-X, OPUS-100, NTREX-128 and MT-Bench in their released forms: what is read, counted and refused."""

import gzip
import json
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afp_ray.config import DataConfig, SourceConfig
from afp_ray.data import sources
from afp_ray.data.readers import json_array, opus100
from afp_ray.data.readers.files import plain_file
from afp_ray.errors import DataError

Record = tuple[str, str, str, str]
"""id, instruction, input, output."""


def config(kind: str, path: Path | str, *languages: str, **fields: Any) -> DataConfig:
    source = SourceConfig(kind=kind, path=str(path))  # type: ignore[arg-type]
    return DataConfig(sources=(source,), languages=languages or ("zh",), **fields)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def bactrian(*records: Record) -> str:
    """The file as it is released: an indented array."""
    rows = [{"instruction": r[1], "input": r[2], "id": r[0], "output": r[3]} for r in records]
    return json.dumps(rows, indent=1, ensure_ascii=False)


ENGLISH = bactrian(
    ("alpaca-1", "Name a colour.", "", "Red."),
    ("alpaca-2", "Translate.", "cat", "Cat."),
    ("alpaca-3", "SQL?", "", "Yes."),
    ("alpaca-4", "Only here.", "", "Yes."),
    ("alpaca-5", "No answer.", "", "x"),
    ("alpaca-1", "Name a colour.", "", "Red."),
)
CHINESE = bactrian(
    ("alpaca-5", "没有答案。", "", " "),
    ("alpaca-3", "SQL?", "", "是。"),
    ("alpaca-2", "翻译。", "猫", "猫。"),
    ("alpaca-1", "说一种颜色。", "", "红色。"),
)


def test_bactrian_records_are_joined_by_id(tmp_path: Path) -> None:
    write(tmp_path / "en.json", ENGLISH)
    write(tmp_path / "zh.json.gz", gzip.compress(CHINESE.encode()))
    rows, (report,) = sources.read_instructions(config("bactrian_x", tmp_path))
    assert [row.content_id for row in rows] == ["bactrian_x:alpaca-1", "bactrian_x:alpaca-2", "bactrian_x:alpaca-3"]
    assert rows[1].prompts == {"en": "Translate. cat", "zh": "翻译。 猫"}
    assert rows[1].responses == {"en": "Cat.", "zh": "猫。"}
    assert rows[0].prompts["zh"] == "说一种颜色。"
    assert report.refused == {"repeated": 1, "unmatched": 1, "empty": 1}
    assert (report.num_read, report.num_kept) == (6, 3)


def test_bactrian_pairs_are_the_instruction_fields_alone(tmp_path: Path) -> None:
    write(tmp_path / "data/en.json.gz", gzip.compress(ENGLISH.encode()))
    write(tmp_path / "data/zh.json", CHINESE)
    pairs, (report,) = sources.read_pairs(config("bactrian_x", tmp_path))
    assert [(pair.source, pair.target, pair.content_id) for pair in pairs] == [
        ("Name a colour.", "说一种颜色。", "bactrian_x:alpaca-1"),
        ("Translate.", "翻译。", "bactrian_x:alpaca-2"),
        ("No answer.", "没有答案。", "bactrian_x:alpaca-5"),
    ]
    assert report.refused == {"identical": 1, "unmatched": 1, "repeated": 1}
    wanted = config("bactrian_x", tmp_path, num_pairs=3, num_instructions=1)
    sources.check(wanted)
    before = sources.fingerprint(wanted)
    write(tmp_path / "data/zh.json", CHINESE.replace("红", "绿"))
    assert sources.fingerprint(wanted) != before


def test_bactrian_languages_that_are_not_there_name_the_others(tmp_path: Path) -> None:
    write(tmp_path / "en.json", ENGLISH)
    write(tmp_path / "zh.json", CHINESE)
    with pytest.raises(DataError, match="bactrian_x has no instructions in sw") as caught:
        sources.load_instructions(config("bactrian_x", tmp_path, "zh", "sw"))
    assert caught.value.allowed == "en, zh"
    with pytest.raises(DataError, match="bactrian_x has no pairs of en with sw") as caught:
        sources.load_pairs(config("bactrian_x", tmp_path, "sw"))
    assert caught.value.allowed == "beside en: zh"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "zh.json: the file is empty"),
        ('{"id": "a"}\n{"id": "b"}', "record 1 is not in the form of Bactrian-X: it has id"),
        ("[]", "none of 6 rows is usable (1 repeated, 5 unmatched)"),
        ("[1]", "record 1 is not in the form of Bactrian-X: it has no fields"),
        ('[{"id": "a"}]', "record 1 is not in the form of Bactrian-X: it has id"),
        (CHINESE.replace('"alpaca-2"', "2.5"), "record 3 is not in the form of Bactrian-X"),
        (CHINESE.replace("},\n", "}\n", 1), "no comma after record 1, but '{'"),
        (CHINESE[:-2], f"byte {len(CHINESE[:-2].encode())}: the file ends after record 4"),
        (CHINESE[:-30], "record 4 is no JSON, or the file ends inside it"),
        (CHINESE + "x", "text after the end of the array: 'x'"),
        (CHINESE.encode("utf-16"), "byte 0xff is not UTF-8"),
        ("[" + '{"id": ' + "[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_bactrian_is_refused_with_its_place(tmp_path: Path, content: str | bytes, message: str) -> None:
    write(tmp_path / "en.json", ENGLISH)
    path = write(tmp_path / "zh.json", content)
    for load in (sources.load_instructions, sources.load_pairs):
        with pytest.raises(DataError) as caught:
            load(config("bactrian_x", tmp_path))
        assert message in str(caught.value)
        assert str(path) in str(caught.value)
        assert caught.value.fix


def test_a_gzip_file_that_is_cut_off_names_the_byte(tmp_path: Path) -> None:
    write(tmp_path / "en.json", ENGLISH)
    packed = gzip.compress(CHINESE.encode())
    for size in (len(packed) - 1, len(packed) // 2, 5):
        write(tmp_path / "zh.json.gz", packed[:size])
        with pytest.raises(DataError, match=f"cut off at byte {size}") as caught:
            sources.load_pairs(config("bactrian_x", tmp_path))
        assert caught.value.where == str(tmp_path / "zh.json.gz")
    write(tmp_path / "zh.json.gz", CHINESE)
    with pytest.raises(DataError, match=r"plain text named \.gz"):
        sources.load_pairs(config("bactrian_x", tmp_path))
    damaged = bytearray(packed)
    damaged[-6] ^= 1  # the check sum
    write(tmp_path / "zh.json.gz", bytes(damaged))
    with pytest.raises(DataError, match="CRC"):
        sources.load_pairs(config("bactrian_x", tmp_path))


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_chunks_may_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(json_array, "CHUNK_BYTES", chunk)
    text = bactrian(("a-1", '}"],[{', "\\", "红色"), ("a-2", "[", "]", "🦜")) + "\n"
    path = write(tmp_path / "a.json", "\ufeff" + text)
    assert list(json_array.read_array(plain_file(path))) == json.loads(text)


def test_an_array_is_read_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFP_MAX_UNPACK_RATIO", "1000")
    record = json.dumps({"id": "alpaca-1", "instruction": "x" * 1000, "input": "", "output": ""})
    path = write(tmp_path / "a.json.gz", gzip.compress(("[" + ",\n".join([record] * 20_000) + "]").encode()))
    tracemalloc.start()
    count = sum(1 for _ in json_array.read_array(plain_file(path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 10 * json_array.CHUNK_BYTES  # of about 21 MB


def test_a_record_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "CHUNK_BYTES", 64)
    monkeypatch.setattr(json_array, "MAX_RECORD_CHARS", 1000)
    path = write(tmp_path / "a.json", '[{"id": "' + "x" * 100_000)
    with pytest.raises(DataError, match="record 1 is no JSON") as caught:
        list(json_array.read_array(plain_file(path)))
    assert int(caught.value.where.rsplit(" ", 1)[1]) < 5000


def parquet(path: Path, rows: list[Any], *, first: str = "en", second: str = "zh", row_group_size: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([(first, pa.string()), (second, pa.string())])
    table = pa.table({"translation": pa.array(rows, type=kind)})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def test_opus_shards_are_one_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opus100, "BATCH_ROWS", 2)
    parquet(
        tmp_path / "en-zh/train-00000-of-00002.parquet",
        [
            {"en": "one", "zh": "一"},
            None,
            {"en": "two", "zh": None},
            {"en": " three ", "zh": "三"},
            {"en": "4", "zh": "4"},
        ],
    )
    second = parquet(tmp_path / "en-zh/train-00001-of-00002.parquet", [{"en": "five", "zh": "五"}])
    parquet(tmp_path / "en-zh/test-00000-of-00001.parquet", [{"en": "held", "zh": "外"}])
    pairs, (report,) = sources.read_pairs(config("opus100", tmp_path))
    assert [(pair.source, pair.target) for pair in pairs] == [("one", "一"), ("three", "三"), ("five", "五")]
    assert report.refused == {"empty": 2, "identical": 1}
    sources.check(config("opus100", tmp_path, num_pairs=3, num_instructions=0))
    second.unlink()
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet is missing, 1 of 2 files are there"):
        sources.load_pairs(config("opus100", tmp_path))


def test_opus_names_a_pair_in_the_order_of_the_alphabet(tmp_path: Path) -> None:
    parquet(tmp_path / "ar-en.parquet", [{"ar": "قط", "en": "cat"}], first="ar", second="en")
    write(tmp_path / "opus.en2zh.tsv", "cat\t猫\nbroken\n")
    write(tmp_path / "opus.th2en.tsv", "แมว\tcat\n")
    pairs, reports = sources.read_pairs(config("opus100", tmp_path, "ar", "zh", "th"))
    assert [(pair.source, pair.target, pair.target_language) for pair in pairs] == [
        ("cat", "قط", "ar"),
        ("cat", "猫", "zh"),
        ("cat", "แมว", "th"),
    ]
    assert len({pair.content_id for pair in pairs}) == 1
    assert reports[1].refused == {"ragged": 1}
    with pytest.raises(DataError, match="opus100 has no pairs of en with sw") as caught:
        sources.load_pairs(config("opus100", tmp_path, "sw"))
    assert caught.value.allowed == "beside en: zh, ar, th"
    (reverse,) = sources.load_pairs(config("opus100", tmp_path, "en", pivot="ar"))
    assert (reverse.source, reverse.target) == ("قط", "cat")


def test_unusable_opus_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "en-zh.parquet", b"PAR1 and no more")
    with pytest.raises(DataError, match="no readable parquet file") as caught:
        sources.load_pairs(config("opus100", tmp_path))
    assert str(path) in caught.value.where
    pq.write_table(pa.table({"en": ["one"], "zh": ["一"]}), path)
    with pytest.raises(DataError, match="has no translations of en and zh, but columns en, zh"):
        sources.load_pairs(config("opus100", tmp_path))
    parquet(path, [{"en": "one", "de": "eins"}], second="de")
    with pytest.raises(DataError, match="but translation: struct<en: string, de: string>") as caught:
        sources.load_pairs(config("opus100", tmp_path))
    assert caught.value.allowed == "translation: struct<en: string, zh: string>"
    parquet(path, [])
    with pytest.raises(DataError, match="none of 0 rows is usable"):
        sources.load_pairs(config("opus100", tmp_path))
    parquet(path, [{"en": "一", "zh": "one"}])
    with pytest.raises(DataError, match="swap the two sides"):
        sources.load_pairs(config("opus100", tmp_path))


def test_parquet_is_loaded_only_where_it_is_read() -> None:
    code = "import sys, afp_ray.data.sources; print('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_ntrex_lines_share_their_content_plain_or_packed(tmp_path: Path) -> None:
    write(tmp_path / "newstest2019-src.eng.txt", "one\ntwo\n")
    write(tmp_path / "newstest2019-ref.zho-CN.txt", "一\n二\n")
    write(tmp_path / "newstest2019-ref.zho-TW.txt", "壹\n貳\n")
    write(tmp_path / "away/newstest2019-ref.swa.txt", "moja\nmbili\n")
    with tarfile.open(tmp_path / "more.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "away/newstest2019-ref.swa.txt", arcname="newstest2019-ref.swa.txt")
    pairs = sources.load_pairs(config("ntrex", tmp_path, "zh", "sw"))
    assert [(pair.source, pair.target, pair.content_id) for pair in pairs] == [
        ("one", "一", "ntrex:1"),
        ("two", "二", "ntrex:2"),
        ("one", "moja", "ntrex:1"),
        ("two", "mbili", "ntrex:2"),
    ]
    assert sources.load_pairs(config("ntrex", tmp_path, "sw", pivot="zh"))[0].source == "一"
    write(tmp_path / "newstest2019-ref.zho-CN.txt", "一\n")
    with pytest.raises(DataError, match=r"newstest2019-src\.eng\.txt:2: 2 lines"):
        sources.load_pairs(config("ntrex", tmp_path))


def mt_bench(folder: Path, questions: dict[int, str], answers: dict[int, str]) -> None:
    rows = [{"question_id": i, "category": "c", "turns": [text, "second"]} for i, text in questions.items()]
    held = [{"question_id": i, "choices": [{"index": 0, "turns": [text, "second"]}]} for i, text in answers.items()]
    write(folder / "question.jsonl", "\n".join(json.dumps(row) for row in rows))
    write(folder / "reference_answer/gpt-4.jsonl", "".join(json.dumps(row) + "\n" for row in held))


def test_mt_bench_gives_first_turns_that_every_language_answers(tmp_path: Path) -> None:
    mt_bench(tmp_path / "mt_bench", {81: "Q1", 82: "Q2", 83: "Q3"}, {82: "A2", 83: "A3"})
    mt_bench(tmp_path / "mt_bench_thai", {81: "ถ1", 82: "ถ2", 83: "ถ3"}, {81: "ต1", 82: "ต2", 83: " "})
    rows, (report,) = sources.read_instructions(config("mt_bench", tmp_path, "th"))
    (row,) = rows
    assert (row.prompts, row.responses) == ({"en": "Q2", "th": "ถ2"}, {"en": "A2", "th": "ต2"})
    assert row.content_id == "mt_bench:82"
    assert report.refused == {"unmatched": 1, "empty": 1}
    with pytest.raises(DataError, match="mt_bench has no instructions in de") as caught:
        sources.load_instructions(config("mt_bench", tmp_path, "th", "de"))
    assert caught.value.allowed == "en, th"
    write(tmp_path / "mt_bench_thai/question.jsonl", '{"question_id": 81, "turns": ["a"]}\n{"question_id": 82}\n')
    with pytest.raises(DataError, match=r"question\.jsonl:2: the line is not in the form of MT-Bench \(KeyError"):
        sources.load_instructions(config("mt_bench", tmp_path, "th"))
    with pytest.raises(DataError, match="no source holds translation pairs, only mt_bench"):
        sources.load_pairs(config("mt_bench", tmp_path, "th"))
