"""What files of users hold and break: marks, long lines, cut-off gzip, broken tables, and data sets that are away."""

import gzip
import json
import secrets
import subprocess
import sys
import tarfile
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afp_ray.config import DataConfig, SourceConfig
from afp_ray.data import sources
from afp_ray.data.readers import codes, files, hub, json_array, report, streams, udhr
from afp_ray.data.readers.files import clean, plain_file
from afp_ray.errors import DataError
from afp_ray.languages import LANGUAGES

PAIRS = {"source": "translation.{source}", "target": "translation.{target}"}
TASKS = {"id": "id", "instruction": "ask", "output": "say"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    hub._revision.cache_clear()
    hub._subsets.cache_clear()


def config(kind: str, path: Path | str, *languages: str, **held: Any) -> DataConfig:
    source = SourceConfig(kind=kind, path=str(path), **held)  # type: ignore[arg-type]
    return DataConfig(sources=(source,), languages=languages or ("fa",), num_pairs=1, num_instructions=0)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("mark", ["\u200e", "\u200f", "\u061c", "\u202a", "\u202e", "\u2066", "\u2069", "\ufeff"])
def test_marks_that_show_nothing_are_taken_off(mark: str) -> None:
    assert clean(f"{mark} سلام{mark} دنیا {mark}") == "سلام دنیا"
    assert clean(mark) == ""


@pytest.mark.parametrize("joiner", ["\u200c", "\u200d"])
def test_joiners_that_spell_words_stay(joiner: str) -> None:
    assert clean(f"می{joiner}روم") == f"می{joiner}روم"


def test_a_row_of_marks_alone_is_empty_and_differing_marks_repeat(tmp_path: Path) -> None:
    nfd = unicodedata.normalize("NFD", "اَلْآن é")
    rows = f"now\t\u200f\u200e\nnow\t{nfd}\nnow\t\u202b{unicodedata.normalize('NFC', nfd)}\u202c\r\n"
    pairs, (found,) = sources.read_pairs(config("tsv", write(tmp_path / "a.tsv", rows)))
    assert [pair.target for pair in pairs] == [unicodedata.normalize("NFC", nfd)]
    assert found.refused == {"empty": 1, "repeated": 1}


def test_a_line_of_ten_megabytes_is_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    long = "x" * 10_000_000
    path = write(tmp_path / "a.tsv", f"one\tیک\n{long}\tدراز\ntwo\tدو\nthree\t{long}")
    pairs, (found,) = sources.read_pairs(config("tsv", path))
    assert [pair.source for pair in pairs] == ["one", "two"]
    assert (found.num_read, found.refused) == (4, {"too_long": 2})
    write(tmp_path / "b.en", f"one\n{long}\nthree\n")
    write(tmp_path / "b.fa", "یک\nدو\nسه\n")
    pairs, (found,) = sources.read_pairs(config("aligned", tmp_path / "b.{target}"))
    assert [pair.target for pair in pairs] == ["یک", "سه"]
    assert found.refused == {"too_long": 1}


def test_a_line_at_the_limit_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 8)
    path = write(tmp_path / "a.txt", b"12345678\n123456789\n\n1234567\r\n12345678")
    assert list(streams.stream_lines(plain_file(path))) == ["12345678", None, "", "1234567\r", "12345678"]


