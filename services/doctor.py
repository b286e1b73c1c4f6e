"""Checks of the environment a study would meet, each with its fix: versions, GPUs, disk, tracking, Ray, caches."""

import http.client
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import stat
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from afp_ray.config import StudyConfig
from afp_ray.errors import UnavailableError, UserError
from afp_ray.execution import cluster_auth
from afp_ray.planning.disk import FIX as NO_ROOM
from afp_ray.planning.disk import disk_needs, kept_bytes, size
from afp_ray.planning.resources import FIX as GIVE_MORE
from afp_ray.planning.resources import cluster_of, num_cpus
from afp_ray.study import check
from afp_ray.tracking.location import sqlite_file, tracking_uri
from afp_ray.tracking.schema import schema_verdict
from services.schemas import DoctorCheck

# As pyproject.toml bounds them: what was tested together.
TESTED = {"ray": "2.60", "torch": "2.", "transformers": "5.", "optuna": "5.", "mlflow": "3.", "datasets": "5."}
LITTLE_BYTES = 5 * 2**30
TIMEOUT_S = 3.0


def examine(storage: Path, *, address: str | None = None, study: StudyConfig | None = None) -> list[DoctorCheck]:
    """Run every check; nothing is started or changed.

    Args:
        storage: folder of the studies.
        address: of a Ray cluster; None takes RAY_ADDRESS.
        study: what is to run here; None asks for no more than any study needs.
    """
    return [
        *_versions(),
        _cpus(study, address),
        _gpus(study, address),
        _storage(storage, study),
        _tracking(storage, study),
        _token(),
        _cluster(address or os.environ.get("RAY_ADDRESS")),
        _job_client(),
        _cache(),
        _telemetry(),
        *_study(study),
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


def _cpus(study: StudyConfig | None, address: str | None) -> DoctorCheck:
    """CPUs of this machine against what a trial of the study asks for; a cluster is asked when it is connected."""
    offered, needed = num_cpus(), 0.0
    found = f"{offered} that this process may use"
    if study is not None:
        needed = study.runtime.cpus_per_worker * study.runtime.num_workers
        found += f"; a trial of {study.name} needs {needed:,g}"
    if study is not None and (cluster := cluster_of(study.runtime, address)):
        return DoctorCheck(name="cpu", verdict="OK", found=f"{found}, looked for on the cluster {cluster}")
    return _check("cpu", offered >= needed, found, fix=GIVE_MORE, otherwise="WARN")


def _study(study: StudyConfig | None) -> Iterator[DoctorCheck]:
    """Whether every arm of the study could run."""
    if study is None:
        return
    try:
        checked = check(study)
    except UserError as error:
        found = f"{error.where}: {error.problem}" if error.where else error.problem
        yield DoctorCheck(name="study", verdict="FAIL", found=found, fix=error.fix)
        return
    for arm, lost in checked.unloadable.items():
        yield DoctorCheck(name="study", verdict="WARN", found=f"arm {arm} will fail: {lost.problem}", fix=lost.fix)
    yield DoctorCheck(name="study", verdict="OK", found=", ".join(checked.lines))


def _gpus(study: StudyConfig | None, address: str | None) -> DoctorCheck:
    import torch  # takes seconds; the other checks, and the commands beside `doctor`, do not need it

    needed = study.runtime.gpus_per_worker * study.runtime.num_workers if study else 0.0
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    found = ", ".join(names) or f"none; torch {torch.__version__} on CPU"
    fix = "install the torch build of the GPU's driver: make setup TORCH=..., or run on a cluster that has GPUs"
    if needed:
        found += f"; a trial of {study.name if study else ''} needs {needed:,g}"
    if study is not None and needed and (cluster := cluster_of(study.runtime, address)):
        return DoctorCheck(name="gpu", verdict="OK", found=f"{found}, looked for on the cluster {cluster}")
    return _check("gpu", len(names) >= needed, found, fix=fix, otherwise="WARN")


def _storage(storage: Path, study: StudyConfig | None) -> DoctorCheck:
    existing = next(path for path in (storage, *storage.resolve().parents) if path.is_dir())
    if not os.access(existing, os.W_OK):
        return DoctorCheck(
            name="storage", verdict="FAIL", found=f"{existing} cannot be written", fix="give --storage or AFP_STORAGE"
        )
    free = shutil.disk_usage(existing).free
    found = f"{storage.resolve()}, {free / 1e9:.1f} GB free"
    fix = "free some disk, or give --storage on another"
    if study:
        needs = disk_needs(study, storage)
        found += f"; {study.name} needs up to {', '.join(f'{size(need.whole)} of {need.what}' for need in needs)}"
        if short := next((need for need in needs if need.shortage), None):
            verdict = "FAIL" if short.first > short.free else "WARN"
            return DoctorCheck(name="storage", verdict=verdict, found=short.shortage, fix=NO_ROOM)
        if kept_bytes(study) is not None:
            return DoctorCheck(name="storage", verdict="OK", found=found)
    return _check("storage", free >= LITTLE_BYTES, found, fix=fix, otherwise="WARN")


def _tracking(storage: Path, study: StudyConfig | None) -> DoctorCheck:
    name, uri = "mlflow tracking", tracking_uri(study.runtime.tracking_uri if study else None, storage.resolve())
    if sqlite_file(uri) is not None:
        schema = schema_verdict(uri)
        verdict = "WARN" if schema.verdict == "busy" else "FAIL"
        fix = f"studies run all the same; {schema.fix}"
        return _check(name, schema.is_usable, f"{uri} ({schema.found})", fix=fix, otherwise=verdict)
    if not uri.startswith(("http://", "https://")):
        fix = "set MLFLOW_TRACKING_URI to sqlite:///... or http://..., or unset it"
        return DoctorCheck(name=name, verdict="FAIL", found=uri, fix=fix)
    answer = _status(f"{uri.rstrip('/')}/health")
    fix = "studies run all the same and `afp sync` writes later; check MLFLOW_TRACKING_URI and the server"
    return _check(name, answer == 200, f"{uri} {_in_words(answer)}", fix=fix, otherwise="WARN")


def _token() -> DoctorCheck:
    """Whether there is the token that clusters ask for, and that nobody else on this machine reads it."""
    name, file = "ray token", cluster_auth.token_file()
    if os.environ.get("RAY_AUTH_TOKEN"):
        return DoctorCheck(name=name, verdict="OK", found="in RAY_AUTH_TOKEN")
    if cluster_auth.token() is None:
        is_needed = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
        fix = "ray get-auth-token --generate, or copy the cluster's token there"
        return _check(name, not is_needed, f"none in {file}", fix=fix)
    return _check(name, not _is_exposed(file), str(file), fix=f"others can read it: chmod 600 {file}", otherwise="WARN")


def _is_exposed(file: Path) -> bool:
    """Whether other users of this machine can read a file: its folders let them through, and it lets them read."""
    resolved = file.resolve()
    is_passable = all(folder.stat().st_mode & stat.S_IXOTH for folder in resolved.parents)
    return is_passable and bool(resolved.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def _cluster(address: str | None) -> DoctorCheck:
    """Whether a cluster answers, is of our version, and does not answer strangers: they could run any code."""
    name = "ray cluster"
    if not address:
        return DoctorCheck(name=name, verdict="OK", found="none given; one is started on the loopback for each study")
    if address == "local":
        return DoctorCheck(name=name, verdict="OK", found="local; one is started on the loopback for each study")
    try:
        address = cluster_auth.resolve(address)
    except UnavailableError as error:
        fix = "start one on this machine, or leave --address and RAY_ADDRESS out"
        return DoctorCheck(name=name, verdict="FAIL", found=str(error), fix=fix)
    host, port = cluster_auth.host_of(address), cluster_auth.port_of(address)
    if port is None or not _listens(host, port):
        fix = "start the cluster, or leave --address and RAY_ADDRESS out"
        return DoctorCheck(name=name, verdict="FAIL", found=f"nobody listens at {address}", fix=fix)
    stranger = cluster_auth.ask(address)
    found = f"{address} to a stranger: {stranger.words}"
    if not cluster_auth.is_loopback(host) and stranger.kind != "token":
        return DoctorCheck(name=name, verdict="FAIL", found=found, fix=cluster_auth.FIX)
    answer = (
        cluster_auth.ask(address, bearer=cluster_auth.token())
        if stranger.kind == "token" and cluster_auth.token()
        else stranger
    )
    if answer.kind == "token":
        fix = "write the cluster's token to ~/.ray/auth_token (chmod 600), or set RAY_AUTH_TOKEN"
        found += "; to us as well"
        return DoctorCheck(name=name, verdict="FAIL", found=found, fix=fix)
    ours = importlib.metadata.version("ray")
    if answer.ray_version and answer.ray_version != ours:
        fix = f"pip install ray=={answer.ray_version} here, or ray=={ours} on every node"
        found = f"{address} runs Ray {answer.ray_version}, here is {ours}"
        return DoctorCheck(name=name, verdict="FAIL", found=found, fix=fix)
    return DoctorCheck(name=name, verdict="OK", found=f"{found}{f'; Ray {ours}' if answer.ray_version else ''}")


def _job_client() -> DoctorCheck:
    """Whether `afp submit` could work; nothing else needs it."""
    is_there = importlib.util.find_spec("aiohttp") is not None
    fix = "pip install -c constraints.txt 'afp-ray[cluster]'"
    found = "ready for afp submit" if is_there else "afp submit needs aiohttp"
    return _check("ray jobs", is_there, found, fix=fix, otherwise="WARN")


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


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _status(url: str) -> int | None:
    """Status of an anonymous GET of an http(s) address; None when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError):
        return None


def _in_words(status: int | None) -> str:
    return "does not answer" if status is None else f"answers {status}"
