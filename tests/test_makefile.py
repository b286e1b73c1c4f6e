"""`make setup`: what pip says goes to a file, and is shown where it fails, which make then does too."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_PIP = """#!/bin/sh
echo "WARNING: an index is ignored"
case "$*" in *torch*) exit {code};; esac
"""


@pytest.mark.parametrize("code", [0, 3])
def test_what_pip_says_is_shown_only_where_it_fails(tmp_path: Path, code: int) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(_PIP.format(code=code))
    python.chmod(0o755)
    done = subprocess.run(["make", "setup", "PYTHON=true"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    log = tmp_path / ".venv" / "setup.log"
    assert log.read_text().count("WARNING: an index is ignored") == (2 if code == 0 else 1)
    assert (done.returncode == 0) is (code == 0)
    assert ("WARNING" in done.stderr) is (code != 0)
    assert "WARNING" not in done.stdout
    assert (tmp_path / ".venv" / ".installed").exists() is (code == 0)
