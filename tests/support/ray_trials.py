"""Fake trials that misbehave on a cluster: each function is a `RunTrial`, named by what goes wrong with it.

A trial that is to fail once does so at its first attempt, which it tells by the lines of `training_calls.jsonl`.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import fake_trials

from afp_ray.errors import TrainingInterruptedError
from afp_ray.records import Host, TrialRequest, TrialResult
from afp_ray.reporter import Reporter
from afp_ray.store import TrialPaths


def where(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """Writes down the node, the process and the GPUs that it was given."""
    _note_place(folder)
    return fake_trials.run(request, folder, host)


def in_twos(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """As `where`, and ends only when a second trial has begun."""
    _note_place(folder)
    _wait_for_places(folder, 2)
    return fake_trials.run(request, folder, host)


def in_fours(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """As `where`, and ends only when four trials have begun."""
    _note_place(folder)
    _wait_for_places(folder, 4)
    return fake_trials.run(request, folder, host)


def _wait_for_places(folder: Path, number: int) -> None:
    until = time.monotonic() + 60
    while len(list(folder.parent.glob("*/places.jsonl"))) < number and time.monotonic() < until:
        time.sleep(0.02)


def hangs_once(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """Stops its own process in the middle of a step, as a hung driver of a GPU would, at the first attempt."""
    host.reporter.report("train", 1, 10)
    if _attempts(folder) == 0:
        _begin(folder)
        os.kill(os.getpid(), signal.SIGSTOP)
    return fake_trials.run(request, folder, host)


def returns_late(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """Leaves a process behind at its first attempt, which tries to write the result when the trial is long over."""
    if _attempts(folder) == 0:
        _begin(folder)
        if os.fork() == 0:
            os.setsid()  # or Ray would end it with its parent's process group
            os.closerange(3, 4096)  # or Ray would take the connections for those of a living worker
            _write_late(folder, host.fence)
        os.kill(os.getpid(), signal.SIGKILL)
    return fake_trials.run(request, folder, host)


def _write_late(folder: Path, fence: Callable[[], None]) -> None:
    """Wait for the next attempt's result, then behave as the old one would."""
    result = TrialPaths(folder).result
    until = time.monotonic() + 60
    while not result.exists() and time.monotonic() < until:
        time.sleep(0.05)
    try:
        fence()
        result.write_text("written by a zombie")
        (folder / "zombie.txt").write_text("wrote")
    except BaseException as error:
        (folder / "zombie.txt").write_text(f"{type(error).__name__}: {error}")
    os._exit(0)


def saves_when_told(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """Counts to 20; at its first attempt it waits at 5 for the news that its machine goes away, saves and ends."""
    _note_place(folder)
    count = folder / "count.txt"
    done = int(count.read_text()) if count.exists() else 0
    if is_first := _attempts(folder) == 0:
        _begin(folder)
    with (folder / "spans.jsonl").open("a") as spans:
        start = done
        while done < 20:
            done += 1
            host.reporter.report("train", done, 20)
            while (is_stopped := host.stop()) is False and is_first and done == 5:
                time.sleep(0.05)
            if is_stopped:
                count.write_text(str(done))
                spans.write(json.dumps([start, done]) + "\n")
                raise TrainingInterruptedError(done)
        spans.write(json.dumps([start, done]) + "\n")
    return fake_trials.run(request, folder, host)


def ignores_the_notice(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """Goes on and on at its first attempt, whatever it is told."""
    _note_place(folder)
    if _attempts(folder) == 0:
        _begin(folder)
        _run_for_ever(host.reporter)
    return fake_trials.run(request, folder, host)


def goes_on_once(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """As `ignores_the_notice`: until its process or its node is ended."""
    return ignores_the_notice(request, folder, host)


def group_goes_on_once(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """A worker group that goes on and on at its first attempt."""
    import torch.distributed as dist

    is_first = _attempts(folder) == 0
    dist.barrier()
    _note_place(folder, rank=dist.get_rank())
    if is_first:
        if dist.get_rank() == 0:
            _begin(folder)
        _run_for_ever(host.reporter)
    dist.barrier()
    return fake_trials.run(request, folder, host) if dist.get_rank() == 0 else None


def group_saves_when_told(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """A worker group that waits at its first attempt until one of its workers is told that its machine goes away."""
    import torch
    import torch.distributed as dist

    is_first = _attempts(folder) == 0
    dist.barrier()
    if dist.get_rank() == 0 and is_first:
        _begin(folder)
    _note_place(folder, rank=dist.get_rank())
    while is_first:
        wish = torch.tensor(float(host.stop()))
        dist.all_reduce(wish)
        host.reporter.report("train", 5, 20)
        if wish.item():
            raise TrainingInterruptedError(5)
        time.sleep(0.05)
    return fake_trials.run(request, folder, host) if dist.get_rank() == 0 else None


def group_where(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """A worker group that writes down the place of each worker."""
    import torch.distributed as dist

    _note_place(folder, rank=dist.get_rank())
    return fake_trials.run_in_group(request, folder, host)


def _run_for_ever(reporter: Reporter) -> None:
    done = 0
    while True:
        reporter.report("train", done := done + 1, 10**6)
        time.sleep(0.05)


def _attempts(folder: Path) -> int:
    calls = TrialPaths(folder).training_calls
    return len(calls.read_text().splitlines()) if calls.exists() else 0


def _begin(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with TrialPaths(folder).training_calls.open("a") as file:
        file.write(json.dumps({"time": time.time(), "pid": os.getpid()}) + "\n")


def _note_place(folder: Path, rank: int = 0) -> None:
    import ray

    context = ray.get_runtime_context()
    place = {
        "node": context.get_node_id(),
        "pid": os.getpid(),
        "rank": rank,
        "gpus": ray.get_gpu_ids(),
        "time": time.time(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "places.jsonl").open("a") as file:
        file.write(json.dumps(place) + "\n")


def out_of_memory_once(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """Ends as Ray's memory monitor would end it, or at another seed as torch does, unless its batch comes in parts."""
    if host.runtime.micro_batch_size is None:
        import ray
        import torch

        _begin(folder)
        if request.config.seed == 1:
            raise ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.")
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    (folder / "micro_batch_size.txt").write_text(str(host.runtime.micro_batch_size))
    return fake_trials.run(request, folder, host)
