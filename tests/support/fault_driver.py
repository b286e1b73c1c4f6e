"""Drivers in processes of their own, to be killed or to meet a broken machine: a fake study, one line per event.

As a program it runs one study. `Nursery` keeps one such process that has everything imported and forks a driver for
each request, so that a sweep over hundreds of places to die takes a second per handful.
"""

import builtins
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import fake_trials
from executor_suite import make_study, run

from afp_ray.errors import AfpError
from afp_ray.execution import LocalExecutor, failpoints
from afp_ray.ledger import log
from afp_ray.records import Host, LedgerEvent, StudyState, TrialRequest, TrialResult
from afp_ray.store import TrialPaths, write_atomic

MARK = "AFP_FAULT_TEST"
"""Variable in the environment of whatever a test starts; its value tells whose it is."""
KILLED, REFUSED = 9, 75
"""Exit codes of a driver that died where it was told to, and of one that ended with an error of this package."""
SUPPORT = Path(__file__).parent
_OPERATIONS = ("fsync", "write", "pwrite", "replace", "rename", "ftruncate", "link", "unlink", "mkdir", "rmdir")
_THAT_WRITE = ("write", "pwrite", "replace", "link", "mkdir")


def tell(event: LedgerEvent, state: StudyState) -> None:
    """One line per event."""
    print(event.state, event.trial_id, flush=True)


def main(storage: str, fields: str, fault: str = "{}", run_trial: str = "fake_trials:run") -> int:
    """Run the study of `fields` (JSON) under `storage`, on a machine with `fault` (JSON); see `suffer`."""
    os.environ[MARK] = storage
    study = make_study(**json.loads(fields))
    suffer(json.loads(fault))
    try:
        run(study, Path(storage), LocalExecutor(), on_event=[tell], run_trial=run_trial)
    except AfpError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return REFUSED
    return 0


def suffer(fault: Mapping[str, Any]) -> None:
    """Break this process.

    Args:
        fault: any of `die_before` (operation at which the process ends, 0-based), `tear` (likewise, once half of a
            write has been done), `failpoint` (name and pass of a point to end at), `count_into` (a file that gets the
            name of every operation), `lines_into` (a file that gets this process' id, then its output), `refuse` (name
            of an error of the system) with `from` (operation from which on nothing can be written), `file_bytes`
            (largest file that can be written), `clock` (seconds by which the clock jumps) with `from`,
            `snapshot_every` (events between two snapshots of the ledger).
    """
    if "lines_into" in fault:
        os.dup2(os.open(fault["lines_into"], os.O_WRONLY), 1)
        print(os.getpid(), flush=True)
    if "failpoint" in fault:
        failpoints._NAME, failpoints._left = fault["failpoint"]
    if "snapshot_every" in fault:
        log.SNAPSHOT_EVENTS = fault["snapshot_every"]
    if "file_bytes" in fault:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["file_bytes"], resource.RLIM_INFINITY))
    counter = _Operations(fault)
    for name in _OPERATIONS:
        setattr(os, name, counter.around(name, getattr(os, name)))
    real_open = builtins.open

    def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if set(mode) & set("wax+") and not isinstance(file, int):
            counter.refuse_if_asked(file)
        return real_open(file, mode, *rest, **options)

    mkstemp = tempfile.mkstemp

    def temporary(*args: Any, **options: Any) -> Any:
        counter.refuse_if_asked(options.get("dir"))
        return mkstemp(*args, **options)

    if "refuse" in fault:
        builtins.open, tempfile.mkstemp = opened, temporary
        Path.open = lambda self, mode="r", *rest, **options: opened(self, mode, *rest, **options)  # type: ignore[method-assign,assignment]
    if "clock" in fault:
        _turn_clock(lambda: fault["clock"] if counter.number >= fault["from"] else 0.0)


