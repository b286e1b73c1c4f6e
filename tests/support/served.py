"""`afp serve` as a user starts it, or an application in this process, on a free port of this machine."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def served(storage: Path, *options: str) -> Iterator[int]:
    """The port of a service over `storage`, which answers and is ended afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "serve", "--port", "0", "--storage", str(storage), *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield port_of(process)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def port_of(process: "subprocess.Popen[str]") -> int:
    """The port that the command says; it listens by then."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.match(r"page +https?://\S+:(\d+)/", line):
            return int(found[1])
    raise AssertionError(f"the service ended with {process.wait(30)} and said no address")


@contextmanager
def serving(app: "FastAPI") -> Iterator[int]:
    """The port of an application that listens as the service does, in a thread of this process."""
    import uvicorn

    from services.server import OPTIONS

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, **OPTIONS))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        threading.Event().wait(0.02)
    yield port
    server.should_exit = True
    thread.join(20)
