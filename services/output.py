"""What reaches the terminal: JSON, lines, tables and errors; and the exit code of each outcome."""

import errno
import io
import json
import os
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from afp_ray.errors import AfpError, ConfigError, StorageError, StudyLockedError, UnavailableError, UserError
from afp_ray.records import CloseReason, StudyState, TrialStatus
from afp_ray.redaction import RedactedText, redact, redact_json

if TYPE_CHECKING:
    from rich.console import Console

COMPLETE, BUG, USAGE, SOME_FAILED, NONE_SUCCEEDED, BUDGET, LOCKED, GATE = range(8)
AWAY, SIGINT, SIGTERM = 75, 130, 143


# Escape sequences, bidirectional overrides and line separators: what a row of data could make a terminal do.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Text as it may reach a terminal: control characters are shown, not obeyed, and secrets are `***`."""
    return _CONTROL.sub(_shown, redact(text))


def _shown(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}" if match[0] < "\x7f" else f"\\u{ord(match[0]):04x}"


def open_streams() -> None:
    """Make standard output and error safe to write to: no secrets, and characters that they cannot show come escaped.

    Whatever writes there goes through it: warnings, log records, libraries, the traceback of a thread.

    A stream that was closed (`>&-`) goes nowhere, so that no file that is opened later takes its number.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            safe = RedactedText(
                stream.detach(),
                encoding=stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, safe)
            setattr(sys, f"__{name}__", safe)  # what the interpreter itself falls back to


def console(*, stderr: bool = False) -> "Console":
    """A terminal that heeds NO_COLOR; piped output is plain and never cut at 80 columns."""
    from services.plain_console import PlainConsole as Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 160
    return Console(file=stream, width=width, soft_wrap=not stream.isatty(), highlight=False, markup=False, emoji=False)


def say(text: str = "") -> None:
    """One line on standard output."""
    sys.stdout.write(plain(text) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """One line on standard error, where it does not disturb `--json`."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def say_json(value: BaseModel | list[Any] | dict[str, Any]) -> None:
    """One JSON document on standard output."""
    content = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    say_json_text(json.dumps(content, indent=2, ensure_ascii=False, default=_jsonable), indent=2)


def say_json_text(text: str, *, indent: int | None = None, before: str = "") -> None:
    """JSON that is text already, on standard output: secrets are `***`, and it stays JSON whatever the output can show.

    Args:
        text: the document.
        indent: of the document, should it have to be written anew.
        before: what stands before it in its line.
    """
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    text = redact_json(text, indent=indent)
    if not is_unicode:
        text = json.dumps(json.loads(text), indent=indent)
    line = before + _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"
    sys.stdout.write_as_is(line) if isinstance(sys.stdout, RedactedText) else sys.stdout.write(line)
    sys.stdout.flush()


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
    if is_colored:
        sys.stderr.write("\033[1;31m")
    sys.stderr.write("error")
    sys.stderr.write("\033[0m  " if is_colored else "  ")
    if isinstance(error, UserError):
        first, *rest = error.problem.split("\n")
        note(f"{f'{error.where}  ' if error.where else ''}{first}")
        for line in rest:
            note(line)
        if error.allowed:
            note(f"allowed  {error.allowed}")
        if error.fix:
            note(f"fix    {error.fix}")
    else:
        note(str(error))
        if fix := _fix_of(error):
            note(f"fix    {fix}")
    return code


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EFBIG}


def of_the_machine(error: BaseException) -> AfpError | None:
    """An error that is no bug but the machine's answer to what was asked: a path, a disk, a port; None for others."""
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return ConfigError(
            "a path begins with ~ and the name of a user that this machine does not know",
            where=next((word for word in sys.argv[1:] if "~" in word), "paths"),
            fix="write the whole path",
        )
    if isinstance(error, ValueError) and "null byte" in str(error):
        return ConfigError("a path holds a NUL character", where="paths", fix="write the path without it")
    if not isinstance(error, OSError) or isinstance(error, ConnectionError | TimeoutError):
        return None
    place = redact(str(error.filename)) if error.filename is not None else ""
    shown = place if len(place) <= 200 else f"{place[:200]}... ({len(place)} characters)"
    said = f"{error.strerror or error}{f': {shown}' if shown else ''}"
    if error.errno in _FULL:
        return StorageError(said)
    if error.errno == errno.ENAMETOOLONG:
        return ConfigError(f"a path is too long: {said}", where="paths", fix="write a shorter one")
    if isinstance(error, FileNotFoundError) and not place and _has_lost_folder():
        return ConfigError("the working folder no longer exists", where="paths", fix="cd into one that does")
    if isinstance(error, PermissionError | NotADirectoryError | IsADirectoryError) and place:
        return ConfigError(said, where="paths", fix="check the path and who may read and write it")
    if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
        return UnavailableError(said)
    return None


def _has_lost_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


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
        file.write(redact(f"{' '.join(sys.argv)}\n{text}"))
    first = str(error).splitlines()[0] if str(error) else ""
    note(f"error  unexpected {type(error).__name__}: {first}")
    note(f"fix    this is a bug of afp_ray; the traceback is in {Path(name)}")
    return BUG


def exit_code_of_study(state: StudyState) -> int:
    """The exit code of a study that its driver has left."""
    ended = state.ended
    if ended is not None and ended.reason is CloseReason.INTERRUPTED:
        return SIGINT if "SIGINT" in ended.detail else SIGTERM
    statuses = [trial.status for trial in state.trials]
    if ended is not None and ended.reason is CloseReason.BUDGET:
        return BUDGET
    if TrialStatus.DONE not in statuses:
        return NONE_SUCCEEDED
    return SOME_FAILED if TrialStatus.FAILED in statuses else COMPLETE
