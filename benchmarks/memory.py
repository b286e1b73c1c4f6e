"""Peak resident memory of a piece of work above what was resident before it, measured in a process of its own."""

import ctypes
import multiprocessing
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any

_MMAP_THRESHOLD = -3
"""Number of the option in the C library's mallopt."""


@dataclass(frozen=True)
class Measured:
    """What a piece of work took and gave.

    Attributes:
        peak: bytes; None where the kernel gives no resettable high-water mark.
        marks: what the work returned.
    """

    peak: int | None
    marks: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Work:
    """What is measured, and what is asked of it afterwards.

    Attributes:
        run: the work alone.
        marks: numbers that show what it gave; they do not count.
    """

    run: Callable[[], object]
    marks: Callable[[], list[float]]


def peak_above(prepare: Callable[[], Work], *, is_tiny: bool = False) -> Measured:
    """Run what `prepare` returns in a fresh process.

    The process gives freed memory back at once, so that the mark is what tensors take and not what its heap keeps.

    Args:
        prepare: importable function that builds everything, runs a small piece of the same kind, so that code is in
            memory already, and returns the work.
        is_tiny: fork the process from one that has imported the libraries, whose free heap may hide some megabytes.
    """
    context: SpawnContext | ForkServerContext = multiprocessing.get_context("spawn")
    if is_tiny:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "transformers", "afp_ray.models.load", "afp_ray.training.step"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(prepare, sender))
    process.start()
    sender.close()
    try:
        measured: Measured = receiver.recv()
    except EOFError:
        measured = Measured(None)
    process.join()
    return measured


def ratio(ours: Measured, theirs: Measured) -> float | None:
    """How many times less memory ours took; None where one of them is not known."""
    return theirs.peak / ours.peak if ours.peak and theirs.peak else None


def _child(prepare: Callable[[], Work], sender: Any) -> None:
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_MMAP_THRESHOLD, 2**16)
    work = prepare()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        sender.send(Measured(None))
        return
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    work.run()
    lines = Path("/proc/self/status").read_text().splitlines()
    mark = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    sender.send(Measured(mark - before, work.marks()))
