"""The benchmarks of training run at a toy size, compare equal results and print what they promise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.figures import FLOOR_MISSED, Figure, interleave, show

ROOT = Path(__file__).parent.parent.parent


def run(name: str, *arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code] if code else [sys.executable, f"benchmarks/{name}.py"]
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )


def figures(output: str) -> dict[str, dict[str, object]]:
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {row["name"]: row for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, expected",
    [
        (
            "step",
            {"step.forward_backward_s", "step.with_optimizer_s", "step.peak_memory_above_weights_bytes"},
        ),
        ("contrastive", {"contrastive.8_pairs_s", "contrastive.8_pairs_peak_memory_bytes"}),
    ],
)
def test_a_benchmark_runs_at_a_toy_size(name: str, expected: set[str]) -> None:
    done = run(name, "--tiny", "--rounds", "1")
    found = figures(done.stdout)
    assert done.returncode in (0, FLOOR_MISSED), done.stderr
    assert set(found) == expected
    assert all(row.keys() == {"name", "ours", "peer", "ratio", "floor", "equal"} for row in found.values())
    assert all(row["equal"] is True for row in found.values())


def test_the_gpu_benchmark_needs_no_orchestration_library() -> None:
    blocked = "import sys\nfor name in ('ray', 'optuna', 'mlflow', 'datasets', 'fastapi'): sys.modules[name] = None\n"
    code = blocked + "from benchmarks.gpu import main\nraise SystemExit(main(sys.argv[1:]))"
    done = run("gpu", "--tiny", "--rounds", "1", "--steps", "1", code=code)
    assert done.returncode in (0, FLOOR_MISSED), done.stderr
    found = figures(done.stdout)
    assert {"gpu.steps_per_s", "gpu.tokens_per_s"} <= set(found)
    assert all(row["equal"] is True for row in found.values())


@pytest.mark.parametrize(
    "figure, code",
    [
        (Figure("a", 1.0, 2.0, 2.0, floor=1.5, equal=True), 0),
        (Figure("a", 1.0, 2.0, 2.0, floor=2.5, equal=True), FLOOR_MISSED),
        (Figure("a", 1.0, 2.0, 2.0, equal=False), FLOOR_MISSED),
        (Figure("a", None, None, None, floor=1.0), FLOOR_MISSED),
        (Figure("a", None, None, None), 0),
    ],
)
def test_a_missed_floor_or_a_wrong_result_gives_exit_code_7(
    figure: Figure, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show([figure]) == code
    assert json.loads(capsys.readouterr().out.splitlines()[0])["name"] == "a"


def test_rounds_are_interleaved_and_the_first_does_not_count() -> None:
    calls: list[str] = []
    ticks = iter([0, 9, 9, 10, 10, 12, 12, 18, 18, 20, 20, 24])  # ours 9 | 2 | 2, peer 1 | 6 | 4
    found = interleave(lambda: calls.append("ours"), lambda: calls.append("peer"), rounds=2, clock=lambda: next(ticks))
    assert calls == ["ours", "peer"] * 3
    assert found == (2, 5, 2.5)
