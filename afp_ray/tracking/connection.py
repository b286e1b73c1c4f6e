"""Opens a tracking database or server for one study: its tables, made once under a lock, and its experiment."""

import importlib.metadata
import logging
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from afp_ray.cache import CacheRefusedError, cache_folder, get_or_make
from afp_ray.errors import UnavailableError
from afp_ray.redaction import redact
from afp_ray.store import StudyPaths
from afp_ray.tracking.location import ARTIFACTS, read_runs, sqlite_file, sqlite_uri
from afp_ray.tracking.schema import mlflow_revisions, schema_verdict

logger = logging.getLogger(__name__)

LOCK_S, READ_S = 120.0, 10.0
"""Seconds to wait for a process that makes tables, and for one that holds the database."""


def connect(paths: StudyPaths, uri: str) -> tuple[MlflowClient, str]:
    """A client of the MLflow at `uri`, and the id of the study's experiment there; both are made where they are not.

    Raises: UnavailableError with the command to run for a database that this MLflow cannot write; what MLflow raises.
    """
    if uri.startswith(("http://", "https://")):
        client = MlflowClient(tracking_uri=uri)
        return client, _open_experiment(client, paths, uri)
    file = sqlite_file(uri)
    lock = f"{file or paths.storage / 'mlflow'}.lock"
    Path(lock).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=LOCK_S):
        if file is not None:
            _check_schema(file, uri)
        client = MlflowClient(tracking_uri=uri)
        return client, _open_experiment(client, paths, uri)


def _check_schema(file: Path, uri: str) -> None:
    """Make the tables of a database that is not there yet; refuse one that this MLflow cannot write."""
    verdict = schema_verdict(uri, wait_s=READ_S)
    if not verdict.is_usable:
        raise UnavailableError(f"MLflow at {redact(uri)} cannot be written: {verdict.found}; fix: {verdict.fix}")
    if file.exists():
        return
    # Under another name first: a kill in between must not leave half of the tables.
    fresh = file.with_name(f".{file.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    try:
        _new_database(fresh)
        os.link(fresh, file)
    except FileExistsError:
        return  # a server was faster
    finally:
        fresh.unlink(missing_ok=True)


def _new_database(file: Path) -> None:
    """Write a database with the tables of the installed MLflow: a copy of the one that the cache keeps.

    Its fifty migrations take one to two seconds of a processor, and end in the same tables every time.
    """
    _, heads = mlflow_revisions()
    name = f"{importlib.metadata.version('mlflow')}-{'-'.join(sorted(heads))}.db"
    try:
        shutil.copyfile(get_or_make(cache_folder("tables") / name, _if_current, _make_tables), file)
    except (CacheRefusedError, OSError) as error:
        logger.info("the tables of MLflow are made without a cache: %s", error)
        file.unlink(missing_ok=True)
        _make_tables(file)


def _if_current(file: Path) -> Path | None:
    return file if file.is_file() and schema_verdict(sqlite_uri(file)).verdict == "current" else None


def _make_tables(file: Path) -> None:
    """Let MLflow make its tables, without the experiment that it adds: that one names the folder it was made in."""
    MlflowClient(tracking_uri=sqlite_uri(file)).search_experiments(max_results=1)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("DELETE FROM experiments")


def _open_experiment(client: MlflowClient, paths: StudyPaths, uri: str) -> str:
    experiment = client.get_experiment_by_name(paths.name) or _renamed_experiment(client, paths, uri)
    if experiment is None:
        file = sqlite_file(uri)  # MLflow's own default is `mlruns` in whatever folder the command was given in
        folder = (file.resolve().parent / ARTIFACTS / paths.name).as_uri() if file is not None else None
        return str(client.create_experiment(paths.name, artifact_location=folder))
    if experiment.lifecycle_stage == "deleted":
        logger.warning("the MLflow experiment of study %s was deleted, and is restored", paths.name)
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def _renamed_experiment(client: MlflowClient, paths: StudyPaths, uri: str) -> Experiment | None:
    """The experiment that somebody has given another name: the one that our parent run is in."""
    noted = read_runs(paths)
    if noted.get("tracking_uri") != redact(uri) or not noted.get("parent"):
        return None
    try:
        run = client.get_run(noted["parent"])
        experiment = client.get_experiment(run.info.experiment_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if run.data.tags.get("afp.study") != paths.name:
        return None
    logger.warning("the MLflow experiment of study %s was renamed to %s: kept", paths.name, experiment.name)
    return experiment
