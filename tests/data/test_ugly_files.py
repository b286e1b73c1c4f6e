"""Files and folders as people have them: read as what they are, or refused with the reason, never in silence."""

import bz2
import gzip
import json
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afp_ray.config import DataConfig, SourceConfig
from afp_ray.data import sources
from afp_ray.data.readers import streams
from afp_ray.errors import DataError
from services import cli

ROWS = [(f"water flows past house {n}", f"水流过第{n}座房子") for n in range(12)]
LINES = "".join(f"{source}\t{target}\n" for source, target in ROWS)
OBJECTS = [{"en": source, "zh": target} for source, target in ROWS]
COLUMNS = {"source": "{source}", "target": "{target}"}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "a" + "\nsize 123456\n"


def config(kind: str, path: Path | str, **fields: Any) -> DataConfig:
    source = SourceConfig.model_validate({"kind": kind, "path": str(path), **fields})
    return DataConfig(sources=(source,), languages=("zh",), num_pairs=1, num_instructions=0)


def pairs_of(kind: str, path: Path | str, **fields: Any) -> list[tuple[str, str]]:
    wanted = config(kind, path, **fields)
    sources.check(wanted)
    return [(pair.source, pair.target) for pair in sources.load_pairs(wanted)]


def table(path: Path, rows: list[dict[str, str]] = OBJECTS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".GZ": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstd,
}


@pytest.mark.parametrize("ending", PACKED)
def test_packed_files_give_what_their_text_would(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"pairs.tsv{ending}").write_bytes(PACKED[ending](LINES.encode()))
    assert pairs_of("tsv", tmp_path / f"pairs.tsv{ending}") == ROWS
    text = "\n".join(json.dumps(row) for row in OBJECTS)
    (tmp_path / f"rows.jsonl{ending}").write_bytes(PACKED[ending](text.encode()))
    assert pairs_of("jsonl", tmp_path / f"rows.jsonl{ending}", columns=COLUMNS) == ROWS
    (tmp_path / "d").mkdir()
    (tmp_path / f"d/train.tsv{ending}").write_bytes(PACKED[ending](b"en\tzh\n" + LINES.encode()))
    assert pairs_of("datasets", tmp_path / "d", columns=COLUMNS) == ROWS
    for code, place in (("eng_Latn", 0), ("zho_Hans", 1)):
        lines = "".join(f"{row[place]}\n" for row in ROWS)
        (tmp_path / f"{code}.devtest{ending}").write_bytes(PACKED[ending](lines.encode()))
    assert pairs_of("flores", tmp_path) == ROWS


