"""Peak resident memory of a piece of work above what was resident before it, measured in a process of its own."""

import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_above(prepare: Callable[[], Callable[[], object]]) -> int | None:
    """Run what `prepare` returns in a fresh process.

    Args:
        prepare: importable function that builds everything and returns the work; the work alone is measured.
    Returns: bytes; None where the kernel gives no resettable high-water mark.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(prepare, sender))
    process.start()
    sender.close()
    try:
        peak: int | None = receiver.recv()
    except EOFError:
        peak = None
    process.join()
    return peak


def _child(prepare: Callable[[], Callable[[], object]], sender: Any) -> None:
    work = prepare()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        sender.send(None)
        return
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    work()
    lines = Path("/proc/self/status").read_text().splitlines()
    mark = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    sender.send(mark - before)
