"""What reaches the terminal: JSON, lines, tables and errors; and the exit code of each outcome."""

import io
import json
import os
import re
import sys
from typing import Any

from pydantic import BaseModel

from afp_ray.records import CloseReason, StudyState, TrialStatus
from afp_ray.redaction import RedactedText, redact, redact_json

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


def say_secret(text: str) -> None:
    """One line on standard output that shows a secret on purpose: a token, to who has just made it."""
    sys.stdout.write_as_is(text + "\n") if isinstance(sys.stdout, RedactedText) else sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_secret_json(value: dict[str, Any]) -> None:
    """Likewise one JSON document."""
    say_secret(json.dumps(value, indent=2))


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no JSON")


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
