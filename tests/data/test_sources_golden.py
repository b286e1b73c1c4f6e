"""Golden rows: a few rows of every source in its own form, and exactly what is read, in memory and on disk."""

import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afp_ray.config import DataConfig, SourceConfig
from afp_ray.config.data import SOURCE_KINDS
from afp_ray.data import pair_parts, sources
from afp_ray.data.rows import PairTable, ParallelInstruction, TranslationPair

GOLDEN = {path.stem: path for path in sorted(Path(__file__).parents[1].glob("golden/sources/*.json"))}
WITHOUT_FILES = {"embedded"}
"""Kinds whose rows come with the package; the tests of the embedded corpus hold their rows."""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))


def write(path: Path, content: Any) -> None:
    """Text as it is, or {"parquet": rows}, or {"gzip": text}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_bytes(content.encode())
    elif "gzip" in content:
        path.write_bytes(gzip.compress(content["gzip"].encode()))
    else:
        pq.write_table(pa.Table.from_pylist(content["parquet"]), path)


def read(name: str, folder: Path) -> tuple[dict[str, Any], DataConfig]:
    """The golden file, and the configuration that reads what it describes."""
    golden = json.loads(GOLDEN[name].read_bytes())
    for file, content in golden["files"].items():
        write(folder / "data" / file, content)
    held = {key: golden[key] for key in ("columns", "subset") if key in golden}
    source = SourceConfig(kind=golden["kind"], path=str(folder / "data" / golden["path"]), **held)
    return golden, DataConfig(sources=(source,), languages=tuple(golden["languages"]))


def as_pairs(rows: Sequence[list[str]]) -> list[TranslationPair]:
    """`@source` stands for the hash of the source, which names a sentence that the corpus itself does not name."""
    return [
        TranslationPair(
            source, target, "en", language, name.replace("@source", hashlib.sha256(source.encode()).hexdigest()[:12])
        )
        for source, target, language, name in rows
    ]


def test_every_source_kind_has_golden_rows() -> None:
    held = {json.loads(path.read_bytes())["kind"] for path in GOLDEN.values()}
    assert held | WITHOUT_FILES == set(SOURCE_KINDS.own)
    both = {json.loads(GOLDEN[name].read_bytes()).get("instructions") is None for name in ("jsonl", "datasets")}
    assert both == {True}, "these hold pairs; their instructions have files of their own"
    assert {"jsonl_instructions", "datasets_instructions"} <= set(GOLDEN)


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_rows(name: str, on_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if on_disk:
        monkeypatch.setattr(pair_parts, "MAX_MEMORY_BYTES", -1)
    golden, config = read(name, tmp_path)
    for _ in range(2):  # the second time from what the first one kept
        if "pairs" in golden:
            pairs, reports = sources.read_pairs(config)
            assert isinstance(pairs, PairTable) == on_disk
            assert list(pairs) == as_pairs(golden["pairs"])
            assert [pairs[place] for place in range(len(pairs))] == list(pairs)
            expected = golden["reports"]
            assert [[row.num_read, row.num_kept, dict(row.refused)] for row in reports] == expected
        if "instructions" in golden:
            rows, reports = sources.read_instructions(config)
            assert list(rows) == [ParallelInstruction(*row) for row in golden["instructions"]]
            expected = golden.get("instruction_reports", golden["reports"])
            assert [[row.num_read, row.num_kept, dict(row.refused)] for row in reports] == expected
