"""Checks of the environment a study would meet, each with its fix: versions, GPUs, disk, tracking, Ray, caches."""

import importlib.metadata
import ipaddress
import os
import shutil
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from afp_ray.tracking.location import sqlite_file, tracking_uri
from services.schemas import DoctorCheck

# As pyproject.toml bounds them: what was tested together.
TESTED = {"ray": "2.60", "torch": "2.", "transformers": "5.", "optuna": "5.", "mlflow": "3.", "datasets": "5."}
LITTLE_BYTES = 5 * 2**30
TIMEOUT_S = 3.0


def examine(storage: Path, *, address: str | None = None) -> list[DoctorCheck]:
    """Run every check; nothing is started or changed.

    Args:
        storage: folder of the studies.
        address: of a Ray cluster; None takes RAY_ADDRESS.
    """
    return [
        *_versions(),
        _gpus(),
        _storage(storage),
        _tracking(storage),
        _cluster(address or os.environ.get("RAY_ADDRESS")),
        _cache(),
        _telemetry(),
    ]


def _versions() -> Iterator[DoctorCheck]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield _check("python", sys.version_info >= (3, 11), python, fix="use Python 3.11 or newer")
    for name, tested in TESTED.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            fix = "pip install -c constraints.txt -e ."
            yield DoctorCheck(name=name, verdict="FAIL", found="not installed", fix=fix)
            continue
        fix = "pip install -c constraints.txt -e . gives the tested one"
        yield _check(name, found.startswith(tested), found, fix=fix, otherwise="WARN")


def _gpus() -> DoctorCheck:
    import torch

    if not torch.cuda.is_available():
        fix = "on a GPU machine, install the torch build of its driver: make setup TORCH=..."
        return DoctorCheck(name="gpu", verdict="OK", found=f"none; torch {torch.__version__} on CPU", fix=fix)
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return DoctorCheck(name="gpu", verdict="OK", found=", ".join(names))


def _storage(storage: Path) -> DoctorCheck:
    existing = next(path for path in (storage, *storage.resolve().parents) if path.is_dir())
    if not os.access(existing, os.W_OK):
        return DoctorCheck(
            name="storage", verdict="FAIL", found=f"{existing} cannot be written", fix="give --storage or AFP_STORAGE"
        )
    free = shutil.disk_usage(existing).free
    found = f"{storage.resolve()}, {free / 1e9:.1f} GB free"
    return _check("storage", free >= LITTLE_BYTES, found, fix="free some disk, or give --storage", otherwise="WARN")


def _tracking(storage: Path) -> DoctorCheck:
    uri = tracking_uri(None, storage.resolve())
    file = sqlite_file(uri)
    if file is not None:
        return DoctorCheck(
            name="mlflow tracking", verdict="OK", found=f"{uri}{'' if file.exists() else ' (made when needed)'}"
        )
    if not uri.startswith(("http://", "https://")):
        fix = "set MLFLOW_TRACKING_URI to sqlite:///... or http://..., or unset it"
        return DoctorCheck(name="mlflow tracking", verdict="FAIL", found=uri, fix=fix)
    answer = _status(f"{uri.rstrip('/')}/health")
    fix = "studies run all the same and `afp sync` writes later; check MLFLOW_TRACKING_URI and the server"
    return _check("mlflow tracking", answer == 200, f"{uri} {_in_words(answer)}", fix=fix, otherwise="WARN")


def _cluster(address: str | None) -> DoctorCheck:
    """Whether a cluster answers, and that it does not answer strangers from elsewhere: they could run any code."""
    name = "ray cluster"
    if not address:
        return DoctorCheck(name=name, verdict="OK", found="none given; one is started on the loopback for each study")
    host, port = _host_and_port(address)
    if not _listens(host, port):
        fix = "start the cluster, or leave --address and RAY_ADDRESS out"
        return DoctorCheck(name=name, verdict="FAIL", found=f"nobody listens at {address}", fix=fix)
    if not address.startswith(("http://", "https://")) or _is_loopback(host):
        return DoctorCheck(name=name, verdict="OK", found=f"{address} listens")
    answer = _status(f"{address.rstrip('/')}/api/jobs/")
    fix = "start every node with RAY_AUTH_MODE=token and keep the dashboard on the loopback, behind an ssh tunnel"
    return _check(name, answer in (401, 403), f"{address} to a stranger: {_in_words(answer)}", fix=fix)


def _cache() -> DoctorCheck:
    folder = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    fix = "set HF_HOME to a folder that can be written; the embedded model needs none"
    return _check("hub cache", os.access(existing, os.W_OK), str(folder), fix=fix, otherwise="WARN")


def _telemetry() -> DoctorCheck:
    sends = [
        name
        for name, variable, quiet in (
            ("Ray", "RAY_USAGE_STATS_ENABLED", ("0",)),
            ("MLflow", "MLFLOW_DISABLE_TELEMETRY", ("true", "1")),
        )
        if os.environ.get(variable, "").lower() not in quiet
    ]
    found = "afp sends nothing" + (f"; {' and '.join(sends)} used alone would" if sends else "")
    fix = "RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true" if sends else ""
    return DoctorCheck(name="telemetry", verdict="OK", found=found, fix=fix)


def _check(name: str, is_good: bool, found: str, *, fix: str, otherwise: str = "FAIL") -> DoctorCheck:
    if is_good:
        return DoctorCheck(name=name, verdict="OK", found=found)
    return DoctorCheck(name=name, verdict="WARN" if otherwise == "WARN" else "FAIL", found=found, fix=fix)


def _host_and_port(address: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(address if "//" in address else f"//{address}")
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _status(url: str) -> int | None:
    """Status of an anonymous GET of an http(s) address; None when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, OSError, ValueError):
        return None


def _in_words(status: int | None) -> str:
    return "does not answer" if status is None else f"answers {status}"
