"""What the service answers is what its OpenAPI document says, whatever it is asked, and by whom."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fabricate import add_representation, fabricate, leave_running
from served import serving
from submitting import FakeDrivers

from services.api import create_app
from services.guard import Limits
from services.intake import Rules
from services.tokens import Tokens

UNBOUND = Limits(requests_per_s=1e6, submissions_per_min=1e6)
SETTINGS = """
[[operations]]
include-name = "POST /v1/studies"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "409", "422"]
"""
"""Beyond the form of a study, whose fields any JSON may be, its rules are the study file's own."""


@pytest.fixture
def drivers() -> Iterator[FakeDrivers]:
    fakes = FakeDrivers()
    yield fakes
    fakes.release()


@pytest.mark.slow
@pytest.mark.parametrize("scope, num_examples", [(None, 5), ("read", 5), ("submit", 5)])
def test_schemathesis_finds_no_answer_that_the_document_does_not_describe(
    scope: str | None, num_examples: int, tmp_path: Path, drivers: FakeDrivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many random requests to each address and kind; beside those, once, all at the edges of every parameter."""
    monkeypatch.setattr("services.intake.request_stop", lambda paths: None)  # the drivers are this process itself
    storage = tmp_path / "runs"
    add_representation(fabricate(storage))
    leave_running(fabricate(storage, "other", closed=None))
    token = Tokens(storage).new("anna", scope)[0] if scope else None  # type: ignore[arg-type]
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    phases = "examples,coverage,fuzzing" if scope == "submit" else "fuzzing"
    command = "from schemathesis.cli import schemathesis; schemathesis()"
    app = create_app(storage, is_open=scope is None, limits=UNBOUND, rules=Rules(drivers))
    with serving(app) as port:
        done = subprocess.run(
            [
                *(sys.executable, "-c", command, "run", f"http://127.0.0.1:{port}/v1/openapi.json"),
                *("--checks", "all", "--mode", "all", "--phases", phases),
                *("--max-examples", str(num_examples), "--seed", "1", "--no-color"),
                *(("--header", f"Authorization: Bearer {token}") if token else ()),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2000:]
    assert "Tested: 13" in done.stdout
    if scope != "submit":
        assert drivers.started == []
