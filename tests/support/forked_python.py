"""Stands in for the Python interpreter where tests start many processes: one process imports once, and is forked.

An import of torch, transformers and Ray takes each process seconds of CPU, a fork of one that has imported them some
milliseconds. The stand-in is a file that is called as Python is (`-u`, `-c`, `-m` or a script); it hands arguments,
environment, working folder and standard files to the process that has imported, passes signals on, and ends as the
forked one does. It does not do for what a fresh interpreter alone can show: what is imported, how early a signal is
heard, what `/proc` says of its environment.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from fork_client import FIRST_JOB

SUPPORT = Path(__file__).parent
_RAY_MODULES = (
    "ray._private.workers.default_worker",
    "ray.dashboard.agent",
    "ray._private.runtime_env.agent.main",
    "ray._private.log_monitor",
    "afp_ray.execution.train_job",
    "afp_ray.execution.trainable",
    "afp_ray.execution.tune_bridge",
    "afp_ray.trial.run",
    "fake_trials",
)
"""What processes of a Ray cluster import while it runs this package's trials."""
# What Ray reads from the environment while it is imported: a cluster's first driver has the first job, and a worker
# ends with a process that here has to be one that lives long; `_watch` minds its node.
_OF_RAY = {"RAY_JOB_ID": FIRST_JOB, "RAY_RAYLET_PID": str(os.getpid())}
_OF_IMPORTS: dict[str, str] = {}
"""Variables that what is imported has set."""
_AGENTS = ("ray/dashboard/agent.py", "ray/_private/runtime_env/agent/main.py")
_CLIENT = """#!{python} -IS
import sys
sys.path.insert(0, {support!r})
from fork_client import main
main({socket!r}, {python!r}, sys.argv[1:])
"""


@contextmanager
def forked_python(modules: Sequence[str], **environment: str) -> Iterator[str]:
    """The path of a stand-in whose processes have imported `modules`; all of them end with the block.

    Args:
        modules: in the order in which they are imported.
        environment: what this process's environment lacks for that.
    """
    with tempfile.TemporaryDirectory(prefix="afp-fork-") as folder:
        path = f"{folder}/socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(64)
            server = subprocess.Popen(
                [sys.executable, str(SUPPORT / "forked_python.py"), str(listener.fileno()), *modules],
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,  # its end is that of this process
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        client = Path(folder, "python")
        client.write_text(_CLIENT.format(python=sys.executable, support=str(SUPPORT), socket=path))
        client.chmod(0o700)
        try:
            yield str(client)
        finally:
            server.communicate()


@contextmanager
def forked_by_ray(**environment: str) -> Iterator[None]:
    """Let the cluster that is started in the block fork whatever of it is written in Python, for its first driver.

    Args:
        environment: what Ray would read there while it is imported, and this process's lacks.
    """
    from types import SimpleNamespace

    from ray._private import services

    with forked_python(_RAY_MODULES, **_OF_RAY, **environment) as python:
        # A node gives up its own start after half a minute, which on a busy machine the imports may take.
        subprocess.run([python, "-c", ""], check=True)
        services.sys = SimpleNamespace(**{**vars(sys), "executable": python})
        try:
            yield
        finally:
            services.sys = sys


def _serve(listener: socket.socket) -> None:
    """Fork for every client, until standard input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a watcher ended
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            return
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _watch(client)
        client.close()


def _watch(client: socket.socket) -> NoReturn:
    """Fork what a client asks for, and tell its id and how it ends; end it when the client or the server does."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, _, _ = socket.recv_fds(client, 1, 3)
    request = json.loads(client.makefile().readline())
    child = os.fork()
    if child == 0:
        client.close()
        _become(request, files)
    for file in files:
        os.close(file)
    with suppress(OSError):
        client.sendall(f"{child}\n".encode())
    end = os.pidfd_open(child)
    raylet = int(request["environment"].get("RAY_RAYLET_PID", os.getpid()))
    ready: list[Any] = []
    with suppress(ProcessLookupError):
        ready, _, _ = select.select([end, client, os.pidfd_open(raylet), 0], [], [])
    if end not in ready:
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError):
                kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with suppress(OSError):
        client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(request: dict[str, Any], files: Sequence[int]) -> NoReturn:
    """Run what is asked for as an interpreter would that had been started for it."""
    os.setpgid(0, 0)  # Ray ends a worker's whole group
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(_OF_IMPORTS | request["environment"])
    os.nice(request["nice"] - os.nice(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN if request["is_deaf"] else signal.default_int_handler)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, buffering=buffering, closefd=False)  # noqa: SIM115
        for number, mode, buffering in ((0, "r", -1), (1, "w", 1 if request["is_unbuffered"] else -1), (2, "w", 1))
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    code = 0
    try:
        _run(request["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _run(arguments: list[str]) -> None:
    """What follows `python` on a command line."""
    added = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [path for path in added if path not in sys.path]
    if arguments[0] == "-m":
        sys.argv[:] = arguments[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    if arguments[0] == "-c":
        sys.argv[:] = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        return
    script = arguments[0]
    if script.endswith("ray/_private/workers/setup_worker.py"):
        script, arguments = _set_up_worker(arguments)
    elif script.endswith(_AGENTS):
        os.environ["RAY_RAYLET_PID"] = str(os.getppid())  # they look whether it is their parent
    sys.argv[:] = arguments
    sys.path.insert(0, os.path.dirname(script))
    runpy.run_path(script, run_name="__main__")


def _set_up_worker(arguments: list[str]) -> tuple[str, list[str]]:
    """As Ray's own script, which then starts the interpreter anew: the worker's script and arguments."""
    import argparse

    from ray._private.runtime_env.context import RuntimeEnvContext

    parser = argparse.ArgumentParser()
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    options, rest = parser.parse_known_args(arguments[1:])
    os.environ.update(RuntimeEnvContext.deserialize(options.serialized_runtime_env_context).env_vars)
    return rest[0], rest


def main(listener: str, *modules: str) -> None:
    """Import and serve."""
    before = dict(os.environ)
    gc.disable()
    if "RAY_JOB_ID" in before:
        _keep_ray_from_drawing()
    with warnings.catch_warnings():
        for module in modules:
            importlib.import_module(module)
    gc.freeze()
    gc.enable()
    _OF_IMPORTS.update({name: value for name, value in os.environ.items() if name not in before})
    _serve(socket.socket(fileno=int(listener)))


def _keep_ray_from_drawing() -> None:
    """Let a class of an actor that is made while it is imported have an id that is not Ray's own generator's.

    The state of that is made when it is asked for the first time, and would be the same in all forks: two workers would
    give two things one id.
    """
    from ray import ActorClassID, actor

    class OfTheSystem(ActorClassID):  # type: ignore[misc]  # Ray's class is untyped
        @classmethod
        def from_random(cls) -> Any:
            return ActorClassID(os.urandom(ActorClassID.size()))

    actor.ActorClassID = OfTheSystem


if __name__ == "__main__":
    main(*sys.argv[1:])
