"""Connects to a Ray cluster or starts one on this machine, and says how many trials it has room for."""

import gc
import importlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from afp_ray.config import RuntimeConfig
from afp_ray.errors import ConfigError, UnavailableError
from afp_ray.execution.cluster_auth import keep_token_private
from afp_ray.execution.preemption import cluster_watch
from afp_ray.execution.ray_internals import start_cluster
from afp_ray.execution.scratch import scratch_folder
from afp_ray.planning.resources import num_cpus as cpus_here

logger = logging.getLogger(__name__)

# Read by Ray when it is imported, started or asked to train, so they are set before all three.
DRIVER_ENVIRONMENT: Final[Mapping[str, str]] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray gives its workers the lowest priority but four
    "RAY_prestart_worker_first_driver": "0",  # Tune's actors have an environment of their own: nobody would use them
    # A node asks for its own object store before that listens, and then sleeps: shorter and as many times more often.
    "RAY_raylet_client_connect_timeout_milliseconds": "50",
    "RAY_raylet_client_num_connect_attempts": "200",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # off also means: a cluster of one machine listens on the loopback alone
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_INIT": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own snapshots are never read
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_STATE_REFRESH_PERIOD": "86400",  # each refresh would wait for a head node that is gone
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "1",  # or Tune would run a preempted trial again by itself
    "TUNE_WARN_THRESHOLD_S": "60",
}
WORKER_ENVIRONMENT: Final[Mapping[str, str]] = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor more per group; every worker looks itself
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "10",  # of 30, which a failed group waits for workers that hang, twice
    "TQDM_DISABLE": "1",
}
# The second because Tune counts callbacks by their kind before it starts an actor, and imports MLflow to tell one kind.
_RUN_BY = ("ray.tune", "ray.air.integrations.mlflow")
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
    if address:
        try:
            _connect(address)
            yield False
        finally:
            _leave()
        return
    with scratch_folder() as folder:
        others = _descendants(os.getpid())
        try:
            with _importing_tune():
                start_local(str(folder / "ray"))
            yield True
        finally:
            started = _descendants(os.getpid(), but=others)
            _leave()
            _end_leftovers(started)


def _leave() -> None:
    import ray

    gc.disable()  # a collection in any thread that frees one of Ray's references meanwhile would end the process
    try:
        ray.shutdown()
    finally:
        gc.enable()


@contextmanager
def _importing_tune() -> Iterator[None]:
    """Import in a thread what runs the study, while this one waits for a cluster's processes to come up.

    The two have no more than a few small modules in common, so that neither waits for what the other imports.
    """

    def load() -> None:
        with suppress(ImportError):  # raised again where it is needed
            for name in _RUN_BY:
                importlib.import_module(name)

    thread = threading.Thread(target=load, name="imports")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _descendants(pid: int, *, but: Container[int] = ()) -> dict[int, str]:
    """When each process below `pid` was started, by its id; empty where the system does not tell.

    Args:
        but: ids of processes that are left out with all below them: a cluster that the caller has started for himself.
    """
    started: dict[int, str] = {}
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it may have ended
            for child in map(int, file.read_text().split()):
                if child not in but:
                    started |= {child: _start_time(child), **_descendants(child, but=but)}
    return started


def _start_time(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]
    return ""


def _end_leftovers(started: Mapping[int, str]) -> None:
    """End what Ray has left of an own cluster: its agents wait a minute for a head node that was lost."""
    for pid, start in started.items():
        if start and _start_time(pid) == start and _is_ray(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _is_ray(pid: int) -> bool:
    """Whether a process belongs to Ray, and not to whoever called this program's functions."""
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return command.startswith(b"ray::") or b"/ray/" in command
    return False


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
    keep_token_private(make=True)
    try:
        start_cluster(
            folder,
            num_cpus=num_cpus or cpus_here(),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except Exception as error:
        is_bare = type(error) is Exception  # as Ray raises when its node does not come up within half a minute
        if not (is_bare or isinstance(error, ConnectionError | RuntimeError | TimeoutError | OSError)):
            raise
        raise UnavailableError(
            f"Ray could not be started on this machine: {str(error).rstrip('.')}; nothing is lost: run the same "
            "command again when the machine has time for it"
        ) from error


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


def head_patience_s(*, is_own: bool) -> float:
    """How long a head node that does not answer is waited for.

    Nobody starts that of an own cluster again. That of another may come back; Ray ends this process when it has waited
    for it, by default for a minute, and the driver has to leave before.
    """
    ray_waits_s = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60"))  # noqa: SIM112 (its name)
    return min(10.0, ray_waits_s / 2) if is_own else ray_waits_s / 2


@contextmanager
def guarded(patience_s: float) -> Iterator[None]:
    """End this process as temporarily unavailable when the head node is gone and Ray does not let the driver leave.

    A call that waits for the head node cannot be interrupted, and Ray ends the process after its own patience anyway,
    with an exit code that says nothing. What the study has done is durable either way.

    Args:
        patience_s: of the driver itself, which leaves in good order when it can.
    """
    is_over = threading.Event()

    def watch() -> None:
        num_looks = 0  # several, since a machine that was suspended wakes up with an old answer
        while not is_over.wait(1.0):
            silent_s = cluster_watch().silent_s
            num_looks = num_looks + 1 if silent_s > patience_s * 1.25 else 0
            if num_looks >= 5:
                logger.critical("the head node of the Ray cluster has not answered for %.0f s", silent_s)
                os._exit(os.EX_TEMPFAIL)

    threading.Thread(target=watch, name="head-guard", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
