"""Benchmark folders as people have them: in shards, packed, as pointers, bombs, without labels; read in one way."""

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afp_ray.config import EvaluationConfig
from afp_ray.evaluation.check import evaluation_fingerprint
from services import cli

NLI = [
    {"premise": f"The lamp number {n} is on.", "hypothesis": f"Lamp {n} gives light.", "label": n % 3}
    for n in range(12)
]
LINES = "".join(
    f"{row['premise']}\t{row['hypothesis']}\t{('entailment', 'neutral', 'contradiction')[row['label']]}\n"
    for row in NLI
)
COPA = [
    {"premise": f"Lamp {n}.", "choice1": "A.", "choice2": "B.", "question": "cause", "label": n % 2, "idx": n}
    for n in range(8)
]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "a" + "\nsize 123456\n"


def table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def text(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def afp(data: Path, task: str, capsys: pytest.CaptureFixture[str], split: str = "validation") -> dict[str, Any]:
    """What `afp eval` answers: its cells, or its error."""
    options = ["--tasks", task, "--languages", "en", "--data-dir", str(data), "--split", split, "--json"]
    code = cli.main(["eval", "embedded", *options, "--storage", str(data.parent / "runs")])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == (2 if "error" in answer else 0)
    return answer


def counts(answer: dict[str, Any]) -> list[int]:
    return [cell["n"] for cell in answer["cells"]]


@pytest.mark.parametrize(
    "names",
    [
        [f"validation-{n:05}-of-00003.parquet" for n in range(3)],
        [f"validation-{n:05}-of-00003-0123456789abcdef.parquet" for n in range(3)],
        [f"validation/{n:04}.parquet" for n in range(3)],
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_shards_are_one_split_and_all_must_be_there(
    names: list[str], is_packed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for number, name in enumerate(names):
        table(tmp_path / "en" / name, NLI[4 * number : 4 * number + 4])
    table(tmp_path / "en/test-00000-of-00001.parquet", NLI)

    def place(names: list[str]) -> None:
        root = data / "xnli"
        root.mkdir(parents=True, exist_ok=True)
        kept = [*names, "test-00000-of-00001.parquet"]
        if is_packed:
            with zipfile.ZipFile(root / "xnli.zip", "w") as archive:
                for name in kept:
                    archive.write(tmp_path / "en" / name, f"xnli/en/{name}")
            return
        for path in root.rglob("*.parquet"):
            path.unlink()
        for name in kept:
            text(root / "en" / name, (tmp_path / "en" / name).read_bytes())

    place(names)
    assert counts(afp(data, "xnli", capsys)) == [12]
    whole = tmp_path / "whole"
    for split in ("validation", "test"):
        table(whole / f"xnli/en/{split}-00000-of-00001.parquet", NLI)
    config = {"tasks": ["xnli"], "representation": None}
    found = [
        evaluation_fingerprint(
            EvaluationConfig.model_validate({**config, "data_dir": str(folder)}), languages=("en",), pivot="en"
        )
        for folder in (data, whole)
    ]
    assert found[0] == found[1]  # rows count, not the files that they are cut into
    place([names[0], names[2]])
    error = afp(data, "xnli", capsys)["error"]
    assert f"{Path(names[1]).name.partition('-0123')[0].removesuffix('.parquet')}" in error["problem"]
    assert "missing" in error["problem"]


PACKED: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


@pytest.mark.parametrize("ending", PACKED)
def test_packed_files_are_what_they_pack(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, pack = tmp_path / "data", PACKED[ending]
    text(data / f"xnli/dev-en.tsv{ending}", pack(LINES.encode()))
    text(data / f"xnli/test-en.tsv{ending}", pack(LINES.encode()))
    lines = "\n".join(json.dumps(row) for row in COPA)
    text(data / f"xcopa/data/en/val.en.jsonl{ending}", pack(lines.encode()))
    text(data / f"xcopa/data/en/test.en.jsonl{ending}", pack(lines.encode()))
    rows = [
        {"sentence": f"The lamp {n} lights _ well.", "option1": f"it{n}", "option2": f"her{n}", "answer": "1"}
        for n in range(6)
    ]
    text(data / f"xwinograd/test/en.jsonl{ending}", pack("\n".join(map(json.dumps, rows)).encode()))
    for task, number in (("xnli", 12), ("xcopa", 8), ("xwinograd", 3)):
        assert counts(afp(data, task, capsys)) == [number]


@pytest.mark.parametrize("name", ["xnli.zip", "xnli/any.zip", "xnli/any.tar.gz"])
def test_an_archive_stands_for_the_folder_or_lies_in_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tarfile

    path = tmp_path / "data" / name
    text(tmp_path / "dev-en.tsv", LINES)
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "dev-en.tsv", "XNLI-1.0/dev-en.tsv")
    else:
        with tarfile.open(path, "w:gz") as tar:
            tar.add(tmp_path / "dev-en.tsv", "XNLI-1.0/dev-en.tsv")
    assert counts(afp(tmp_path / "data", "xnli", capsys)) == [6]


@pytest.mark.parametrize("form", ["array", "pretty"])
def test_objects_are_read_however_they_are_written(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.dumps(COPA) if form == "array" else "\n".join(json.dumps(row, indent=2) for row in COPA)
    for part in ("val", "test"):
        text(tmp_path / f"data/xcopa/data/en/{part}.en.jsonl", content)
    assert counts(afp(tmp_path / "data", "xcopa", capsys)) == [8]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("xnli/dev-en.tsv", POINTER, "a Git LFS pointer, not the file itself"),
        ("xnli/en/validation-00000-of-00001.parquet", POINTER, "a Git LFS pointer, not the file itself"),
        ("xnli/dev-en.tsv.gz", LINES, "plain text named .gz"),
        ("xnli/dev-en.tsv.gz", gzip.compress(LINES.encode())[:-12], "cut off"),
        ("xnli/dev-en.tsv", "<!DOCTYPE html><html>", "a page of HTML"),
        ("xnli/dev-en.tsv", "a\t" + "b" * (1 << 21) + "\tneutral\n", "the line is longer than 1048576 bytes"),
        ("xnli/dev-en.tsv.gz", gzip.compress(b"a\tb\tneutral\n" * (1 << 20)), "unpacks to more than"),
        ("xnli/en/validation-00000-of-00001.parquet", b"PAR1 and no more", "no readable parquet file"),
    ],
)
def test_what_is_no_benchmark_file_is_refused_as_a_training_file_is(
    name: str, content: str | bytes, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text(tmp_path / "data" / name, content)
    assert problem in afp(tmp_path / "data", "xnli", capsys)["error"]["problem"]


def test_a_table_of_repeated_texts_ends_by_a_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pa.table({"premise": ["a" * 1000] * 4000, "hypothesis": ["b"] * 4000, "label": [0] * 4000})
    path = tmp_path / "data/xnli/en/validation-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(rows, path)
    monkeypatch.setattr("afp_ray.data.readers.files.MAX_WHOLE_BYTES", 1 << 20)
    assert "this layout is read whole" in afp(tmp_path / "data", "xnli", capsys)["error"]["problem"]


@pytest.mark.parametrize("value", [-1, None, "no column"])
@pytest.mark.parametrize("task", ["xcopa", "xstorycloze", "xwinograd table"])
def test_a_test_part_without_labels_is_left_out_in_every_task(
    task: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"

    def rows(name: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept = [{key: held for key, held in row.items() if key != name} for row in found]
        return kept if value == "no column" else [{**row, name: value} for row in kept]

    if task == "xcopa":
        table(data / "xcopa/en/validation-00000-of-00001.parquet", COPA)
        table(data / "xcopa/en/test-00000-of-00001.parquet", rows("label", COPA))
    elif task == "xstorycloze":
        stories = [{"story_id": f"s{n}"} for n in range(8)]
        fields = {
            **{f"input_sentence_{n}": f"Sentence {n}." for n in range(1, 5)},
            "sentence_quiz1": "One.",
            "sentence_quiz2": "Two.",
            "answer_right_ending": 1,
        }
        stories = [{**story, **fields} for story in stories]
        table(data / "xstorycloze/en/train/0000.parquet", stories)
        table(data / "xstorycloze/en/eval/0000.parquet", rows("answer_right_ending", stories))
    else:
        wino = [{"sentence": f"Lamp {n} lights _ well.", "option1": f"a{n}", "option2": f"b{n}"} for n in range(8)]
        table(data / "xwinograd/en/test/0000.parquet", rows("answer", wino))
        assert "without labels" in afp(data, "xwinograd", capsys)["error"]["problem"]
        return
    answer = afp(data, task, capsys)
    assert counts(answer) == [8]
    assert any("has no labels and was left out" in warning for warning in answer["warnings"])
    assert "without labels" in afp(data, task, capsys, "test")["error"]["problem"]


def test_scores_of_instructions_are_read_as_every_file(tmp_path: Path) -> None:
    from afp_ray.data.quality.best import read_scores

    lines = '{"id": "a\u2028b", "score": 1}\n{"id": 2, "score": 2.5}\n'
    text(tmp_path / "s.jsonl.gz", gzip.compress(lines.encode()))
    assert read_scores(str(tmp_path / "s.jsonl.gz")) == {"a\u2028b": 1.0, "2": 2.5}