def test_one_endless_line_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFP_MAX_UNPACK_RATIO", "1000")
    path = tmp_path / "a.tsv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(b"x" * 1_000_000)
        file.write("\none\tیک\n".encode())
    tracemalloc.start()
    pairs, (found,) = sources.read_pairs(config("tsv", path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(pairs), found.refused) == (1, {"too_long": 1})
    assert peak < 8 * streams.MAX_LINE_BYTES


def test_long_texts_of_records_are_refused_with_their_reason(tmp_path: Path) -> None:
    def records(*outputs: str) -> str:
        rows = [
            {"id": f"r{n}", "instruction": f"ask {n}", "input": "", "output": text} for n, text in enumerate(outputs)
        ]
        return json.dumps(rows)

    write(tmp_path / "en.json", records("yes", "x" * (report.MAX_TEXT_CHARS + 1), "half \ud83d", "no"))
    write(tmp_path / "fa.json", records("بله", "یک", "دو", "نه"))
    rows, (found,) = sources.read_instructions(config("bactrian_x", tmp_path))
    assert [row.responses["en"] for row in rows] == ["yes", "no"]
    assert found.refused == {"too_long": 1, "not_text": 1}


def test_half_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", '{"translation": {"en": "\\ud83d", "fa": "یک"}}\n{"translation": {"en": "b", "fa": "ب"}}'
    )
    pairs, (found,) = sources.read_pairs(config("jsonl", path, columns=PAIRS))
    assert [pair.source for pair in pairs] == ["b"]
    assert found.refused == {"not_text": 1}


def _tsv(folder: Path, data: bytes) -> DataConfig:
    return config("tsv", write(folder / "a.tsv.gz", data))


def _opus(folder: Path, data: bytes) -> DataConfig:
    return config("opus100", write(folder / "opus.en2fa.tsv.gz", data).parent)


def _jsonl(folder: Path, data: bytes) -> DataConfig:
    return config("jsonl", write(folder / "a.jsonl.gz", data), columns=PAIRS)


def _csv(folder: Path, data: bytes) -> DataConfig:
    return config("datasets", write(folder / "a.csv.gz", data), columns=PAIRS)


