"""What the service answers is what its OpenAPI document says, whatever it is asked."""

import subprocess
import sys
from pathlib import Path

import pytest
from fabricate import add_representation, fabricate, leave_running
from served import served

NUM_EXAMPLES = 10
"""Random requests to each address and kind, beside those at the edges of every parameter."""


@pytest.mark.slow
def test_schemathesis_finds_no_answer_that_the_document_does_not_describe(tmp_path: Path) -> None:
    paths = fabricate(tmp_path / "runs")
    add_representation(paths)
    leave_running(fabricate(tmp_path / "runs", "other", closed=None))
    command = "from schemathesis.cli import schemathesis; schemathesis()"
    with served(tmp_path / "runs") as port:
        done = subprocess.run(
            [
                *(sys.executable, "-c", command, "run", f"http://127.0.0.1:{port}/v1/openapi.json"),
                *("--checks", "all", "--mode", "all", "--phases", "examples,coverage,fuzzing,stateful"),
                *("--max-examples", str(NUM_EXAMPLES), "--seed", "1", "--no-color"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2000:]
    assert "Tested: 10" in done.stdout
    assert "No issues found" in done.stdout
