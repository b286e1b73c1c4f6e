"""Starts the fork server for the length of a cluster of this machine, and says how Ray reaches it."""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLIENT = Path(__file__).with_name("fork_client.py")
_END_S = 5.0


def can_fork() -> bool:
    """Whether this system has what the server needs."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


@contextmanager
def forked_workers(folder: Path, *, num_threads: int) -> Iterator[str]:
    """A fork server that imports meanwhile and ends with the block, its workers with it.

    Args:
        folder: for its socket and its log; private to the user, and short.
        num_threads: threads of a worker's matrix products, unless OMP_NUM_THREADS says another number.
    Yields: the command that stands in for the Python interpreter when a worker is started.
    """
    path = folder / "fork.sock"
    environment = {"OMP_NUM_THREADS": str(num_threads), **os.environ}
    ours, its = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, (folder / "fork.log").open("wb") as log:
        listener.bind(str(path))
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, "-m", "afp_ray.execution.fork_server", str(ours)],
            stdin=listener.fileno(),
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=[ours],
            start_new_session=True,  # Ctrl-C is for the driver
        )
    os.close(ours)
    try:
        yield shlex.join([sys.executable, "-I", "-S", str(_CLIENT), str(path)])
    finally:
        os.close(its)
        server.terminate()  # heeded while it imports
        try:
            server.wait(_END_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