def run_large(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """As `fake_trials.run`, with a checkpoint of two megabytes that is written first."""
    if not TrialPaths(folder).result.exists():
        write_atomic(TrialPaths(folder).checkpoint / "model.safetensors", b"x" * 2_000_000)
        (TrialPaths(folder).checkpoint / "model.safetensors").rename(folder / "large")
    return fake_trials.run(request, folder, host)


class _Operations:
    """Counts what changes the disk, and ends or refuses at the one that was asked for."""

    def __init__(self, fault: Mapping[str, Any]) -> None:
        self.number = 0
        self._fault = fault
        self._exit = os._exit
        self._names = open(fault["count_into"], "a") if "count_into" in fault else None  # noqa: SIM115

    def refuse_if_asked(self, path: object) -> None:
        fault = self._fault
        if "refuse" in fault and self.number >= fault["from"]:
            code = getattr(errno, fault["refuse"])
            raise OSError(code, os.strerror(code), str(path))

    def around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            if name == "write" and args[0] in (1, 2):
                return real(*args, **options)
            number, self.number = self.number, self.number + 1
            if self._names is not None:
                self._names.write(f"{name} {args[0]}\n")
                self._names.flush()
            if self._fault.get("die_before") == number:
                self._exit(KILLED)
            if self._fault.get("tear") == number and name == "write":
                real(args[0], args[1][: len(args[1]) // 2])
                self._exit(KILLED)
            if name in _THAT_WRITE:
                self.refuse_if_asked(args[0])
            return real(*args, **options)

        return operation


def _turn_clock(by: Callable[[], float]) -> None:
    """Let `time.time` jump, also where it was imported by name."""
    real = time.time

    def now() -> float:
        return real() + by()

    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items() if hasattr(module, "__dict__") else ()):
            if value is real:
                setattr(module, name, now)


class Nursery:
    """One process that forks a driver per request.

    Args:
        module: function `main(*arguments) -> int` of which module the drivers run.
    """

    def __init__(self, module: str = "fault_driver") -> None:
        path = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
        self._process = subprocess.Popen(
            [sys.executable, str(SUPPORT / "fault_driver.py"), "serve", module],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def drive(self, *arguments: Any) -> tuple[int, str]:
        """Exit code and output of one driver; what is no text is sent as JSON."""
        texts = [item if isinstance(item, str) else json.dumps(item) for item in map(_plain, arguments)]
        code, output = self._ask({"arguments": texts})
        return code, output

    def kill_after(self, num_lines: int, *arguments: Any) -> bool:
        """Kill a driver with SIGKILL once it has written so many lines; False when it had ended by itself."""
        with tempfile.TemporaryDirectory() as folder:
            lines = Path(folder) / "lines"
            os.mkfifo(lines)
            threading.Thread(target=_kill_at_line, args=(lines, num_lines), daemon=True).start()
            code, output = self.drive(*arguments, {"lines_into": str(lines)})
        assert code in (0, -signal.SIGKILL), output
        return code == -signal.SIGKILL

    @contextmanager
    def started(self, *arguments: Any) -> Iterator["Started"]:
        """A driver that runs while the caller goes on; killed at the end of the block if it still does."""
        with tempfile.TemporaryDirectory() as folder:
            for name in ("stdin", "stdout", "exit"):
                os.mkfifo(f"{folder}/{name}")
            self._ask({"arguments": arguments, "folder": folder})
            process = Started(Path(folder))
            try:
                yield process
            finally:
                process.end()

    def _ask(self, request: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request, default=str) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate("")


class Started:
    """A driver that a nursery has forked: what a test needs of `subprocess.Popen`.

    Args:
        folder: of the pipes that are its standard input and output, and of the one that tells its id and exit code.
    """

    def __init__(self, folder: Path) -> None:
        self._stdin = (folder / "stdin").open("w")
        self.stdout = (folder / "stdout").open()
        self._exit = (folder / "exit").open()
        self.pid = int(self._exit.readline())
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        """Send it a signal; it must run."""
        os.kill(self.pid, number)

    def communicate(self, text: str) -> str:
        """Give it its last input, wait for its end, and return the rest of its output."""
        with suppress(BrokenPipeError):
            self._stdin.write(text)
            self._stdin.close()
        output = self.stdout.read()
        self.wait()
        return output

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        if self.returncode is None:
            self.returncode = int(self._exit.readline())
        return self.returncode

    def end(self) -> None:
        """Kill it if it runs."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()
        for pipe in (self._stdin, self.stdout, self._exit):
            with suppress(BrokenPipeError):
                pipe.close()


def _kill_at_line(fifo: Path, num_lines: int) -> None:
    """Kill the writer of `fifo`, whose id is its first line, once it has written `num_lines` more."""
    with fifo.open() as lines:
        pid = int(lines.readline())
        for _ in range(num_lines):
            if lines.readline() == "":
                return  # it has ended
        with suppress(ProcessLookupError):  # it may have ended
            os.kill(pid, signal.SIGKILL)


def _plain(item: Any) -> Any:
    return str(item) if isinstance(item, Path) else item


@contextmanager
def nursery(module: str = "fault_driver") -> Iterator[Nursery]:
    """A nursery for the length of the block."""
    opened = Nursery(module)
    try:
        yield opened
    finally:
        opened.close()


def _serve(entry: Callable[..., int]) -> None:
    """Fork a driver for each line on the standard input, and answer with its exit code and output.

    One with a folder is started alone: its pipes lie there, and a process of its own waits for it.
    """
    for line in sys.stdin:
        request = json.loads(line)
        if "folder" in request:
            if os.fork() == 0:
                _watch(entry, request["arguments"], Path(request["folder"]))
            answer = None
        else:
            answer = _run_to_its_end(entry, request["arguments"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _run_to_its_end(entry: Callable[..., int], arguments: list[str]) -> tuple[int, str]:
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            for number in (1, 2):
                os.dup2(output.fileno(), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            _be_driver(entry, arguments)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read().decode()


def _watch(entry: Callable[..., int], arguments: list[str], folder: Path) -> NoReturn:
    """Start a driver on the pipes of `folder`, tell its id, wait for it, and tell its exit code."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(folder / "stdin", os.O_RDONLY), 0)  # each waits for the other side
        os.dup2(os.open(folder / "stdout", os.O_WRONLY), 1)
        _be_driver(entry, arguments)
    with (folder / "exit").open("w") as told:
        print(child, file=told, flush=True)
        _, status = os.waitpid(child, 0)
        with suppress(BrokenPipeError):
            print(os.waitstatus_to_exitcode(status), file=told, flush=True)
    os._exit(0)


def _be_driver(entry: Callable[..., int], arguments: list[str]) -> NoReturn:
    try:
        code = entry(*arguments)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        import importlib

        _serve(importlib.import_module(sys.argv[2]).main)
    else:
        sys.exit(main(*sys.argv[1:]))