@pytest.mark.parametrize("make", [_tsv, _opus, _jsonl, _csv])
def test_cut_off_gzip_names_the_byte(make: Callable[[Path, bytes], DataConfig], tmp_path: Path) -> None:
    text = "".join(f"{n * 7919 % 1009},word\tکلمه {n}\n" for n in range(2000))
    packed = gzip.compress(text.encode())
    for size in (len(packed) // 2, len(packed) - 3):
        with pytest.raises(DataError, match=f"the gzip file is cut off at byte {size}") as caught:
            sources.load_pairs(make(tmp_path, packed[:size]))
        assert ".gz" in caught.value.where
        assert "fetch the file again" in caught.value.fix
    damaged = bytearray(packed)
    damaged[-6] ^= 1
    with pytest.raises(DataError, match="cannot be read: CRC"):
        sources.load_pairs(make(tmp_path, bytes(damaged)))


def test_lines_from_gzip_are_those_of_the_plain_file(tmp_path: Path) -> None:
    text = "\ufeffone\tیک\r\ntwo\tدو"
    plain = sources.load_pairs(config("tsv", write(tmp_path / "a.tsv", text)))
    assert sources.load_pairs(config("tsv", write(tmp_path / "a.tsv.gz", gzip.compress(text.encode())))) == plain


@pytest.mark.parametrize("name", ["train.parquet", "train.arrow"])
def test_broken_tables_are_refused(name: str, tmp_path: Path) -> None:
    rows = pa.Table.from_pylist([{"translation": {"en": f"w {n}", "fa": f"ک {n}"}} for n in range(500)])
    whole = tmp_path / "whole" / name
    whole.parent.mkdir()
    if name.endswith("arrow"):
        with pa.OSFile(str(whole), "wb") as sink, pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
    else:
        pq.write_table(rows, whole)
    assert len(sources.load_pairs(config("datasets", whole.parent, columns=PAIRS))) == 500
    cut = write(tmp_path / "cut" / name, whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(DataError, match=f"no readable {name.split('.')[1]} file") as caught:
        sources.load_pairs(config("datasets", cut.parent, columns=PAIRS))
    assert caught.value.where == str(cut)


@pytest.mark.parametrize("reader", ["opus100._parquet_rows(file, 'en', 'fa')", "hub.parquet_rows(file)"])
def test_a_row_group_of_any_size_is_read_in_parts(reader: str, tmp_path: Path) -> None:
    sides = [pa.array(secrets.token_hex(100) for _ in range(100_000)) for _ in range(2)]
    table = pa.table({"translation": pa.StructArray.from_arrays(sides, ["en", "fa"])})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=len(table), compression="NONE")
    code = (
        "import pyarrow.parquet, pathlib, resource; from afp_ray.data.readers import files, hub, opus100;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        f"file = files.plain_file(pathlib.Path({str(tmp_path / 'a.parquet')!r})); before = peak();"
        f"count = sum(1 for _ in {reader}); print(count, peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == 100_000
    assert grown < 32_000  # kB, of a file of 41 MB


def test_a_table_with_a_long_or_ragged_line_loses_that_row_alone(tmp_path: Path) -> None:
    text = f'en,fa\none,یک\n{"x" * 2_000_000},دراز\ntwo\n"three, ""or"" 3",سه,extra\n"four\n4",چهار\n\nfive,پنج'
    path = write(tmp_path / "a.csv", text)
    pairs, (found,) = sources.read_pairs(config("datasets", path, columns={"source": "en", "target": "fa"}))
    assert [pair.source for pair in pairs] == ["one", "four\n4", "five"]
    assert found.refused == {"ragged": 3}
    write(path, f'en,fa\n"{"line" * 1000}\n' + f"{'x' * 1000}\n" * 2000 + '",b\n')
    with pytest.raises(DataError, match="the table cannot be read: field larger than") as caught:
        sources.load_pairs(config("datasets", path, columns={"source": "en", "target": "fa"}))
    assert str(path) in caught.value.where


def test_a_saved_data_set_is_read_in_its_own_order(tmp_path: Path) -> None:
    import datasets

    held = datasets.Dataset.from_list([{"translation": {"en": f"w {n}", "fa": f"ک {n}"}} for n in range(25)])
    datasets.DatasetDict(train=held.select(range(20)), test=held.select(range(20, 25))).save_to_disk(
        tmp_path / "saved", num_shards={"train": 2, "test": 1}
    )
    pairs = sources.load_pairs(config("datasets", tmp_path / "saved", columns=PAIRS))
    assert [pair.source for pair in pairs] == [f"w {n}" for n in range(20)]
    (tmp_path / "saved/train/state.json").write_text("[]")
    with pytest.raises(DataError, match="the list of files is broken"):
        sources.load_pairs(config("datasets", tmp_path / "saved", columns=PAIRS))


def test_files_are_chosen_by_split(tmp_path: Path) -> None:
    def rows(*texts: str) -> str:
        return json.dumps([{"translation": {"en": text, "fa": f"ک {text}"}} for text in texts])

    write(tmp_path / "a/validation.json", rows("v"))
    write(tmp_path / "a/rest-1.json", "\n".join(rows("r1", "r2").strip("[]").split(", {")).replace("\n", "\n{"))
    write(tmp_path / "a/pretraining.json", rows("p"))
    write(tmp_path / "a/README.md", "no data")
    found = {
        split: [
            pair.source for pair in sources.load_pairs(config("datasets", tmp_path / "a", columns=PAIRS, split=split))
        ]
        for split in ("train", "validation")
    }
    assert found == {"train": ["p", "r1", "r2"], "validation": ["v"]}
    with pytest.raises(
        DataError, match=r"no file of the split 'test' lies there, but README.md, pretraining.json"
    ) as err:
        sources.load_pairs(config("datasets", tmp_path / "a", columns=PAIRS, split="test"))
    assert "split" in err.value.fix
    with pytest.raises(DataError, match="does not exist"):
        sources.load_pairs(config("datasets", tmp_path / "none", columns=PAIRS))


def test_the_fingerprint_names_columns_and_content_of_local_folders(tmp_path: Path) -> None:
    path = write(tmp_path / "a/train.jsonl", '{"x": "one", "y": "یک", "z": "دو"}\n')
    wanted = config("datasets", path.parent, columns={"source": "x", "target": "y"})
    before = sources.fingerprint(wanted)
    other = config("datasets", path.parent, columns={"source": "x", "target": "z"})
    assert sources.fingerprint(other) != before
    write(path, '{"x": "one", "y": "یک!", "z": "دو"}\n')
    assert sources.fingerprint(wanted) != before


def test_a_data_set_id_streams_one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load(*names: Any, **options: Any) -> Iterator[dict[str, Any]]:
        asked.append((names, options))
        return iter([{"translation": {"en": "one", "fa": "یک"}}])

    monkeypatch.setattr(hub, "_revision", lambda path: "c0ffee")
    monkeypatch.setattr(hub, "_subsets", lambda path: ("en-fa",))
    monkeypatch.setattr(datasets, "load_dataset", load)
    wanted = config("datasets", "owner/corpus", columns=PAIRS, subset="{target}-{source}", split="dev")
    (pair,) = sources.load_pairs(wanted)
    assert (pair.source, pair.target) == ("one", "یک")
    assert asked == [(("owner/corpus", "en-fa"), {"split": "dev", "revision": "c0ffee", "streaming": True})]
    before = sources.fingerprint(wanted)
    monkeypatch.setattr(hub, "_revision", lambda path: "decaf")
    assert sources.fingerprint(wanted) != before
    with pytest.raises(DataError, match="datasets has no pairs of en with de") as caught:
        sources.load_pairs(config("datasets", "owner/corpus", "de", columns=PAIRS, subset="{source}-{target}"))
    assert caught.value.allowed == "beside en: fa"


def test_a_data_set_that_is_away_says_how_to_fetch_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(path: str) -> None:
        raise ConnectionError(f"Couldn't reach {path} on the Hub\nmore")

    monkeypatch.setattr(datasets.load, "dataset_module_factory", refuse)
    with pytest.raises(DataError, match="owner/corpus cannot be read from the hub") as caught:
        sources.check(config("datasets", "owner/corpus", columns=PAIRS))
    assert "hf download --repo-type dataset owner/corpus" in caught.value.fix
    assert "more" not in str(caught.value)


def test_instructions_without_a_language_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"id": 1, "ask": "a", "say": "b"}\n')
    for kind in ("jsonl", "datasets"):
        with pytest.raises(DataError, match="nothing says where the language") as caught:
            sources.read_instructions(config(kind, path, columns=TASKS))
        assert "{language}" in caught.value.fix


def test_one_file_may_hold_every_language_in_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"id": 1, "en": {"q": "a", "a": "b"}, "fa": {"q": "ا", "a": "ب"}}\n')
    columns = {"id": "id", "instruction": "{language}.q", "output": "{language}.a"}
    (row,), _ = sources.read_instructions(config("jsonl", path, columns=columns))
    assert (row.prompts, row.responses) == ({"en": "a", "fa": "ا"}, {"en": "b", "fa": "ب"})


