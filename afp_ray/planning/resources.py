"""What a trial asks of this machine, and whether the machine has it; known before Ray is started."""

import os
import sys

from afp_ray.config import RuntimeConfig
from afp_ray.errors import ConfigError

FIX = (
    "give the --address of a cluster that has them, or lower runtime.workers_per_trial, cpus_per_worker or "
    "gpus_per_worker"
)


def cluster_of(runtime: RuntimeConfig, address: str | None = None) -> str:
    """The cluster that trials go to, which alone knows what it has; "" where they run on this machine."""
    if runtime.executor == "local":
        return ""
    ray = sys.modules.get("ray")
    is_connected = ray is not None and ray.is_initialized()
    given = address or os.environ.get("RAY_ADDRESS", "") or ("the one that is connected" if is_connected else "")
    return "" if given == "local" else given


def lacking_here(runtime: RuntimeConfig) -> str:
    """What one trial needs that this machine does not have, in a sentence; "" where it has all."""
    number = runtime.num_workers
    asked = []
    for what, each, offered in (
        ("CPUs", runtime.cpus_per_worker, num_cpus()),
        ("GPUs", runtime.gpus_per_worker, num_gpus() if runtime.gpus_per_worker > 0 else 0),
    ):
        if number * each > offered:
            workers = f" ({number:,} workers with {each:g} each)" if number > 1 else ""
            asked.append(f"a trial needs {number * each:,g} {what}{workers}, and this machine has {offered}")
    return "; ".join(asked)


def require_here(runtime: RuntimeConfig) -> None:
    """Refuse trials that can never start on this machine.

    Raises: ConfigError with what they need and what is there.
    """
    if lacking := lacking_here(runtime):
        allowed = f"{num_cpus()} CPUs and {num_gpus()} GPUs for all workers of a trial together"
        raise ConfigError(lacking, where="runtime", allowed=allowed, fix=FIX)


def num_cpus() -> int:
    """CPUs that this process may use, as a cluster that starts here offers them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_gpus() -> int:
    """GPUs that torch can use here."""
    import torch

    return torch.cuda.device_count()


def gpu_here() -> tuple[str, int]:
    """Name and bytes of the GPU that this process computes on."""
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return str(properties.name), int(properties.total_memory)
