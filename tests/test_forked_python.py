"""What stands in for the Python interpreter in tests: it runs what it is given as that would, and shares no draws."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_python import forked_python

REPORT = """
import json, os, sys
print(json.dumps({
    "name": __name__, "arguments": sys.argv, "path": sys.path[0], "folder": os.getcwd(), "nice": os.nice(0),
    "given": os.environ.get("AFP_GIVEN"), "lost": os.environ.get("AFP_LOST"), "imported": "wave" in sys.modules,
    "stdin": sys.stdin.read(),
}))
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    with forked_python(["wave"], AFP_LOST="of the server") as path:
        yield path


def test_a_script_runs_as_the_interpreter_would_run_it(python: str, tmp_path: Path) -> None:
    (tmp_path / "a script.py").write_text(REPORT)
    environment = {**os.environ, "AFP_GIVEN": "a\udc80 \n"}
    found = []
    for interpreter in (python, sys.executable):
        done = subprocess.run(
            [interpreter, "-u", str(tmp_path / "a script.py"), "7", "a b", ""],
            env=environment,
            cwd=tmp_path,
            input="what comes in",
            preexec_fn=lambda: os.nice(3),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (7, "")
        found.append(json.loads(done.stdout))
    assert found[0].pop("imported") is True
    assert found[1].pop("imported") is False
    assert found[0] == found[1]


def test_errors_and_signals_end_it_as_they_end_an_interpreter(python: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise ValueError('not this')")
    done = subprocess.run([python, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: not this\n")
    script.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)")
    for number in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen([python, str(script)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            worker = int(process.stdout.readline())
            os.kill(worker, number)
            assert process.wait(10) == -number


@pytest.mark.ray
@pytest.mark.usefixtures("shared_cluster")
def test_forks_with_ray_draw_ids_of_their_own() -> None:
    from ray._private import services

    script = "from ray._raylet import ObjectRef; print(ObjectRef.from_random().hex())"
    command = [services.sys.executable, "-c", script]
    assert command[0] != sys.executable
    drawn = {subprocess.run(command, capture_output=True, text=True, timeout=100).stdout for _ in range(2)}
    assert len(drawn) == 2
    assert all(len(line.strip()) == 56 for line in drawn)
