"""Where the tracking database is and which run shows which trial; knows no MLflow, so that it answers at once."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from afp_ray.errors import ConfigError
from afp_ray.redaction import redact
from afp_ray.store import StudyPaths, write_atomic

_WRITABLE = re.compile(r"https?://.|sqlite:///.|(?:postgresql|postgres|mysql|mssql)(?:\+\w+)?://.|databricks(?:://|$)")
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
VIEW = "afp"
"""Key of the view that the link to a study's runs opens: columns and order, kept as a tag of the experiment."""
PORT = 5000


def default_uri(storage: Path) -> str:
    """The database that all studies under `storage` share."""
    return sqlite_uri(storage / DATABASE)


def sqlite_uri(file: Path) -> str:
    """The URI of a database file, with what would end a path in a URI percent-encoded."""
    return f"sqlite:///{re.sub('[%?#]', lambda match: quote(match[0]), str(file))}"


def tracking_uri(configured: str | None, storage: Path) -> str:
    """The tracking URI to use: the study's, else the environment's MLFLOW_TRACKING_URI, else the default."""
    return configured or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(storage)


def require_tracking(configured: str | None, storage: Path) -> None:
    """Refuse a tracking URI that MLflow cannot write to, before a study starts.

    Raises: ConfigError with the forms there are.
    """
    uri = tracking_uri(configured, storage)
    if _WRITABLE.match(uri):
        return
    raise ConfigError(
        f"{redact(uri)!r} is no place that runs can be written to",
        where="runtime.tracking_uri" if configured else "MLFLOW_TRACKING_URI",
        allowed="http://..., https://..., sqlite:///FILE, or a database (postgresql://..., mysql://..., mssql://...)",
        fix="mend it, or leave it out: runs are then written beside the studies",
    )


def open_command(uri: str) -> str:
    """The command line that shows the runs in a browser."""
    if uri.startswith(("http://", "https://")):
        return f"open {shlex.quote(uri)}"
    return f"mlflow server --backend-store-uri {shlex.quote(uri)} --host 127.0.0.1 --port {PORT}"


def open_lines(uri: str, paths: StudyPaths) -> list[str]:
    """What to type, and what to open, to see the runs of a study."""
    link = runs_link(uri, paths)
    if uri.startswith(("http://", "https://")):
        return [f"open {shlex.quote(link or uri)}"]
    return [open_command(uri), *([f"then open {link}"] if link else [])]


def runs_link(uri: str, paths: StudyPaths) -> str:
    """The page that shows the runs of a study side by side; of a database, on the server of `open_command`.

    "" where no experiment is noted yet.
    """
    noted = read_runs(paths)
    if noted.get("tracking_uri") != redact(uri) or not noted.get("experiment_id"):
        return ""
    root = uri.rstrip("/") if uri.startswith(("http://", "https://")) else f"http://127.0.0.1:{PORT}"
    return f"{root}/#/experiments/{noted['experiment_id']}/runs?viewStateShareKey={VIEW}"


def sqlite_file(uri: str) -> Path | None:
    """The database file of a `sqlite:///` URI; None for any other."""
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])) if uri.startswith("sqlite:///") else None


def write_runs(paths: StudyPaths, uri: str, *, experiment_id: str, parent: str, runs: dict[str, str]) -> None:
    """Note which run shows which trial, beside the ledger; compact, since there may be thousands."""
    content = {"tracking_uri": redact(uri), "experiment_id": experiment_id, "parent": parent, "runs": runs}
    write_atomic(paths.mlflow, json.dumps(content, separators=(",\n", ": ")) + "\n")


def read_runs(paths: StudyPaths) -> dict[str, Any]:
    """What `write_runs` noted; empty when it noted nothing that can be read."""
    try:
        content = json.loads(paths.mlflow.read_bytes())
    except (OSError, ValueError):
        return {}
    is_whole = isinstance(content, dict) and isinstance(content.get("runs"), dict)
    return content if is_whole else {}


def find_run(paths: StudyPaths, trial_id: str) -> str | None:
    """The MLflow run of a trial; None when none was written, or when its database file is gone."""
    content = read_runs(paths)
    run, uri = content.get("runs", {}).get(trial_id), content.get("tracking_uri")
    file = sqlite_file(uri) if isinstance(uri, str) else None
    return run if isinstance(run, str) and isinstance(uri, str) and (file is None or file.is_file()) else None
