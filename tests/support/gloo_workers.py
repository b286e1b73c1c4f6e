"""Runs a function of a test module in several processes that make up a gloo group."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent

# What is imported takes longest by far, so the workers are forks of one process that has it.
CODE = """
import importlib, multiprocessing, os, pickle, sys
import torch, torch.distributed as dist
torch.set_num_threads(1)
module, _, function = sys.argv[1].partition(":")
work, folder, number = getattr(importlib.import_module(module), function), sys.argv[2], int(sys.argv[3])

def run(rank):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=number)
    found = work(rank, *sys.argv[4:])
    with open(f"{folder}/{rank}.pickle", "wb") as file:
        pickle.dump(found, file)
    dist.destroy_process_group()

workers = [multiprocessing.get_context("fork").Process(target=run, args=(rank,)) for rank in range(number)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join(400)
    if worker.is_alive():
        worker.kill()
        worker.join()
sys.exit(any(worker.exitcode for worker in workers))
"""


def run_workers(work: str, folder: Path, *arguments: str, number: int = 2, **environment: str) -> list[Any]:
    """What `module:function` gives in each of `number` processes, called with its rank and `arguments`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = os.pathsep.join([str(SUPPORT.parents[1]), str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    held = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **environment}
    command = [sys.executable, "-c", CODE, work, str(folder), str(number), *arguments]
    done = subprocess.run(command, env=held, stderr=subprocess.PIPE, text=True, timeout=450, check=False)
    assert done.returncode == 0, done.stderr
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(number)]
