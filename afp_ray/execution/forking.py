"""Starts the fork server for a cluster of this machine, and says how Ray reaches it."""

import logging
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from afp_ray.config import RuntimeConfig
from afp_ray.execution.scratch import scratch_folder

logger = logging.getLogger(__name__)

_CLIENT = Path(__file__).with_name("fork_client.py")
_END_S = 5.0
_MAX_SAID = 2000


def can_fork() -> bool:
    """Whether this system has what the server needs."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


def workers_ahead(runtime: RuntimeConfig, address: str | None) -> AbstractContextManager[str | None]:
    """`forked_workers` for a study that is to run on a cluster of its own; None where each worker imports for itself.

    That is elsewhere and with GPUs: what is imported once for all of them might ask for the GPUs of all.

    Args:
        runtime: of the study.
        address: of a running cluster; None takes RAY_ADDRESS.
    """
    ray = sys.modules.get("ray")
    is_connected = ray is not None and ray.is_initialized()
    has_own = runtime.executor == "ray" and not (address or os.environ.get("RAY_ADDRESS") or is_connected)
    if not has_own or runtime.gpus_per_worker > 0 or not can_fork():
        return nullcontext()
    return forked_workers(num_threads=max(1, int(runtime.cpus_per_worker)))


@contextmanager
def forked_workers(*, num_threads: int) -> Iterator[str]:
    """A fork server that begins to import at once and ends with the block, its workers with it.

    Args:
        num_threads: threads of a worker's matrix products, unless OMP_NUM_THREADS says another number.
    Yields: the command that stands in for the Python interpreter when a worker is started.
    """
    environment = {"OMP_NUM_THREADS": str(num_threads), **os.environ}
    with scratch_folder() as folder:
        path, log = folder / "socket", folder / "log"
        read_end, write_end = os.pipe()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, log.open("wb") as file:
            listener.bind(str(path))
            listener.listen()
            server = subprocess.Popen(
                [sys.executable, "-m", "afp_ray.execution.fork_server", str(read_end)],
                stdin=listener.fileno(),
                stdout=file,
                stderr=file,
                env=environment,
                pass_fds=[read_end],
                start_new_session=True,  # Ctrl-C is for the driver
            )
        os.close(read_end)
        try:
            yield shlex.join([sys.executable, "-I", "-S", str(_CLIENT), str(path)])
        finally:
            if server.poll() is not None:
                said = log.read_text(errors="replace").strip()
                logger.warning("the fork server ended, and workers imported for themselves: %s", said[-_MAX_SAID:])
            os.close(write_end)  # what the server takes for the end of this process
            server.terminate()  # heeded while it imports
            try:
                server.wait(_END_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
