"""`ray job submit --working-dir . -- afp run ...` against a cluster of its own, with a token, on the loopback."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from afp_ray.ledger import replay
from afp_ray.records import TrialStatus
from afp_ray.store import StudyPaths

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parent.parent.parent
SMALL = ("training.max_steps=2", "budget.trials=1", "evaluation.limit=8", "seeds=[0]", "compare.method=[base,afp]")


@dataclass(frozen=True)
class Head:
    address: str
    environment: Mapping[str, str]


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def answers(address: str, token: str) -> bool:
    request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = Path("/tmp") / f"afp-{secrets.token_hex(3)}"  # Ray's socket names must stay short
    folder.mkdir()
    token = secrets.token_urlsafe(32)
    port, client, dashboard, agent, metrics = free_ports(5)
    # `afp` is found on the path of the cluster's nodes, as in an activated environment.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    options = {
        "node-ip-address": "127.0.0.1",
        "port": port,
        "ray-client-server-port": client,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "metrics-export-port": metrics,
        "num-cpus": 2,
        "temp-dir": folder,
    }
    log = (tmp_path_factory.mktemp("head") / "head.log").open("wb")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    process = subprocess.Popen(
        [*command, *(f"--{name}={value}" for name, value in options.items())],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 120
        while not answers(address, token):
            assert process.poll() is None and time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(0.2)
        yield Head(address, environment)
    finally:
        process.send_signal(signal.SIGTERM)  # the head ends what it started
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_a_study_runs_as_a_ray_job(head: Head, tmp_path: Path) -> None:
    overrides = [part for override in SMALL for part in ("--set", override)]
    command = ["afp", "run", "search_spaces/demo.yaml", "--storage", str(tmp_path), *overrides]
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", head.address]
    done = subprocess.run(
        [*submit, "--working-dir", ".", "--", *command],
        cwd=ROOT,
        env=dict(head.environment),
        capture_output=True,
        text=True,
        timeout=350,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "succeeded" in output
    state = replay(StudyPaths(tmp_path, "demo").ledger)
    assert state.closed == "complete"
    assert {trial.arm for trial in state.trials} == {"base", "afp"}
    assert {trial.status for trial in state.trials} == {TrialStatus.DONE}
