"""Writes the files that a study begins with: the schema of the study file for the editor."""

import json
from pathlib import Path

from afp_ray.config.schema import TITLE, study_schema
from afp_ray.errors import ConfigError
from afp_ray.store import write_atomic

SCHEMA_FILE = "afp-study.schema.json"


def schema_text() -> str:
    """The schema of the study file as JSON."""
    return json.dumps(study_schema(), indent=1, ensure_ascii=False) + "\n"


def write_schema(output: str | Path, *, force: bool = False) -> Path:
    """Write the schema; an older one of ours is replaced.

    Raises: ConfigError when the folder is not there, or the file holds something else and `force` is not given.
    """
    path = new_file(output, force=force or _is_schema(Path(output).expanduser()))
    write_atomic(path, schema_text())
    return path


def new_file(output: str | Path, *, force: bool) -> Path:
    """The path of a file to write.

    Raises: ConfigError when the folder is not there, or there is such a file and `force` is not given.
    """
    path = Path(output).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{str(path)!r} cannot be a file", allowed="a file in a folder that exists", fix="change it")
    if path.exists() and not force:
        raise ConfigError(f"{str(path)!r} is there already", where=str(path), fix="give another name, or --force")
    return path


def _is_schema(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("title") == TITLE
