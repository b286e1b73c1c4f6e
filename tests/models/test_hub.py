"""A hub on this machine: one download, a commit that stays, waits where the hub asks, and workers without it."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FIRST, SECOND = "1" * 40, "2" * 40
NAME = "someone/tiny"
LOOK_UP = f"""
import json, sys
from afp_ray.config.model import ModelConfig
from afp_ray.errors import ModelError
from afp_ray.models import hub
from afp_ray.models.describe import describe
config = ModelConfig(name={NAME!r})
"""


LOAD = "from afp_ray.models.load import load_model"


class Hub(ThreadingHTTPServer):
    """Serves one repository as the model hub does; refuses its first requests with 429 where told to."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.main = folder, FIRST
        self.num_busy = 0
        self.asked: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked[f"{self.command} {path}"] += 1
        if self.server.num_busy > 0:
            self.server.num_busy -= 1
            return self.answer(429, b"busy", {"Retry-After": "1"})
        if path.startswith(f"/api/models/{NAME}/tree/"):
            files = [(file.name, file.stat().st_size) for file in sorted(self.server.folder.iterdir())]
            tree = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in files]
            return self.answer(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        if path.startswith(f"/{NAME}/resolve/"):
            file = self.server.folder / path.rpartition("/")[2]
            commit = self.commit(path.rpartition("/")[0])
            if not file.is_file():
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            content = file.read_bytes()
            return self.answer(200, content, {"ETag": hashlib.sha256(content).hexdigest(), "X-Repo-Commit": commit})
        return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def commit(self, path: str) -> str:
        revision = path.rpartition("/")[2]
        return self.server.main if revision == "main" else revision

    def answer(self, code: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def hub(saved_model: Path) -> Iterator[Hub]:
    server = Hub(saved_model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def settings(endpoint: str, cache: Path) -> dict[str, str]:
    """Environment of a process; the hub's client reads it when it is imported."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    return {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}


def run(code: str, endpoint: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own."""
    command = [sys.executable, "-c", LOOK_UP + code]
    return subprocess.run(command, env=settings(endpoint, cache), capture_output=True, text=True, timeout=200)


def test_a_model_is_fetched_once_and_workers_need_no_hub(hub: Hub, tmp_path: Path) -> None:
    first = run("print(describe(config).revision)\nhub.fetch(config)\nprint(json.dumps(hub.pins()))", hub.url, tmp_path)
    assert first.returncode == 0, first.stderr
    commit, pins = first.stdout.splitlines()
    assert commit == FIRST
    (found,) = json.loads(pins)
    assert found[:3] == [NAME, None, FIRST]
    weights = sum(number for asked, number in hub.asked.items() if asked.startswith("GET") and "safetensors" in asked)
    assert weights == 1
    num_asked = hub.asked.total()
    hub.main = SECOND  # the branch moves while the study runs
    work = f"hub.pin(json.loads({pins!r}))\n{LOAD}\nprint(describe(config).revision, load_model(config).num_layers)\n"
    worker = run(work, hub.url, tmp_path)
    assert worker.stdout == f"{FIRST} 3\n", worker.stderr
    assert hub.asked.total() == num_asked  # a worker asks nothing
    away = run(work, "http://127.0.0.1:9", tmp_path)
    assert away.stdout == f"{FIRST} 3\n", away.stderr


def test_a_process_asks_for_a_branch_once(hub: Hub, tmp_path: Path) -> None:
    code = (
        "before = describe(config)\nprint('moved', flush=True)\nsys.stdin.readline()\nprint(describe(config) == before)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", LOOK_UP + code],
        env=settings(hub.url, tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "moved\n"
        num_asked, hub.main = hub.asked.total(), SECOND
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stdout.readline() == "True\n"
    assert hub.asked.total() == num_asked


def test_a_folder_that_is_not_on_this_machine_is_fetched_at_the_same_commit(hub: Hub, tmp_path: Path) -> None:
    hub.main = SECOND
    pins = [[NAME, None, FIRST, "/on/another/machine"]]
    done = run(
        f"hub.pin({pins})\n{LOAD}\nprint(hub.fetch(config).name, load_model(config).num_layers)", hub.url, tmp_path
    )
    assert done.stdout == f"{FIRST} 3\n", done.stderr


def test_what_was_fetched_here_stays_when_a_later_job_pins_the_same_commit(hub: Hub, tmp_path: Path) -> None:
    pins = [[NAME, None, FIRST, "/on/another/machine"]]
    code = f"hub.pin({pins})\nhub.fetch(config)\nhub.pin({pins})\nprint(hub.fetch(config).name)"
    done = run(code, hub.url, tmp_path)
    assert done.stdout == f"{FIRST}\n", done.stderr
    assert sum(number for asked, number in hub.asked.items() if "/tree/" in asked) == 1


def test_a_busy_hub_is_waited_for(hub: Hub, tmp_path: Path) -> None:
    hub.num_busy = 2
    done = run("print(hub.fetch(config).name)", hub.url, tmp_path)
    assert done.stdout == f"{FIRST}\n", done.stderr
    assert hub.num_busy == 0


def test_a_hub_that_is_away_gives_the_fix(tmp_path: Path) -> None:
    code = "try:\n    hub.fetch(config)\nexcept ModelError as error:\n    print(error)"
    done = run(code, "http://127.0.0.1:9", tmp_path)
    assert f"hf download {NAME}" in done.stdout, done.stderr


def test_pickled_weights_are_fetched_where_there_are_no_others(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "pytorch_model.bin").write_bytes(b"of earlier versions")
    folder = "from pathlib import Path\nprint(sorted(path.name for path in Path(hub.fetch(config)).glob('*model*')))"
    assert run(folder, hub.url, tmp_path / "both").stdout == "['model.safetensors']\n"
    (hub.folder / "model.safetensors").unlink()
    assert run(folder, hub.url, tmp_path / "pickled").stdout == "['pytorch_model.bin']\n"


def test_a_repository_without_weights_is_refused(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").rename(hub.folder / "weights.h5")
    code = "try:\n    hub.fetch(config)\nexcept ModelError as error:\n    print(error)\nprint(hub.pins()[0][3])"
    done = run(code, hub.url, tmp_path)
    assert "it has no weights" in done.stdout, done.stderr
    assert done.stdout.endswith("None\n")


def test_what_a_hub_lists_is_checked_before_weights_are_fetched(hub: Hub, tmp_path: Path) -> None:
    code = (
        "from afp_ray.models.check import check_checkpoint\n"
        "try:\n    print(sorted(check_checkpoint(config)))\nexcept ModelError as error:\n    print(error)"
    )
    done = run(code, hub.url, tmp_path / "whole")
    assert done.stdout == "[]\n", done.stderr
    assert not any("safetensors" in asked and asked.startswith("GET") for asked in hub.asked)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (hub.folder / "model.safetensors").rename(hub.folder / "model-00001-of-00002.safetensors")
    (hub.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "shard model-00002-of-00002.safetensors" in run(code, hub.url, tmp_path / "part").stdout
    index["weight_map"]["b"] = "../../../etc/passwd"
    (hub.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lies outside the model's folder" in run(code, hub.url, tmp_path / "outside").stdout
