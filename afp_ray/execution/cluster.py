"""Connects to a Ray cluster or starts one on this machine, and says how many trials it has room for."""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from afp_ray.config import RuntimeConfig
from afp_ray.errors import ConfigError, UnavailableError

logger = logging.getLogger(__name__)

# Read by Ray when it is imported, started or asked to train, so they are set before all three.
DRIVER_ENVIRONMENT: Final[Mapping[str, str]] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray gives its workers the lowest priority but four
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # off also means: a cluster of one machine listens on the loopback alone
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_INIT": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own snapshots are never read
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "60",
}
WORKER_ENVIRONMENT: Final[Mapping[str, str]] = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}
_ANSWER_TIMEOUT_S = 10.0
_OBJECT_STORE_BYTES = 100 * 2**20  # only JSON and code cross it


def set_environment(values: Mapping[str, str]) -> None:
    """Set what the user has not."""
    for name, value in values.items():
        os.environ.setdefault(name, value)


@contextmanager
def connected(address: str | None) -> Iterator[bool]:
    """A connection to a Ray cluster for the length of the block.

    A connection that this process has already is used and kept; one to `address` is closed; a cluster started here
    ends with the block, its files too.

    Args:
        address: of a running cluster; None takes RAY_ADDRESS, and without that starts one on this machine.
    Yields: whether the cluster was started here.
    Raises: UnavailableError when the cluster does not answer.
    """
    set_environment(DRIVER_ENVIRONMENT)
    if not address and not os.environ.get("RAY_ADDRESS"):
        set_environment(WORKER_ENVIRONMENT)  # inherited by the workers of a cluster that starts here
    import ray

    if ray.is_initialized():
        yield False
        return
    address = address or os.environ.get("RAY_ADDRESS")
    folder = None if address else tempfile.mkdtemp(prefix="afp-ray-")
    try:
        if address:
            _connect(address)
        else:
            start_local(folder or tempfile.gettempdir())
        yield address is None
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _connect(address: str) -> None:
    import ray

    environment = {**WORKER_ENVIRONMENT, "RAY_ADDRESS": address}
    _require_answer(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": environment})
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UnavailableError(f"no Ray cluster answers at {address}: {error}") from error


def _require_answer(address: str) -> None:
    """Refuse a `host:port` where nobody listens: Ray itself would wait for it for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto` and other words are Ray's to resolve
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_TIMEOUT_S).close()
    except OSError as error:
        raise UnavailableError(
            f"no Ray cluster answers at {address}: {error}; start one, or leave --address and RAY_ADDRESS out"
        ) from error


def start_local(folder: str, *, num_cpus: int | None = None) -> None:
    """Start a cluster on this machine, on the loopback and on free ports, without a dashboard.

    Args:
        folder: for its sockets and logs; short, since a socket's path has at most 107 bytes.
        num_cpus: CPUs it offers; None offers those that this process may use.
    Raises: UnavailableError when it does not come up.
    """
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=num_cpus or len(os.sched_getaffinity(0)),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=folder,
        )
    except (ConnectionError, RuntimeError, TimeoutError, OSError) as error:
        raise UnavailableError(f"Ray could not be started on this machine: {error}") from error


def num_trials_at_once(runtime: RuntimeConfig, *, is_own: bool) -> int:
    """Trials that fit on the cluster, bounded by `runtime.concurrency`; counted from what the workers need.

    Args:
        runtime: workers per trial and what each needs.
        is_own: whether the cluster was started here, so that nothing can be added to it.
    Raises: ConfigError when a cluster that cannot grow has no room for a single trial.
    """
    import ray

    offered = ray.cluster_resources()
    needed = {
        "CPU": runtime.workers_per_trial * runtime.cpus_per_worker,
        "GPU": runtime.workers_per_trial * runtime.gpus_per_worker,
    }
    room = min(int(offered.get(kind, 0) / amount + 1e-9) for kind, amount in needed.items() if amount > 0)
    if room == 0 and is_own:
        raise ConfigError(
            f"one trial needs {needed['CPU']:g} CPUs and {needed['GPU']:g} GPUs, this machine offers "
            f"{offered.get('CPU', 0):g} and {offered.get('GPU', 0):g}",
            where="runtime",
            fix="lower runtime.workers_per_trial, cpus_per_worker or gpus_per_worker, or give a cluster's address",
        )
    return max(1, min(room, runtime.concurrency or room))
