"""The edge of the command line: whatever comes out of a verb becomes an exit code and one message."""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import typer

from afp_ray.errors import AfpError
from services.output import AWAY, BUG, COMPLETE, SIGINT, note, of_the_machine, show_bug, show_error


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
        if (known := of_the_machine(error)) is not None:
            return show_error(known, as_json=as_json)
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # a usage error of the command line
            return _usage(error)
        return show_bug(error)


def _usage(error: Any) -> int:
    note(f"error  {error.format_message()}")
    context = getattr(error, "ctx", None)
    note(f"fix    see {context.command_path if context else 'afp'} --help")
    return int(error.exit_code)
