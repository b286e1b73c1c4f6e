"""Imports once what every trial needs, and forks a process for each worker that Ray starts on this machine.

An import of torch and transformers takes seconds of CPU; a fork of a process that has imported them takes milliseconds
and shares their memory. Ray itself is left out: it reads its settings from the environment while it is imported, and
each worker has its own. A forked worker is the worker that Ray would have started, with its arguments, environment,
folder, files and priority, in a process group of its own, since Ray ends a worker's whole group.

Standard input is the listening socket; the server ends, and its workers with it, when its parent closes a pipe.

Usage: python -m afp_ray.execution.fork_server PIPE < SOCKET
"""

import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass

from afp_ray.collection import without_collection
from afp_ray.trial.run import import_libraries

_OF_RAY = (
    "click",
    "fsspec",
    "google.protobuf.message",
    "jsonschema",
    "msgpack",
    "pandas",
    "pyarrow",
    "requests",
    "rich",
)
"""Libraries that a worker imports for Ray."""
_REQUEST_S = 5.0


@dataclass(frozen=True)
class Request:
    """What a client wants run.

    Attributes:
        arguments: a script and its own arguments.
        folder, environment, nice, files: of the process that is to run it; files are its standard ones.
    """

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    nice: int
    files: tuple[int, ...]


@dataclass(frozen=True)
class Worker:
    """A forked process, the file that is readable once it has ended, and the client that waits for that."""

    process: int
    end: int
    client: socket.socket


class ForkServer:
    """Forks on request until its parent is gone.

    Args:
        listener: where clients connect.
        parent: the end of a pipe whose other end the parent holds.
    """

    def __init__(self, listener: socket.socket, parent: int) -> None:
        self._listener, self._parent = listener, parent
        self._workers: list[Worker] = []

    def serve(self) -> Request | None:
        """Serve until the end.

        Returns: None in the server, when its parent is gone; in a forked process what that has to run.
        """
        with selectors.DefaultSelector() as ready:
            ready.register(self._listener, selectors.EVENT_READ)
            ready.register(self._parent, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    if key.fd == self._parent:
                        for worker in self._workers:
                            _kill(worker)
                        return None
                    if key.fileobj is self._listener:
                        if request := self._accept(ready):
                            return request
                    elif key.data in self._workers:  # not of one whose other file came first
                        self._end(key.data, ready)

    def _accept(self, ready: selectors.BaseSelector) -> Request | None:
        """Fork for a client; gives the request in the forked process alone."""
        client, _ = self._listener.accept()
        try:
            client.settimeout(_REQUEST_S)
            request = _receive(client)
        except (OSError, ValueError) as error:
            sys.stderr.write(f"a request that cannot be read: {error}\n")
            client.close()
            return None
        process = os.fork()
        if process == 0:
            self._leave(client)
            return request
        for file in request.files:
            os.close(file)
        worker = Worker(process, os.pidfd_open(process), client)
        self._workers.append(worker)
        ready.register(worker.end, selectors.EVENT_READ, worker)
        ready.register(client, selectors.EVENT_READ, worker)
        with suppress(OSError):  # a client that is gone is seen as such
            client.sendall(b"\n")
        return None

    def _leave(self, client: socket.socket) -> None:
        """Close in a forked process what is the server's."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setpgid(0, 0)
        for worker in self._workers:
            os.close(worker.end)
            worker.client.close()
        client.close()
        self._listener.close()
        os.close(self._parent)

    def _end(self, worker: Worker, ready: selectors.BaseSelector) -> None:
        """A worker has ended, or its client has, and then nobody wants it any more."""
        _kill(worker)
        _, status = os.waitpid(worker.process, 0)
        with suppress(OSError):
            worker.client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        ready.unregister(worker.end)
        ready.unregister(worker.client)
        os.close(worker.end)
        worker.client.close()
        self._workers.remove(worker)


def _kill(worker: Worker) -> None:
    """End a worker, and whatever it has started in its group."""
    for kill in (os.killpg, os.kill):  # its group is there once it has run its first line
        with suppress(ProcessLookupError):
            kill(worker.process, signal.SIGKILL)


def _receive(client: socket.socket) -> Request:
    """Read what a client sends: its standard files, and a line of JSON."""
    _, files, _, _ = socket.recv_fds(client, 1, 3)
    return Request(**json.loads(client.makefile().readline()), files=tuple(files))


def become(request: Request) -> None:
    """Run a script in this process as if it had been started for it."""
    for place, file in enumerate(request.files):
        os.dup2(file, place)
        os.close(file)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    os.nice(request.nice - os.nice(0))
    sys.argv[:] = request.arguments
    sys.path[0] = os.path.dirname(request.arguments[0])
    runpy.run_path(request.arguments[0], run_name="__main__")


def main(parent: int) -> None:
    """Import, serve, and run what is asked for in the processes that were forked."""
    listener = socket.socket(fileno=0)
    with without_collection(stays=True):  # and no worker's collection writes to what it shares with the others
        import_libraries()
        for name in _OF_RAY:
            with suppress(ImportError):  # one that this Ray can do without
                importlib.import_module(name)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # until now it is the end; now there may be workers to end first
    request = ForkServer(listener, parent).serve()
    if request is None:
        os._exit(0)  # its libraries need not be taken apart
    become(request)


if __name__ == "__main__":
    main(int(sys.argv[1]))
