"""Large sources: rows on disk are those that memory would hold, read once, shared, and never half written."""

import json
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afp_ray.cache import cache_folder
from afp_ray.config import DataConfig, SourceConfig
from afp_ray.data import pair_parts, row_cache, row_file, row_tables, sources
from afp_ray.data.drawing import draw_pairs, remove_heldout
from afp_ray.data.readers import parallel
from afp_ray.data.row_file import RowFile, RowWriter
from afp_ray.data.rows import PairTable, TranslationPair
from afp_ray.errors import DataError, StorageError
from benchmarks import reading


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rows"


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_parts, "MAX_MEMORY_BYTES", -1)


def corpus(folder: Path, **languages: Sequence[int]) -> SourceConfig:
    folder.mkdir(parents=True, exist_ok=True)
    for language, numbers in languages.items():
        (folder / f"{language}.tsv").write_text("".join(f"word {n}\t{language} {n}é\n" for n in numbers))
    return SourceConfig(kind="tsv", path=str(folder / "{target}.tsv"))


def config(*held: SourceConfig, languages: tuple[str, ...] = ("de", "fr"), **fields: Any) -> DataConfig:
    return DataConfig(sources=held, languages=languages, **{"num_instructions": 0, "num_pairs": 1} | fields)


def both_ways(wanted: DataConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[list[TranslationPair], PairTable, Any, Any]:
    """Rows and reports as memory holds them, then as the disk does."""
    plain, plain_reports = sources.read_pairs(wanted)
    monkeypatch.setattr(pair_parts, "MAX_MEMORY_BYTES", -1)
    table, reports = sources.read_pairs(wanted)
    assert isinstance(plain, list)
    assert isinstance(table, PairTable)
    return plain, table, plain_reports, reports


def test_repeats_within_and_across_sources_are_dropped_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_file, "CHUNK_NUMBERS", 4)  # many parts
    monkeypatch.setattr(row_file, "BLOCK_ROWS", 3)
    first = corpus(tmp_path / "a", de=[*range(20), 3, 3, 19], fr=range(5))
    second = corpus(tmp_path / "b", de=[40, 2, 41, 40, 7], fr=range(3, 9))
    plain, table, *reports = both_ways(config(first, second), monkeypatch)
    assert table == plain
    assert reports[0] == reports[1]
    assert [report.refused["repeated"] for report in reports[1]] == [3, 0, 3, 2]
    assert table[-1] == plain[-1]
    assert table[3:27:5] == plain[3:27:5]
    for place in (len(plain), -len(plain) - 1):
        with pytest.raises(IndexError):
            table[place]


def test_draws_are_the_same_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, table, *_ = both_ways(config(corpus(tmp_path, de=range(90), fr=[*range(30), 4])), monkeypatch)
    assert draw_pairs(table, num_pairs=70, seed=3) == draw_pairs(plain, num_pairs=70, seed=3)
    by_language = table.by_language()
    assert {language: len(rows) for language, rows in by_language.items()} == {"de": 90, "fr": 30}
    assert list(by_language["fr"]) == [pair for pair in plain if pair.target_language == "fr"]


def test_heldout_sentences_are_taken_out_on_either_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, table, *_ = both_ways(config(corpus(tmp_path, de=[5, 5, *range(50)], fr=range(30))), monkeypatch)
    heldout = [
        TranslationPair("word 4", "unseen", "en", "th", ""),
        TranslationPair("unseen", "de 7é", "en", "de", ""),
        TranslationPair("word 9", "fr 2é", "fr", "en", ""),  # other languages: neither side is taken out
    ]
    kept, removed = remove_heldout(table, heldout)
    expected, count = remove_heldout(plain, heldout)
    assert list(kept) == list(expected)
    assert removed == count == 3
    again, none = remove_heldout(kept, heldout)
    assert (list(again), none) == (list(kept), 0)


