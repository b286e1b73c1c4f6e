"""Asks the server of `forked_python` for a process, passes signals on to it, and ends as it ends.

It imports little, and runs without site-packages: it is started for every process that a test forks.
"""

import os
import signal
import socket
from typing import Any

FIRST_JOB = "01000000"
"""Ray's number of a cluster's first job: that of a later one, whose workers are few, is not what has been imported."""


def main(path: str, python: str, arguments: list[str]) -> None:
    """Run `python arguments` in a forked process, or in a new one for a later job of a cluster."""
    import json

    if os.environ.get("RAY_JOB_ID", FIRST_JOB) != FIRST_JOB:
        os.execv(python, [python, *arguments])
    is_unbuffered = arguments[0] == "-u"
    request = {
        "arguments": arguments[is_unbuffered:],
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "nice": os.nice(0),
        "is_unbuffered": is_unbuffered,
        "is_deaf": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
    }
    server = socket.socket(socket.AF_UNIX)
    server.connect(path)
    socket.send_fds(server, [b"\0"], [0, 1, 2])
    server.sendall(json.dumps(request).encode() + b"\n")
    answers = server.makefile()
    process = int(answers.readline())

    def pass_on(number: int, _: Any) -> None:
        os.kill(process, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    code = int(answers.readline() or -signal.SIGKILL)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
