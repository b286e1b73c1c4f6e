"""Clients that never finish asking, or never read, are dropped; whoever asks properly is answered meanwhile."""

import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate
from fastapi import FastAPI, Response
from served import served, serving

from services import answers, server
from services.api import create_app
from services.client import ApiError, Client
from services.server import REQUEST_S

SLACK_S = 10.0
"""On two cores that other processes share."""


def seconds_until_dropped(port: int, first: bytes, drip: bytes) -> float:
    """How long the service bears a client that sends `first` and then `drip`, twice a second."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(first)
        client.settimeout(0.5)
        while time.monotonic() - started < 10 * REQUEST_S:
            try:
                if client.recv(65536) == b"":
                    break
                time.sleep(0.1)
            except TimeoutError:
                pass
            except ConnectionError:
                break
            try:
                client.sendall(drip)
            except ConnectionError:
                break
    return time.monotonic() - started


HEAD = b"GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
SLOW = {
    "silent": (b"", b""),
    "a byte at a time": (b"", b"G"),
    "a header at a time": (HEAD, b"X-More: 1\r\n"),
    "a header without end": (HEAD + b"X-Never: ", b"x"),
    "a body at a byte a time": (HEAD + b"Content-Length: 100000\r\n\r\n", b"x"),
    "a second request": (HEAD + b"\r\n" + HEAD, b"X-More: 1\r\n"),
}


@pytest.mark.slow
def test_a_client_that_never_finishes_asking_is_dropped_by_the_command(tmp_path: Path) -> None:
    fabricate(tmp_path)
    with served(tmp_path) as port, ThreadPoolExecutor(len(SLOW)) as pool:
        waiting = {name: pool.submit(seconds_until_dropped, port, *sent) for name, sent in SLOW.items()}
        assert Client(f"http://127.0.0.1:{port}").health().studies == 1
        taken = {name: future.result() for name, future in waiting.items()}
        assert {name: taken[name] for name in SLOW if not 0.9 * REQUEST_S < taken[name] < REQUEST_S + SLACK_S} == {}
        with socket.create_connection(("127.0.0.1", port)) as client:  # one that asks in two parts is no such client
            client.sendall(HEAD)
            time.sleep(1)
            client.sendall(b"\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READ_S", 0.5)
    app, size = FastAPI(), 50_000_000

    @app.get("/")
    def large() -> Response:
        return Response(b"x" * size)

    with (
        serving(app) as port,
        socket.create_connection(("127.0.0.1", port)) as idle,
        socket.create_connection(("127.0.0.1", port)) as reader,
    ):
        for client in (idle, reader):
            client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert received(reader) > size  # whoever reads gets all of it
        time.sleep(2)
        assert received(idle) < size


def test_who_waits_when_the_service_ends_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fabricate(tmp_path)
    begun = threading.Semaphore(0)

    def slow(*_: Any, **__: Any) -> None:
        begun.release()
        time.sleep(4)

    monkeypatch.setitem(server.OPTIONS, "timeout_graceful_shutdown", 1)
    monkeypatch.setattr(answers, "best_answer", slow)
    with ThreadPoolExecutor(2) as pool:
        with serving(create_app(tmp_path)) as port:
            client = Client(f"http://127.0.0.1:{port}", patience_s=0)
            waiting = [pool.submit(client.best, "demo"), pool.submit(client.best, "demo", metric="other")]
            assert begun.acquire(timeout=20)
            assert begun.acquire(timeout=20)
        for future in waiting:
            with pytest.raises(ApiError, match="the service is ending") as caught:
                future.result()
            assert caught.value.problem.status == 503
    assert "Traceback" not in caplog.text


def received(client: socket.socket) -> int:
    """Bytes until the other side closes."""
    client.settimeout(60)
    return sum(len(part) for part in iter(lambda: client.recv(1 << 20), b""))


def test_the_command_says_where_it_listens_and_what_it_serves(tmp_path: Path) -> None:
    fabricate(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "serve", "--port", "0", "--storage", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(5)]
        port = int(lines[1].rpartition(":")[2].rstrip("/\n"))
        address = f"http://127.0.0.1:{port}"
        assert lines == [
            f"serving  1 study of {tmp_path}\n",
            f"page     {address}/\n",
            f"api      {address}/v1/studies   described at {address}/docs\n",
            "tokens   0 good; no token is needed to read, one of scope submit to run or stop a study\n",
            "         Ctrl-C ends it\n",
        ]
        assert Client(address).health().studies == 1
    finally:
        process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert (rest, errors, process.returncode) == ("", "", 0)
