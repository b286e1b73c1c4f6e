"""Tells whether a tracking database has the tables that the installed MLflow expects; knows no MLflow itself.

Importing MLflow takes seconds, and it knows only one answer to another revision. The revisions that it knows lie in its
package as files, the one that a database has in its table `alembic_version`.
"""

import importlib.metadata
import importlib.util
import re
import shlex
import sqlite3
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from afp_ray.tracking.location import sqlite_file

Verdict = Literal["current", "new", "older", "newer", "broken", "busy", "unchecked"]
_OWN = re.compile(r"^revision(?::[^=]+)?\s*=\s*[\"'](\w+)[\"']", re.MULTILINE)
_BEFORE = re.compile(r"^down_revision(?::[^=]+)?\s*=\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SchemaVerdict:
    """What was found in a tracking database.

    Attributes:
        verdict: `current`; `new` where it has no tables yet; `older` or `newer` than the installed MLflow; `broken`;
            `busy` while another process holds it; `unchecked` for what is no sqlite file.
        found: in words.
        fix: the command to run; "" where there is nothing to mend.
    """

    verdict: Verdict
    found: str
    fix: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether runs can be written there."""
        return self.verdict in ("current", "new", "unchecked")


def schema_verdict(uri: str, *, wait_s: float = 1.0) -> SchemaVerdict:
    """Compare the schema of the database at a tracking URI with the installed MLflow's; changes nothing.

    Args:
        uri: tracking URI; only `sqlite:///` is looked into.
        wait_s: seconds to wait for a process that holds the database.
    """
    file = sqlite_file(uri)
    if file is None:
        return SchemaVerdict("unchecked", "its server or database looks after its own schema")
    if not file.exists():
        return SchemaVerdict("new", "made when needed")
    away = f"move {file} away, then run afp sync STUDY for each study: all of it is made again from the ledgers"
    try:
        tables, revisions = _stamps(file, wait_s)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return SchemaVerdict("busy", "another process holds it", "wait for it, then run afp sync STUDY")
        return SchemaVerdict("broken", f"it cannot be read: {error}", away)
    except sqlite3.DatabaseError as error:
        return SchemaVerdict("broken", f"it is no database: {error}", away)
    if not tables:
        return SchemaVerdict("new", "made when needed")
    if len(revisions) != 1:
        return SchemaVerdict("broken", f"its tables are half made, with {len(revisions)} revisions noted", away)
    return _compare(revisions[0], uri, file)


def _compare(revision: str, uri: str, file: Path) -> SchemaVerdict:
    revisions, heads = mlflow_revisions()
    if not revisions:
        return SchemaVerdict("unchecked", f"revision {revision}; mlflow is not installed")
    if revision in heads:
        return SchemaVerdict("current", f"revision {revision}")
    version = importlib.metadata.version("mlflow")
    if revision in revisions:
        found = f"revision {revision} is older than that of mlflow {version} ({', '.join(sorted(heads))})"
        return SchemaVerdict("older", found, _upgrade_command(file, uri))
    found = f"revision {revision} is not known to mlflow {version}: a newer mlflow made it"
    return SchemaVerdict("newer", found, "pip install --upgrade mlflow")


def _upgrade_command(file: Path, uri: str) -> str:
    copy, backup = shlex.quote(str(file)), shlex.quote(f"{file}.backup")
    return f"cp {copy} {backup} && mlflow db upgrade {shlex.quote(uri)}"


def _stamps(file: Path, wait_s: float) -> tuple[list[str], list[str]]:
    """Names of the tables, and the revisions that the database is stamped with."""
    connection = sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=wait_s)
    try:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if "alembic_version" not in tables:
            return tables, []
        return tables, [text for (text,) in connection.execute("SELECT version_num FROM alembic_version")]
    finally:
        connection.close()


@lru_cache(maxsize=1)
def mlflow_revisions() -> tuple[frozenset[str], frozenset[str]]:
    """Schema revisions that the installed MLflow knows, and those among them that nothing follows."""
    spec = importlib.util.find_spec("mlflow")
    revisions: set[str] = set()
    followed: set[str] = set()
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for file in (Path(root) / "store" / "db_migrations" / "versions").glob("*.py"):
            text = file.read_text("utf-8")
            revisions |= set(_OWN.findall(text))
            for before in _BEFORE.findall(text):
                followed |= set(re.findall(r"[\"'](\w+)[\"']", before))
    return frozenset(revisions), frozenset(revisions - followed)
