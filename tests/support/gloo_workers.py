"""Runs a function in several processes that make up a group, of gloo unless another backend is named.

They are forks of this process, since importing torch and the model library takes each process seconds; where they use
a GPU they are spawned, since CUDA does not outlive a fork.
"""

import multiprocessing
import os
import pickle
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

PATIENCE_S = 400


def run_workers(
    work: Callable[..., Any],
    folder: Path,
    *arguments: Any,
    number: int = 2,
    backend: str = "gloo",
    start: Literal["fork", "spawn"] = "fork",
    **environment: str,
) -> list[Any]:
    """What `work` gives in each of `number` processes, called with its rank and `arguments`."""
    folder.mkdir(parents=True, exist_ok=True)
    context: Any = multiprocessing.get_context(start)
    workers = [
        context.Process(target=_work, args=(work, folder, arguments, (rank, number, backend), environment))
        for rank in range(number)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE_S)
        if worker.is_alive():
            worker.kill()
            worker.join()
    errors = "\n".join(file.read_text() for file in folder.glob("*.error"))
    assert not any(worker.exitcode for worker in workers), errors
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(number)]


def _work(
    work: Callable[..., Any],
    folder: Path,
    arguments: tuple[Any, ...],
    group: tuple[int, int, str],
    environment: dict[str, str],
) -> None:
    rank, number, backend = group
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", **environment}
    torch.set_num_threads(1)
    warnings.resetwarnings()  # those of the test that forks are errors
    try:
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=rank, world_size=number)
        answer = work(rank, *arguments)
        (folder / f"{rank}.pickle").write_bytes(pickle.dumps(answer))
        dist.destroy_process_group()
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        raise
