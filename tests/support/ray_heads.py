"""A Ray head of one's own for a test: free ports, a token, its own home folder and sockets, ended by its process id."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services import cli

ROOT = Path(__file__).parents[2]
SMALL = ("training.max_steps=2", "budget.trials=1", "evaluation.limit=12", "seeds=[0]", "compare.method=[base,afp]")
"""The demonstration in the smallest form in which its arms do not score alike."""
IS_WHOLE = os.environ.get("AFP_TEST_DEMO") == "whole"
"""Whether these tests take it as it ships; each then runs for many minutes."""
OVERRIDES = [] if IS_WHOLE else [part for override in SMALL for part in ("--set", override)]
ARMS = {"base", "mit", "cit", "mcl", "afp"} if IS_WHOLE else {"base", "afp"}
PATIENCE_S = 1_200 if IS_WHOLE else 300

_EXPECTED: list[dict[str, Any]] = []


@dataclass(frozen=True)
class Head:
    address: str
    environment: Mapping[str, str]
    """What commands need to speak to it."""
    home: Path
    """Home folder of its jobs."""


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def short_folder() -> Path:
    """A new folder with a short name: a socket's path has at most 107 bytes."""
    folder = Path("/tmp") / f"afp-{secrets.token_hex(3)}"
    folder.mkdir(mode=0o700)
    return folder


def head_options(folder: Path) -> dict[str, Any]:
    """Options of `ray start --head` that meet no other Ray of the machine; the dashboard's port among them."""
    port, client, dashboard, agent, metrics = free_ports(5)
    return {
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


def clean_environment() -> dict[str, str]:
    """This process's environment without Ray's and our own variables, `afp` on its path as in an activated one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AFP_STORAGE"))}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def answers(address: str, token: str) -> bool:
    request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def ray_head(log_folder: Path, *python_path: Path) -> Iterator[Head]:
    """A head with a token on the loopback, whose processes import from `python_path` too."""
    folder, token = short_folder(), secrets.token_urlsafe(32)
    options = head_options(folder)
    environment = clean_environment() | {"RAY_AUTH_TOKEN": token, "HOME": str(log_folder)}
    if python_path:
        inherited = filter(None, [environment.get("PYTHONPATH", "")])
        environment["PYTHONPATH"] = os.pathsep.join([*map(str, python_path), *inherited])
    log = (log_folder / "head.log").open("wb")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    process = subprocess.Popen(
        [*command, *(f"--{name}={value}" for name, value in options.items())],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{options['dashboard-port']}"
    try:
        deadline = time.monotonic() + 120
        while not answers(address, token):
            assert process.poll() is None and time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(0.2)
        yield Head(address, environment, log_folder)
    finally:
        process.send_signal(signal.SIGTERM)  # the head ends what it started
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def best_configuration(storage: Path, capsys: Any) -> dict[str, Any]:
    """The best configuration of the demonstration study under `storage`, as `afp best --json` gives it."""
    capsys.readouterr()
    assert cli.main(["best", "demo", "--storage", str(storage), "--json"]) == 0
    config: dict[str, Any] = json.loads(capsys.readouterr().out)["config"]
    return config


def expected_configuration(storage: Path, capsys: Any) -> dict[str, Any]:
    """The same after a plain `afp run` in this process; run once, and the same for all tests."""
    if not _EXPECTED:
        executor = [] if IS_WHOLE else ["--executor", "local"]
        arguments = ["run", "demo", "--storage", str(storage), *executor, *OVERRIDES]
        assert cli.main(arguments) == 0
        _EXPECTED.append(best_configuration(storage, capsys))
    return _EXPECTED[0]
