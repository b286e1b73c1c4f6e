"""Workers forked from a process that has imported what trials need: they are what Ray would have started."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from afp_ray.config import RuntimeConfig
from afp_ray.execution.cluster import connected
from afp_ray.execution.forking import can_fork, forked_workers, workers_ahead

pytestmark = pytest.mark.skipif(not can_fork(), reason="this system has no pidfd_open")

REPORT = """
import json, os, random, sys
print(json.dumps({
    "name": __name__, "arguments": sys.argv, "path": sys.path[0], "folder": os.getcwd(), "nice": os.nice(0),
    "given": os.environ.get("AFP_GIVEN"), "lost": os.environ.get("AFP_LOST"), "threads": os.environ["OMP_NUM_THREADS"],
    "process": os.getpid(), "group": os.getpgid(0), "parent": os.getppid(), "random": random.random(),
    "imported": sorted({"torch", "transformers", "pandas", "ray"} & sys.modules.keys()), "stdin": sys.stdin.read(),
}))
sys.exit(int(sys.argv[1]))
"""
WAIT = "import os, sys, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n"


@pytest.fixture(scope="module")
def python() -> Iterator[list[str]]:
    """The command that stands in for the interpreter."""
    os.environ["AFP_LOST"] = "of the server"
    with forked_workers(num_threads=3) as command:
        del os.environ["AFP_LOST"]
        yield shlex.split(command)


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "scripts" / "one script.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def run(command: list[str], **given: Any) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    given = {"env": environment, "input": "", "timeout": 60, **given}
    return subprocess.run(command, capture_output=True, text=True, check=False, **given)


def test_a_worker_is_what_would_have_been_started(
    python: list[str], script: Callable[[str], str], tmp_path: Path
) -> None:
    path = script(REPORT)
    environment = {**os.environ, "AFP_GIVEN": "a\udc80 \n", "OMP_NUM_THREADS": "2"}
    folder = tmp_path / "folder"
    folder.mkdir()
    command = [*python, path, "7", "a b", ""]
    done = run(command, env=environment, cwd=folder, input="what comes in", preexec_fn=lambda: os.nice(3))
    assert (done.returncode, done.stderr) == (7, "")
    found = json.loads(done.stdout)
    assert found["name"] == "__main__"
    assert found["arguments"] == [path, "7", "a b", ""]
    assert found["path"] == str(Path(path).parent)
    assert (found["folder"], found["stdin"], found["nice"]) == (str(folder), "what comes in", os.nice(0) + 3)
    assert (found["given"], found["lost"], found["threads"]) == ("a\udc80 \n", None, "2")
    assert found["group"] == found["process"]
    assert found["imported"] == ["pandas", "torch", "transformers"]  # and not Ray, which reads its environment then


def test_workers_of_one_server_draw_their_own_random_numbers(python: list[str], script: Callable[[str], str]) -> None:
    command = [*python, script(REPORT), "0"]
    found = [json.loads(run(command, env=dict(os.environ, OMP_NUM_THREADS="1")).stdout) for _ in range(2)]
    assert found[0]["random"] != found[1]["random"]
    assert found[0]["process"] != found[1]["process"]
    assert found[0]["parent"] == found[1]["parent"]


def test_an_error_is_told_and_ends_the_worker_alone(python: list[str], script: Callable[[str], str]) -> None:
    done = run([*python, script("raise ValueError('not this')")])
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: not this\n")
    assert run([*python, script("print('next')")]).stdout == "next\n"
    assert run([*python, script("import os; os.chdir('/'); os._exit(9)")], cwd="/").returncode == 9


def test_a_killed_worker_is_told_to_its_client(python: list[str], script: Callable[[str], str]) -> None:
    with waiting(python, script(WAIT)) as (client, worker):
        os.kill(worker, signal.SIGKILL)
        assert client.wait(10) == 256 - signal.SIGKILL


def test_nobody_waits_for_a_worker_whose_client_is_gone(python: list[str], script: Callable[[str], str]) -> None:
    with waiting(python, script(WAIT)) as (client, worker):
        client.kill()
        assert_ended(worker)


def test_what_a_worker_leaves_in_its_group_ends_with_it(python: list[str], script: Callable[[str], str]) -> None:
    left = script("import subprocess; print(subprocess.Popen(['sleep', '600'], stdout=2).pid)")
    assert_ended(int(run([*python, left]).stdout))


def test_a_request_that_cannot_be_read_harms_no_other(python: list[str], script: Callable[[str], str]) -> None:
    with socket.socket(socket.AF_UNIX) as strange:
        strange.connect(python[-1])
        strange.sendall(b"\0no JSON\n")
        assert strange.recv(1) == b""
    assert run([*python, script("print('next')")]).stdout == "next\n"


def test_workers_end_with_the_block(script: Callable[[str], str]) -> None:
    with ExitStack() as until_then:
        with forked_workers(num_threads=1) as command:
            started = [until_then.enter_context(waiting(shlex.split(command), script(WAIT))) for _ in range(2)]
        for client, worker in started:
            assert_ended(worker)
            assert client.wait(10) != 0


def test_without_a_server_a_worker_imports_for_itself(script: Callable[[str], str]) -> None:
    with forked_workers(num_threads=1) as command:
        pass
    done = run([*shlex.split(command), script("import sys; print(sys.argv[1:], 'torch' in sys.modules)"), "a b"])
    assert (done.returncode, done.stdout) == (0, "['a b'] False\n")
    assert done.stderr == "no fork server answers: this worker imports for itself\n"


@pytest.mark.parametrize(
    ("runtime", "address", "environment"),
    [
        ({"executor": "local"}, None, {}),
        ({"gpus_per_worker": 1}, None, {}),
        ({}, "127.0.0.1:6379", {}),
        ({}, None, {"RAY_ADDRESS": "127.0.0.1:6379"}),
    ],
    ids=["no Ray", "GPUs", "a cluster that is given", "a cluster of the environment"],
)
def test_nothing_is_imported_ahead_for_workers_that_are_not_forked(
    runtime: dict[str, Any], address: str | None, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with workers_ahead(RuntimeConfig(**runtime), address) as python:
        assert python is None


@pytest.mark.ray
def test_workers_of_an_own_cluster_are_forked_and_end_with_it() -> None:
    code = "from tests.execution.test_execution_forking import on_own_cluster; on_own_cluster()"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = run([sys.executable, "-c", code], env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    first, second, again, third = found["told"]
    assert first["parent"] == second["parent"] == found["server"]  # and not Ray's node
    assert first["imported"]
    assert second["imported"]
    assert first["process"] != second["process"]
    assert again["process"] == second["process"]  # the server's end is not that of its workers
    assert not third["imported"]
    assert "the fork server ended" in done.stderr
    for process in found["below"]:
        assert_ended(process)


def on_own_cluster() -> None:
    """Print what workers say of themselves: one, one after that was killed, the same after the server was killed, and a
    new one; and all processes below this one.
    """
    import ray

    from afp_ray.execution.cluster import _descendants

    class Worker:
        def tell(self) -> dict[str, Any]:
            return {"process": os.getpid(), "parent": os.getppid(), "imported": "torch" in sys.modules}

    remote: Any = ray.remote(num_cpus=0.5)(Worker)
    with forked_workers(num_threads=1) as python, connected(None, python=python):
        told = [ray.get(remote.remote().tell.remote(), timeout=60)]
        os.kill(told[0]["process"], signal.SIGKILL)
        second = remote.remote()
        told.append(ray.get(second.tell.remote(), timeout=60))
        server = told[1]["parent"]
        below = _descendants(os.getpid()).keys()
        assert server in below
        os.kill(server, signal.SIGKILL)
        third = remote.remote()
        told += ray.get([second.tell.remote(), third.tell.remote()], timeout=60)
        below |= _descendants(os.getpid()).keys()
    print(json.dumps({"told": told, "server": server, "below": sorted(below)}))


@contextmanager
def waiting(python: list[str], path: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A client and its worker, both ended at the end."""
    with subprocess.Popen([*python, path], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        worker = int(client.stdout.readline())
        try:
            yield client, worker
        finally:
            client.kill()
    assert_ended(worker)


def assert_ended(process: int) -> None:
    """Wait for the end of a process that is not a child of this one."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.02)
    raise AssertionError(f"{process} is still there")
