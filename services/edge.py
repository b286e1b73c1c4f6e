"""The edge of the command line: whatever comes out of a verb becomes an exit code and one message."""

import errno
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from afp_ray.errors import (
    AfpError,
    ConfigError,
    SeveralConfigError,
    StorageError,
    StudyLockedError,
    UnavailableError,
    UserError,
)
from afp_ray.redaction import redact
from services.output import AWAY, BUG, COMPLETE, LOCKED, SIGINT, USAGE, note, say, say_json


def run_guarded(call: Callable[[], Any], *, as_json: bool) -> int:
    """Run a verb; returns its exit code.

    Args:
        call: gives the exit code, or something else for 0.
        as_json: whether errors are printed as JSON.
    """
    try:
        return _guarded(call, as_json=as_json)
    except BrokenPipeError:
        _forget_output()  # the reader has gone: afp ... | head
        return COMPLETE
    except OSError as error:  # of standard output itself, or of standard error
        _forget_output()
        with suppress(OSError):
            note(f"error  the output cannot be written: {error.strerror or error}")
        return AWAY


def _forget_output() -> None:
    """Let what Python still flushes go nowhere: nobody reads it, and its end must not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())


def _guarded(call: Callable[[], Any], *, as_json: bool) -> int:
    try:
        code = call()
        sys.stdout.flush()
        if code == SIGINT:  # how the library says that it has caught Ctrl-C
            note("interrupted")
        return code if isinstance(code, int) else COMPLETE
    except BrokenPipeError:
        raise
    except AfpError as error:
        return show_error(error, as_json=as_json)
    except KeyboardInterrupt:
        note("interrupted")
        return SIGINT
    except typer.Exit as error:
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):  # the library has caught it
            note("interrupted")
        return error.exit_code
    except typer.Abort:
        note("interrupted")
        return SIGINT
    except SystemExit as error:
        # Libraries that write end the process by themselves when the reader of their output has gone.
        if isinstance(error.__context__, BrokenPipeError) or getattr(error.__context__, "errno", 0) == errno.EPIPE:
            raise BrokenPipeError from error
        return error.code if isinstance(error.code, int) else BUG
    except Exception as error:
        if (mistake := of_the_machine(error)) is not None:
            return show_error(mistake, as_json=as_json)
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # a usage error of the command line
            return _usage(error)
        return show_bug(error)


def _usage(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # nothing was asked: its message is the help
        say(error.message)
        return COMPLETE
    note(f"error  {error.format_message()}")
    context = getattr(error, "ctx", None)
    note(f"fix    see {context.command_path if context else 'afp'} --help")
    return int(error.exit_code)


MAX_SHOWN = 10
"""Mistakes of one file that are shown; the number of the others is said."""


def show_error(error: AfpError, *, as_json: bool = False) -> int:
    """Print an error with its place and fix, of a file all of its mistakes; returns the exit code of its class."""
    code = exit_code_of(error)
    mistakes: Sequence[AfpError] = error.mistakes if isinstance(error, SeveralConfigError) else (error,)
    num_more = max(0, len(mistakes) - MAX_SHOWN)
    if as_json:
        content = {"code": code, "class": type(error).__name__, **_fields_of(error)}
        if len(mistakes) > 1:
            content |= {
                "class": ConfigError.__name__,
                "mistakes": [_fields_of(mistake) for mistake in mistakes[:MAX_SHOWN]],
                "more": num_more,
            }
        say_json({"error": content})
        return code
    for index, mistake in enumerate(mistakes[:MAX_SHOWN]):
        if index:
            note("")
        _show_one(mistake)
    if len(mistakes) > 1:
        note(f"\n{len(mistakes)} mistakes{f', {num_more} more than are shown' if num_more else ''}")
    return code


def _fields_of(error: AfpError) -> dict[str, str]:
    fields = {name: getattr(error, name, "") for name in ("problem", "where", "allowed", "fix")}
    return fields | {"problem": fields["problem"] or str(error), "fix": fields["fix"] or _fix_of(error)}


def _show_one(error: AfpError) -> None:
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
    file = redact(str(error.filename)) if error.filename is not None else ""
    shown = file if len(file) <= 200 else f"{file[:200]}... ({len(file)} characters)"
    problem = f"{error.strerror or error}{f': {shown}' if shown else ''}"
    if error.errno in _FULL:
        return StorageError(problem)
    if error.errno == errno.ENAMETOOLONG:
        return ConfigError(f"a path is too long: {problem}", where="paths", fix="write a shorter one")
    if isinstance(error, FileNotFoundError) and not file and _has_lost_folder():
        return ConfigError("the working folder no longer exists", where="paths", fix="cd into one that does")
    if isinstance(error, PermissionError | NotADirectoryError | IsADirectoryError) and file:
        return ConfigError(problem, where="paths", fix="check the path and who may read and write it")
    if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
        return UnavailableError(problem)
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
        if not error.study:
            return "afp status lists the studies and who drives them"
        return (
            f"afp resume {error.study} --attach follows it, afp status {error.study} shows it, "
            f"afp stop {error.study} ends it"
        )
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
