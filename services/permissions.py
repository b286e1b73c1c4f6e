"""What a study that was sent to the service may touch on this machine: no command, no foreign code, named folders."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from afp_ray.config import StudyConfig, flatten
from afp_ray.errors import ConfigError
from services.submission import NAMES_A_FILE

_PATTERN = re.compile(r"[{*?\[]")
_FORBIDDEN = {
    "trust_remote_code": "runs code that comes with a checkpoint",
    "notify": "runs a command, or calls an address from this machine",
    "tracking_uri": "writes to an address of the sender's choice",
}
TRUST = "start the service with --trust-submitters to let those who may submit do what its user may"


def data_folders(named: Sequence[Path]) -> tuple[Path, ...]:
    """Folders that the files of a submitted study may lie in: those that were named, and $AFP_DATA_DIR."""
    given = [*named, *([Path(os.environ["AFP_DATA_DIR"])] if os.environ.get("AFP_DATA_DIR") else [])]
    return tuple(folder.expanduser().resolve() for folder in given)


def require_permitted(study: StudyConfig, folders: Sequence[Path]) -> None:
    """Refuse a study that would run a command or foreign code, call an address, or read a file outside of `folders`.

    Raises: ConfigError naming the field.
    """
    content = study.model_dump(mode="json", exclude={"name": True, "description": True, "small": True})
    for field, value in _values(content):
        last = field.rpartition(".")[2]
        for word, reason in _FORBIDDEN.items():
            if word in field.split(".") and value not in (None, False, "", ()):
                raise ConfigError(f"{field} {reason}, which a submitted study may not", where=field, fix=TRUST)
        if isinstance(value, str) and not _is_permitted(value, folders, is_file_name=last in NAMES_A_FILE):
            allowed = ", ".join(map(str, folders)) or "no folder of this machine"
            fix = "put the file there, or start the service with --data FOLDER, or --trust-submitters"
            problem = f"{field} names {value[:200]!r}, which is not in a folder that submitted studies may read"
            raise ConfigError(problem, where=field, allowed=allowed, fix=fix)


def _values(content: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value, with its dotted name; items of lists by the name of their list."""
    if isinstance(content, dict):
        for name, value in (flatten(content) if not field else content).items():
            yield from _values(value, f"{field}.{name}" if field else name)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _values(value, field or "study")
    else:
        yield field, content


def _is_permitted(text: str, folders: Sequence[Path], *, is_file_name: bool) -> bool:
    """Whether a text is no path of this machine, or one below a folder.

    What does not exist cannot be read, and is refused by name once the study's data are looked for.
    """
    if "\0" in text:
        return False
    expanded = os.path.expandvars(os.path.expanduser(text))
    is_clearly_path = text.startswith(("~", "$")) or os.path.isabs(expanded) or ".." in Path(expanded).parts
    if is_file_name and (cut := _PATTERN.search(expanded)):
        expanded = os.path.dirname(expanded[: cut.start()]) or "."  # `{source}` and the like stand for language codes
        is_clearly_path = True
    if not is_clearly_path and not os.path.lexists(expanded):
        return True
    path = Path(expanded).resolve()
    return any(path.is_relative_to(folder) for folder in folders)