def test_a_file_that_is_read_whole_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_WHOLE_BYTES", 10)
    write(tmp_path / "xquad.en.json", "{}" * 6)
    write(tmp_path / "xquad.fa.json", "{}")
    with pytest.raises(DataError, match="the file has 11 bytes or more, and this layout is read whole"):
        sources.read_instructions(config("xquad", tmp_path))


def test_the_byte_of_a_cut_off_array_counts_its_mark(tmp_path: Path) -> None:
    text = '\ufeff[{"id": "é"}'
    path = write(tmp_path / "a.json", text)
    with pytest.raises(DataError, match=f"byte {len(text.encode())}: the file ends after record 1"):
        list(json_array.read_array(plain_file(path)))


def test_declarations_take_innermost_blocks_and_skip_headings(tmp_path: Path) -> None:
    html = (
        "<header><h2>Pre</h2><p>One<br>two</p><p> </p></header><p>outside</p>"
        "<article data-number='4'><h2>A4</h2><ol><li><p>inner</p></li><li>bare &eacute;<ul><li>deep</ul></li></ol>"
        "<article data-number='5'><p>unclosed"
    )
    path = write(tmp_path / "eng.html", html)
    assert udhr.paragraphs(plain_file(path)) == {"0": ["One two"], "4": ["inner", "bare é", "deep"], "5": ["unclosed"]}


