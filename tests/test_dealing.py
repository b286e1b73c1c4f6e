"""Which files several processes of one test run take first."""

import os
import subprocess
import sys
from pathlib import Path

FILE = """
import pytest


{mark}
@pytest.mark.parametrize("number", range({count}))
def test_one(number):
    with open({log!r}, "a") as file:
        file.write("{name}\\n")
"""


def test_files_of_the_cluster_come_first_then_slow_ones_then_those_with_most_tests(tmp_path: Path) -> None:
    conftest = (Path(__file__).parent / "conftest.py").read_text("utf-8")
    (tmp_path / "conftest.py").write_text(conftest, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n", "utf-8")
    log = tmp_path / "log"
    files = {
        "a_many": ("", 9),
        "b_slow": ("@pytest.mark.slow", 4),
        "c_cluster": ("# shared" + "_cluster", 2),
        "d_few": ("", 3),
        "e_all_slow": ("pytestmark = [pytest.mark.slow]", 2),
    }
    for name, (mark, count) in files.items():
        text = FILE.format(mark=mark, count=count, name=name, log=str(log))
        (tmp_path / f"test_{name}.py").write_text(text, "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "xdist", "-n", "1", "--dist", "loadfile", "."]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # other plugins take seconds to import
    done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(dict.fromkeys(log.read_text().splitlines())) == ["c_cluster", "e_all_slow", "b_slow", "a_many", "d_few"]