def test_equal_numbers_alone_take_no_row_out(tmp_path: Path, on_disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    table = sources.load_pairs(config(corpus(tmp_path, de=range(9), fr=range(9))))
    monkeypatch.setattr(row_tables, "numbers_of", lambda texts: np.concatenate([part.columns()[0](0, 9) for part in
                                                                                table._pairs]))  # fmt: skip
    kept, removed = table.without_sentences([("en", "a sentence whose number is that of others")])
    assert (len(kept), removed) == (18, 0)


def test_heldout_pairs_from_disk_are_those_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = corpus(tmp_path, de=[1, 1, 2, 3, 4, 5, 1, 6])
    found = []
    for limit in (1 << 20, -1):
        monkeypatch.setattr(pair_parts, "MAX_MEMORY_BYTES", limit)
        for split in ("validation", "test"):
            pairs = sources.load_heldout_pairs(source, pivot="en", language="de", split=split, num_pairs=3)
            found.append([pair.source for pair in pairs])
    assert found[:2] == found[2:] == [["word 1", "word 2", "word 3"], ["word 4", "word 5", "word 1"]]


def test_rows_are_read_once_for_the_same_bytes(
    tmp_path: Path, on_disk: None, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sources.load_pairs(config(corpus(tmp_path / "a", de=range(4), fr=range(4))))
    assert len(list(cache.glob("*.rows"))) == 2
    assert list(pickle.loads(pickle.dumps(first))) == list(first)
    copy = corpus(tmp_path / "b", de=range(4), fr=range(5))
    read: list[str] = []
    lines = parallel.stream_lines
    monkeypatch.setattr(parallel, "stream_lines", lambda file: (read.append(Path(file.path).name), lines(file))[1])
    second = sources.load_pairs(config(copy))
    assert read == ["fr.tsv"]
    assert list(second)[:8] == list(first)
    assert len(list(cache.glob("*.rows"))) == 3
    assert not list(cache.glob("*.partial"))


def test_a_file_that_was_not_finished_is_made_again(tmp_path: Path, on_disk: None, cache: Path) -> None:
    wanted = config(corpus(tmp_path, de=range(50)), languages=("de",))
    rows = list(sources.load_pairs(wanted))
    (file,) = cache.glob("*.rows")
    whole = file.read_bytes()
    for broken in (b"", whole[:-9], whole[: len(whole) // 2], whole[:-1] + b"?"):
        file.write_bytes(broken)
        assert list(sources.load_pairs(wanted)) == rows
        assert file.read_bytes() == whole


def test_a_refused_source_leaves_nothing_behind(tmp_path: Path, on_disk: None, cache: Path) -> None:
    (tmp_path / "de.tsv").write_text("no tab\n" * 3)
    for _ in range(2):
        with pytest.raises(DataError, match=r"none of 3 rows is usable \(3 ragged\)"):
            sources.load_pairs(config(SourceConfig(kind="tsv", path=str(tmp_path / "{target}.tsv")), languages=("de",)))
    assert [path.suffix for path in cache.iterdir()] in ([], [".lock"])


def test_a_swapped_file_is_refused_from_disk_too(tmp_path: Path, on_disk: None) -> None:
    (tmp_path / "th.tsv").write_text("".join(f"คำ {n}\tword {n}\n" for n in range(1000)))
    with pytest.raises(DataError, match="written in Thai script"):
        sources.load_pairs(config(SourceConfig(kind="tsv", path=str(tmp_path / "{target}.tsv")), languages=("th",)))


def test_a_cache_that_cannot_be_written_is_said_and_does_no_harm(
    tmp_path: Path, on_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "taken"))
    monkeypatch.setattr(row_cache.tempfile, "tempdir", str(tmp_path))
    wanted = config(corpus(tmp_path / "a", de=range(9)), languages=("de",))
    with pytest.warns(UserWarning, match="rows cannot be kept in .*Set AFP_CACHE to a folder that can be written"):
        rows = sources.load_pairs(wanted)
    assert [pair.source for pair in rows] == [f"word {n}" for n in range(9)]
    assert not list(tmp_path.glob("afp_rows_*"))


def test_no_space_for_rows_names_the_place(tmp_path: Path, on_disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: RowWriter, *_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RowWriter, "append", full)
    with pytest.raises(StorageError, match=r"rows cannot be written to .*rows: .*No space left.* set AFP_CACHE"):
        sources.load_pairs(config(corpus(tmp_path, de=range(3)), languages=("de",)))


def test_several_processes_make_one_file(tmp_path: Path, cache: Path) -> None:
    source = corpus(tmp_path, de=range(3000))
    code = (
        "from afp_ray.config import *; from afp_ray.data import pair_parts, sources; pair_parts.MAX_MEMORY_BYTES = -1;"
        f"s = SourceConfig(kind='tsv', path={source.path!r});"
        "rows = sources.load_pairs(DataConfig(sources=(s,), languages=('de',), num_instructions=0));"
        "print(len(rows), rows[2999].source)"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in running] == ["3000 word 2999\n"] * 3
    assert len(list(cache.glob("*.rows"))) == 1


def test_rows_of_a_file_outlive_its_name(tmp_path: Path) -> None:
    writer = RowWriter(tmp_path / "a.rows", num_fields=2, num_columns=1)
    texts = [("", "é" * n) for n in range(5)]
    for number, fields in enumerate(texts):
        writer.append(fields, (2**64 - 1 - number,))
    writer.finish({"kept": 5})
    file = RowFile(tmp_path / "a.rows")
    (tmp_path / "a.rows").unlink()
    assert (list(file), file.notes) == (texts, {"kept": 5})
    assert file.fields(3) == texts[3]
    with pytest.raises(FileNotFoundError):  # another process opens the file itself
        pickle.loads(pickle.dumps(file))
    assert file.column(0, 1, 3).tolist() == [2**64 - 2, 2**64 - 3]


def test_the_cache_lies_in_the_users_folder_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AFP_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("rows") == tmp_path / ".cache/afp_ray/rows"
    monkeypatch.setenv("AFP_CACHE", "~/elsewhere")
    assert cache_folder("rows") == tmp_path / "elsewhere/rows"


def test_instructions_join_from_disk_in_the_order_of_the_pivot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = {"en": [3, 1, 3, 2, 0, 9], "de": [0, 2, 0, 1, 3, 8], "fr": [1, 2, 3, 0]}
    for language, numbers in order.items():
        rows = [f'{{"id": "r{n}", "ask": "{language} {n}", "say": "{"" if n == 2 else "x"}{at}"}}' if n != 2 or
                language == "en" else f'{{"id": "r{n}", "ask": "{language}", "say": " "}}'
                for at, n in enumerate(numbers)]  # fmt: skip
        (tmp_path / f"{language}.jsonl").write_text("\n".join(rows))
    columns = {"id": "id", "instruction": "ask", "output": "say"}
    source = SourceConfig(kind="jsonl", path=str(tmp_path / "{language}.jsonl"), columns=columns)
    wanted = config(source, num_pairs=0, num_instructions=3)
    plain, (plain_report,) = sources.read_instructions(wanted)
    monkeypatch.setattr(pair_parts, "MAX_MEMORY_BYTES", -1)
    rows, (report,) = sources.read_instructions(wanted)
    assert isinstance(plain, list)
    assert not isinstance(rows, list)
    assert list(rows) == plain
    assert report == plain_report
    assert [row.content_id for row in plain] == ["jsonl:r3", "jsonl:r1", "jsonl:r0"]
    assert plain[2].responses == {"en": "x4", "de": "x0", "fr": "x3"}
    assert report.refused == {"repeated": 1, "unmatched": 1, "empty": 1}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["bactrian_x.gz", "tsv"])
def test_memory_does_not_grow_with_the_file(form: str, tmp_path: Path) -> None:
    peaks = []
    for name, size in (("small", 8_000_000), ("large", 48_000_000)):
        (tmp_path / name).mkdir()
        reading.WRITERS[form](tmp_path / name, size)
        peaks.append(reading.in_process(form, tmp_path / name)["peak_mb"])
    assert peaks[1] < peaks[0] + 20
    assert peaks[1] < 200


@pytest.mark.slow
def test_the_benchmark_fails_where_the_limit_is_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reading, "SMALL_BYTES", 2_500_000)
    arguments = ["--bytes", "3000000", "--forms", "tsv", "--folder", str(tmp_path)]
    assert reading.main(arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [set(line) for line in lines] == [{"name", "ours", "peer", "ratio", "floor", "equal"}] * 4
    assert lines[3]["ours"] > lines[3]["peer"] > 10_000
    assert list(tmp_path.iterdir()) == []
    found = {"rows": 1.0, "peak_mb": reading.LIMIT_MB + 1, "seconds": 1.0}
    monkeypatch.setattr(reading, "in_process", lambda form, folder: found)
    assert reading.main(arguments) == 7