def test_articles_divided_otherwise_are_refused_not_guessed(tmp_path: Path) -> None:
    article = "<article data-number='{0}'>{1}</article>"
    write(tmp_path / "eng.html", article.format(1, "<p>a</p><p>b</p>") + article.format(2, "<p>c</p>"))
    write(tmp_path / "pes_1.html", article.format(2, "<p>پ</p>") + article.format(1, "<p>الف ب</p>"))
    pairs, (found,) = sources.read_pairs(config("udhr", tmp_path))
    assert [(pair.source, pair.target, pair.content_id) for pair in pairs] == [("c", "پ", "udhr:2.1")]
    assert found.refused == {"unmatched": 2}
    write(tmp_path / "pes_1.html", "<html><p>no articles")
    with pytest.raises(DataError, match="none of 3 rows is usable") as caught:
        sources.load_pairs(config("udhr", tmp_path))
    assert "data-number" in caught.value.fix


def test_splits_that_a_corpus_holds_out_are_used_instead_of_halves(tmp_path: Path) -> None:
    for part, texts in {"dev": "abc", "devtest": "vwxyz"}.items():
        write(tmp_path / f"{part}/eng_Latn.{part}", "\n".join(texts))
        write(tmp_path / f"{part}/pes_Arab.{part}", "\n".join(f"ف{text}" for text in texts))
    source = SourceConfig(kind="flores", path=str(tmp_path))

    def held(split: Any, num_pairs: int) -> list[str]:
        return [
            pair.source
            for pair in sources.load_heldout_pairs(source, pivot="en", language="fa", split=split, num_pairs=num_pairs)
        ]

    assert (held("validation", 3), held("test", 5)) == (list("abc"), list("vwxyz"))
    with pytest.raises(DataError, match="4 held-out pairs asked, but flores has 3 of fa in validation"):
        held("validation", 4)
    before = sources.heldout_fingerprint(source, "en", ["fa"])
    write(tmp_path / "dev/pes_Arab.dev", "۱\n۲\n۳\n")
    assert sources.heldout_fingerprint(source, "en", ["fa"]) != before
    (tmp_path / "dev/pes_Arab.dev").unlink()  # without both splits the halves of the one that is there
    assert (held("validation", 2), held("test", 2)) == (["v", "w"], ["x", "y"])


def test_opus_holds_out_its_validation_and_test_files(tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        (tmp_path / "en-fa").mkdir(exist_ok=True)
        rows = [{"translation": {"en": f"{name} {n}", "fa": f"ف {name} {n}"}} for n in range(3)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"en-fa/{name}-00000-of-00001.parquet")
    source = SourceConfig(kind="opus100", path=str(tmp_path))
    for split in ("validation", "test"):
        pairs = sources.load_heldout_pairs(source, pivot="en", language="fa", split=split, num_pairs=3)
        assert [pair.source for pair in pairs] == [f"{split} {n}" for n in range(3)]
    assert [pair.source for pair in sources.load_pairs(config("opus100", tmp_path))] == [f"train {n}" for n in range(3)]


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_language_has_a_name_in_every_corpus(code: str) -> None:
    named = [codes.flores_code, codes.ntrex_code, codes.tatoeba_code, codes.tico19_code, codes.udhr_code]
    assert all(name(code)[:3].isalpha() for name in named)
    for name in named:
        assert len({name(other) for other in LANGUAGES}) == len(LANGUAGES)


def test_an_archive_member_may_be_packed(tmp_path: Path) -> None:
    for language, text in {"en": "Hello.", "fa": "سلام."}.items():
        rows = [{"id": "a", "instruction": text, "input": "", "output": text}]
        write(tmp_path / f"{language}.json.gz", gzip.compress(json.dumps(rows).encode()))
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for language in ("en", "fa"):
            archive.add(tmp_path / f"{language}.json.gz", arcname=f"{language}.json.gz")
    (pair,) = sources.load_pairs(config("bactrian_x", tmp_path / "all.tar"))
    assert (pair.source, pair.target) == ("Hello.", "سلام.")
