"""A test part without labels, as some benchmarks publish theirs: the labelled part is scored, and it is said."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services import cli

ROWS = [(f"The lamp number {number} is on.", f"Lamp {number} gives light.", "entailment") for number in range(9)]


@pytest.fixture(params=["two columns", "label -1"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """XNLI with a labelled dev part."""
    folder = tmp_path / "data" / "xnli"
    if request.param == "two columns":
        folder.mkdir(parents=True)
        (folder / "dev-en.tsv").write_text("".join("\t".join(row) + "\n" for row in ROWS))
        (folder / "test-en.tsv").write_text("".join("\t".join(row[:2]) + "\n" for row in ROWS))
        return tmp_path / "data"
    (folder / "en").mkdir(parents=True)
    for split, labels in (("validation", [0] * len(ROWS)), ("test", [-1] * len(ROWS))):
        table = pa.table({"premise": [row[0] for row in ROWS], "hypothesis": [row[1] for row in ROWS], "label": labels})
        pq.write_table(table, folder / "en" / f"{split}-00000-of-00001.parquet")
    return tmp_path / "data"


def afp(data: Path, split: str) -> int:
    fixed = ["--tasks", "xnli", "--languages", "en", "--data-dir", str(data), "--json"]
    return cli.main(["eval", "embedded", *fixed, "--split", split, "--storage", str(data.parent / "runs")])


def test_the_labelled_part_is_scored_and_the_other_is_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert afp(data, "validation") == 0
    answer = json.loads(capsys.readouterr().out)
    assert [cell["n"] for cell in answer["cells"]] == [len(ROWS)]  # whole, not halved
    assert any("has no labels and was left out" in warning for warning in answer["warnings"])


@pytest.mark.parametrize("split", ["test", "both"])
def test_the_other_part_is_refused_with_what_to_do(split: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert afp(data, split) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert "without labels" in error["problem"]
    assert "--split validation" in error["fix"]