@pytest.mark.parametrize("ending", PACKED)
def test_a_packed_file_that_is_cut_off_says_so(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"pairs.tsv{ending}"
    path.write_bytes(PACKED[ending](os.urandom(6000).hex().encode())[:-2000])
    with pytest.raises(DataError, match=r"cut off at byte \d+") as caught:
        pairs_of("tsv", path)
    assert caught.value.fix == "fetch the file again: a part of it is missing"


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2", ".zst"])
def test_text_that_is_named_as_packed_is_to_be_renamed(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"pairs.tsv{ending}"
    path.write_text(LINES)
    with pytest.raises(DataError, match=f"plain text named {ending}") as caught:
        pairs_of("tsv", path)
    assert caught.value.fix == f"rename it: mv {path} {tmp_path / 'pairs.tsv'}"
    path.write_text("<!DOCTYPE html>\n<html><title>404</title></html>")
    with pytest.raises(DataError, match="a page of HTML, not the file itself"):
        pairs_of("tsv", path)


def test_packed_bytes_are_known_whatever_their_name(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_bytes(gzip.compress(LINES.encode()))
    assert pairs_of("tsv", tmp_path / "pairs.tsv") == ROWS
    (tmp_path / "words.tsv").write_text("BZh is a word\t是一个词\n")
    assert pairs_of("tsv", tmp_path / "words.tsv") == [("BZh is a word", "是一个词")]


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2", ".zst", ".zip"])
def test_what_unpacks_without_end_is_stopped_by_a_limit_that_can_be_raised(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 16)
    text = LINES.encode() + b"a\tb\n" * 200_000
    path = tmp_path / f"x.tsv{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.tsv", text)
    else:
        path.write_bytes(PACKED[ending](text))
    (tmp_path / "study.json").write_text(json.dumps(study({"kind": "tsv", "path": str(path)})))
    assert cli.main(["plan", str(tmp_path / "study.json")]) == 2
    assert "AFP_MAX_UNPACK_RATIO" in capsys.readouterr().err
    monkeypatch.setenv("AFP_MAX_UNPACK_RATIO", "100000")
    assert cli.main(["plan", str(tmp_path / "study.json")]) == 0
    monkeypatch.setenv("AFP_MAX_UNPACK_RATIO", "much")
    os.utime(path, (1, 1))
    assert cli.main(["plan", str(tmp_path / "study.json")]) == 2
    assert "AFP_MAX_UNPACK_RATIO is 'much'" in capsys.readouterr().err


def study(source: dict[str, Any]) -> dict[str, Any]:
    fixed = {
        "model": {"name": "embedded"},
        "data": {"languages": ["zh"], "sources": [source], "num_pairs": 4, "num_instructions": 0},
        "training": {"max_steps": 1, "batch_size": 2},
        "evaluation": {"tasks": ["xcopa"], "limit": 2, "representation": {"num_pairs": 2}},
    }
    return {"name": "ugly", "fixed": fixed, "compare": {"method": ["mcl"]}, "seeds": [0]}


@pytest.mark.parametrize(
    ("kind", "name", "fields"),
    [
        ("tsv", "pairs.tsv", {}),
        ("tsv", "pairs.tsv.gz", {}),
        ("tsv", "pairs.tsv.xz", {}),
        ("tsv", "pairs.zip", {}),
        ("aligned", "news.en", {"path": "news.{target}"}),
        ("jsonl", "rows.jsonl", {"columns": COLUMNS}),
        ("datasets", "d/train.parquet", {"path": "d", "columns": COLUMNS}),
        ("datasets", "d/train.csv", {"path": "d", "columns": COLUMNS}),
        ("datasets", "d/train.arrow", {"path": "d", "columns": COLUMNS}),
        ("opus100", "en-zh.parquet", {"path": "."}),
        ("flores", "eng_Latn.devtest", {"path": "."}),
        ("udhr", "eng.html", {"path": "."}),
        ("bactrian_x", "en.json", {"path": "."}),
    ],
)
def test_a_git_lfs_pointer_is_named_as_such_by_every_reader(
    kind: str, name: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    others = {"news.en": "news.zh", "eng_Latn.devtest": "zho_Hans.devtest", "eng.html": "cmn_hans.html"}
    for file in (name, others.get(name, "zh.json")):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(POINTER)
    path = tmp_path / fields.pop("path", name)
    with pytest.raises(DataError, match="a Git LFS pointer, not the file itself") as caught:
        pairs_of(kind, path, **fields)
    assert "git lfs pull" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.jsonl", json.dumps(OBJECTS)),
        ("rows.jsonl", json.dumps(OBJECTS, indent=2, ensure_ascii=False)),
        ("rows.jsonl", "\n".join(json.dumps(row, indent=1) for row in OBJECTS)),
        ("rows.json", "\n".join(json.dumps(row) for row in OBJECTS)),
        ("ROWS.JSONL", "\r\n".join(json.dumps(row) for row in OBJECTS)),
        ("rows.jsonl", "\ufeff" + json.dumps(OBJECTS)),
    ],
)
def test_json_is_read_by_what_it_is_and_not_by_its_name(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, newline="")
    assert pairs_of("jsonl", tmp_path / name, columns=COLUMNS) == ROWS
    assert pairs_of("datasets", tmp_path, columns=COLUMNS) == ROWS


def test_a_broken_line_of_json_lines_is_one_refused_row(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"en": "broken\n' + "\n".join(json.dumps(row) for row in OBJECTS))
    (report,) = sources.read_pairs(config("jsonl", tmp_path / "rows.jsonl", columns=COLUMNS))[1]
    assert (report.num_kept, report.refused) == (len(ROWS), {"ragged": 1})


def test_bactrian_records_may_lack_an_id_or_number_it(tmp_path: Path) -> None:
    for code in ("en", "zh"):
        records: list[dict[str, Any]] = [
            {"id": n, "instruction": f"{code} asks {n}", "input": None, "output": f"{code} tells {n}"} for n in range(5)
        ]
        records[3]["id"] = None
        records[4]["output"] = None
        text = json.dumps(records) if code == "en" else "\n".join(map(json.dumps, records))
        (tmp_path / f"{code}.json").write_text(text)
    rows, (report,) = sources.read_instructions(config("bactrian_x", tmp_path))
    assert [row.prompts["en"] for row in rows] == ["en asks 0", "en asks 1", "en asks 2"]
    assert {reason: count for reason, count in report.refused.items() if count} == {"ragged": 1, "empty": 1}


def test_quotation_marks_of_a_tsv_are_text_and_those_of_a_csv_are_not(tmp_path: Path) -> None:
    rows = [('"water', "水"), ('say "no" now', "说"), ('fire"', '火"')]
    tsv = "en\tzh\r\n" + "".join(f"{source}\t{target}\r\n" for source, target in rows)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/train.tsv").write_text(tsv, newline="")
    assert pairs_of("datasets", tmp_path / "a", columns=COLUMNS) == rows
    (tmp_path / "b").mkdir()
    (tmp_path / "b/train.csv").write_text('en,zh\n"water, ""cold""\nand wet",水\n')
    assert pairs_of("datasets", tmp_path / "b", columns=COLUMNS) == [('water, "cold"\nand wet', "水")]
    (tmp_path / "b/train.csv").write_text('en,zh\nfire,火\n"water,水\nice,冰\nsand,沙\n')
    with pytest.raises(DataError, match="the table cannot be read") as caught:
        pairs_of("datasets", tmp_path / "b", columns=COLUMNS)
    assert caught.value.where == f"{tmp_path / 'b/train.csv'}:3"


def test_links_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    store = tmp_path / "store"
    table(store / "blob", OBJECTS[:6])
    table(store / "more" / "train-b.parquet", OBJECTS[6:])
    data = tmp_path / "data"
    data.mkdir()
    (data / "train-a.parquet").symlink_to(store / "blob")
    (data / "linked").symlink_to(store / "more")
    (data / "again").symlink_to(data)
    (store / "more" / "up").symlink_to(data)
    assert sorted(pairs_of("datasets", data, columns=COLUMNS)) == sorted(ROWS)
    (data / "train-lost.parquet").symlink_to(store / "nothing")
    with pytest.raises(DataError, match=r"train-lost\.parquet does not exist"):
        pairs_of("datasets", data, columns=COLUMNS)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"], r"train-00001-of-00003\.parquet is missing"),
        (["train-00001-of-00002.parquet"], r"train-00000-of-00002\.parquet is missing"),
        (["train-00000-of-00001.parquet", "train-00000-of-00002.parquet"], "files of 2 releases"),
        (["train/0000.parquet", "train/0002.parquet"], r"0001\.parquet is missing"),
    ],
)
def test_numbered_parts_must_all_be_there(names: list[str], message: str, tmp_path: Path) -> None:
    for name in names:
        table(tmp_path / name)
    with pytest.raises(DataError, match=message):
        pairs_of("datasets", tmp_path, columns=COLUMNS)


