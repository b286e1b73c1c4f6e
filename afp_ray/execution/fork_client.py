"""Stands in for the Python interpreter where Ray starts a worker: asks the fork server for a process that runs it.

Ray's node runs this file by itself, with neither site-packages nor this package, so that it takes a few milliseconds.
It hands its arguments, environment, working folder and standard files over, and waits for the worker's exit code. Where
no server answers, it becomes the interpreter that it stands for.

Usage: python -I -S fork_client.py SOCKET SCRIPT [ARGUMENT ...]
"""

import json
import os
import socket
import sys

ANSWER_S = 20.0
"""For how long the server may still be importing; Ray itself gives a worker up after a minute."""


def main(path: str, arguments: list[str]) -> int:
    """Run a script in a forked process; gives its exit code."""
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ), "nice": os.nice(0)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.settimeout(ANSWER_S)
        try:
            server.connect(path)
            socket.send_fds(server, [b"\0"], [0, 1, 2])
            server.sendall(json.dumps(request).encode() + b"\n")
            is_answered = server.recv(1) == b"\n"
        except OSError:
            is_answered = False
        if is_answered:
            server.settimeout(None)
            return int(server.makefile().readline() or 1)  # a server that is gone leaves its workers to Ray
    sys.stderr.write("no fork server answers: this worker imports for itself\n")
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
