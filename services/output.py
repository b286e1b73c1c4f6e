"""What reaches the terminal: JSON, lines, tables and errors; and the exit code of each outcome."""

import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from afp_ray.errors import AfpError, StudyLockedError, UnavailableError, UserError
from afp_ray.records import StudyState, TrialStatus

if TYPE_CHECKING:
    from rich.console import Console

COMPLETE, BUG, USAGE, SOME_FAILED, NONE_SUCCEEDED, BUDGET, LOCKED, GATE = range(8)
AWAY, SIGINT, SIGTERM = 75, 130, 143


def console(*, stderr: bool = False) -> "Console":
    """A terminal that heeds NO_COLOR; piped output is plain and never cut at 80 columns."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 160
    return Console(file=stream, width=width, soft_wrap=not stream.isatty(), highlight=False, markup=False, emoji=False)


def say(text: str = "") -> None:
    """One line on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """One line on standard error, where it does not disturb `--json`."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def say_json(value: BaseModel | list[Any] | dict[str, Any]) -> None:
    """One JSON document on standard output."""
    content = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    say(json.dumps(content, indent=2, ensure_ascii=False, default=_jsonable))


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no JSON")


def show_error(error: AfpError, *, as_json: bool = False) -> int:
    """Print an error with its place and fix; returns the exit code of its class."""
    code = exit_code_of(error)
    if as_json:
        fields = {name: getattr(error, name, "") for name in ("problem", "where", "allowed", "fix")}
        fields["problem"] = fields["problem"] or str(error)
        fields["fix"] = fields["fix"] or _fix_of(error)
        say_json({"error": {"code": code, "class": type(error).__name__, **fields}})
        return code
    is_colored = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    label = "\033[1;31merror\033[0m" if is_colored else "error"
    if isinstance(error, UserError):
        first, *rest = error.problem.split("\n")
        note(f"{label}  {f'{error.where}  ' if error.where else ''}{first}")
        for line in rest:
            note(line)
        if error.allowed:
            note(f"allowed  {error.allowed}")
        if error.fix:
            note(f"fix    {error.fix}")
    else:
        note(f"{label}  {error}")
        if fix := _fix_of(error):
            note(f"fix    {fix}")
    return code


def _fix_of(error: AfpError) -> str:
    """What to do about an error that does not say it; "" where there is nothing."""
    if isinstance(error, StudyLockedError):
        return "afp run STUDY --attach follows it, afp status STUDY shows it, afp stop STUDY ends it"
    return "try again later; what was done is saved" if isinstance(error, UnavailableError) else ""


def exit_code_of(error: AfpError) -> int:
    """2 for what the user can mend, 6 for a study in other hands, 75 for what is away for now, else 1."""
    if isinstance(error, UserError):
        return USAGE
    if isinstance(error, StudyLockedError):
        return LOCKED
    return AWAY if isinstance(error, UnavailableError) else BUG


def show_bug(error: BaseException) -> int:
    """Write the traceback of an unexpected error to a file, and say where; no traceback on the terminal."""
    text = "".join(traceback.format_exception(error))
    handle, name = tempfile.mkstemp(prefix=f"afp-error-{time.strftime('%Y%m%d-%H%M%S')}-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(f"{' '.join(sys.argv)}\n{text}")
    first = str(error).splitlines()[0] if str(error) else ""
    note(f"error  unexpected {type(error).__name__}: {first}")
    note(f"fix    this is a bug of afp_ray; the traceback is in {Path(name)}")
    return BUG


def exit_code_of_study(state: StudyState) -> int:
    """The exit code of a study that its driver has left."""
    reason, _, detail = (state.closed or "").partition(":")
    if reason == "interrupted":
        return SIGINT if "SIGINT" in detail else SIGTERM
    statuses = [trial.status for trial in state.trials]
    if reason == "budget":
        return BUDGET
    if TrialStatus.DONE not in statuses:
        return NONE_SUCCEEDED
    return SOME_FAILED if TrialStatus.FAILED in statuses else COMPLETE