def test_hidden_files_and_backups_hold_no_rows(tmp_path: Path) -> None:
    table(tmp_path / "train.PARQUET")
    for name in (
        ".DS_Store",
        "._train.parquet",
        "train.parquet~",
        "train.parquet.part",
        ".hidden.jsonl",
        "~$train.csv",
    ):
        (tmp_path / name).write_text("nothing of use")
    (tmp_path / "train.jsonl").mkdir()
    assert pairs_of("datasets", tmp_path, columns=COLUMNS) == ROWS


def test_utf16_is_named(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-16-be"):
        (tmp_path / "eng.html").write_text("<article data-number='1'><p>All</p></article>", encoding=encoding)
        (tmp_path / "cmn_hans.html").write_text("<article data-number='1'><p>All</p></article>", encoding=encoding)
        with pytest.raises(DataError, match="UTF-16") as caught:
            pairs_of("udhr", tmp_path)
        assert "iconv -f UTF-16" in caught.value.fix


@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
def test_rows_that_repeat_without_end_take_no_room(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFP_MAX_UNPACK_RATIO", "2000")
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("afp_ray.data.pair_parts.MAX_MEMORY_BYTES", -1)
    lines = LINES if kind == "tsv" else "".join(f"{json.dumps(row)}\n" for row in OBJECTS)
    many = 200_000
    path = tmp_path / f"rows.{kind}.gz"
    path.write_bytes(gzip.compress((lines + many * (lines.split("\n")[0] + "\n")).encode()))
    fields = {} if kind == "tsv" else {"columns": COLUMNS}
    pairs, (report,) = sources.read_pairs(config(kind, path, **fields))
    assert [(pair.source, pair.target) for pair in pairs] == ROWS
    assert (report.num_read, report.num_kept, dict(report.refused)) == (12 + many, 12, {"repeated": many})
    assert sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*") if file.is_file()) < 1 << 16
