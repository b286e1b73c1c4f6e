"""The benchmark of scoring runs at a toy size, and its peer finds the same answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import scoring

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_benchmark_runs_at_a_toy_size_and_the_answers_agree() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("AFP_DATA_DIR", None)
    command = [sys.executable, "benchmarks/scoring.py", "--tiny", "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    names = {f"scoring.{name}_examples_per_cpu_s" for name in scoring.CASES if not name.startswith("smollm2")}
    assert {row["name"] for row in rows} == names
    assert all(row["equal"] is True and row["floor"] is None and row["ratio"] > 0 for row in rows)
    assert done.stderr.count("best batch size") == len(names)


def test_made_up_rows_give_prompts_of_the_promised_form(tmp_path: Path) -> None:
    folder = scoring._made_up_rows(tmp_path, 6)
    pawsx = scoring._questions("pawsx", 5, folder, 6)
    xnli = scoring._questions("xnli", 0, folder, 6)
    assert [len(question) for question in (*pawsx, *xnli)] == [2] * 6 + [3] * 6
    assert all(len({context for context, _ in question}) == 1 for question in (*pawsx, *xnli))
    assert all(question[0][0].count("right?") == 6 for question in pawsx)
    assert len({question[0][0] for question in xnli}) < 6, "rows of one premise share a context, as in the real files"
