"""Tells a URL or a command that a study has ended, once and whatever the end; a study never fails for it."""

import json
import logging
import socket
import subprocess
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pydantic import ValidationError

from afp_ray import __version__
from afp_ray.comparison import best
from afp_ray.errors import AfpError
from afp_ray.ledger import holder, replay
from afp_ray.records import Comparison, StudyState, TrialStatus
from afp_ray.redaction import redact, redacted
from afp_ray.store import StudyPaths

logger = logging.getLogger(__name__)

URL_S, COMMAND_S = 10.0, 60.0
"""Seconds that a server may take to answer, and a command to end."""


class _NoRedirect(HTTPRedirectHandler):
    """A message goes where the study file says and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        """None leaves the answer an error."""


def tell_end(target: str | Sequence[str], paths: StudyPaths, *, error: str = "") -> None:
    """Say that the driver of a study has ended; nothing where another driver has the study now.

    Args:
        target: as of `notify`.
        paths: the study.
        error: what the driver ended with; "" where it ended by itself.
    """
    try:
        if holder(paths) is None:
            notify(target, end_message(paths, replay(paths.ledger), error=error))
    except AfpError as problem:
        logger.warning("nobody was told of the end of %s: %s", paths.name, problem)


def notify(target: str | Sequence[str], message: dict[str, Any]) -> None:
    """Send a message; what goes wrong is one warning.

    Args:
        target: a URL, which gets it by POST as JSON, or the arguments of a command, which gets it on standard input.
        message: what `end_message` gives.
    """
    body = json.dumps(message, ensure_ascii=False).encode()
    try:
        _post(target, body) if isinstance(target, str) else _run(target, body)
    except (OSError, HTTPException, ValueError, subprocess.SubprocessError) as error:
        where = _shown(target)
        logger.warning("nobody was told of the end of %s: %s: %s", message["study"], where, redact(_reason(error)))


def _post(url: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": f"afp_ray/{__version__}"}
    request = Request(url, data=body, headers=headers, method="POST")  # noqa: S310 (the configuration takes http alone)
    with build_opener(_NoRedirect).open(request, timeout=URL_S) as answer:
        answer.read(1)


def _run(arguments: Sequence[str], body: bytes) -> None:
    done = subprocess.run(list(arguments), input=body, capture_output=True, timeout=COMMAND_S, check=False)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ValueError(f"it ended with {done.returncode}" + (f": {said[-1]}" if said else ""))


def _shown(target: str | Sequence[str]) -> str:
    """Host or command: the rest of a URL, and arguments, may be secret."""
    if isinstance(target, str):
        parts = urlsplit(target)
        return f"{parts.scheme}://{parts.hostname}"
    return target[0]


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"it answered {error.code}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it did not end within {error.timeout:g} s"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def end_message(paths: StudyPaths, state: StudyState, *, error: str = "") -> dict[str, Any]:
    """What is told of a study that has ended, without secrets.

    Args:
        paths: the study.
        state: of its ledger.
        error: what the driver ended with; "" where it ended by itself.
    Returns: `study`, `state` (`complete`, `budget`, `interrupted` or `error`) with `detail`, `counts` of trials by
        status, `headline` and `best` (null where nothing is confirmed yet), `report`, `host`, and `text`, which says
        the same in one line, as chat services show it.
    """
    ended = state.ended
    reason, detail = (str(ended.reason), ended.detail) if ended is not None else ("error", error)
    counts = {str(status): sum(trial.status is status for trial in state.trials) for status in TrialStatus}
    headline = _headline(paths)
    num_done, num_failed = counts[TrialStatus.DONE], counts[TrialStatus.FAILED]
    text = f"{paths.name}: {reason}{f' ({detail})' if detail else ''}, {num_done} of {len(state.trials)} trials done"
    text += f", {num_failed} failed" if num_failed else ""
    message = {
        "study": paths.name,
        "state": reason,
        "detail": detail,
        "counts": {name: count for name, count in counts.items() if count},
        "trials": len(state.trials),
        "headline": headline,
        "best": _best(paths),
        "started_at": state.opened_at,
        "ended_at": max((trial.ended_at for trial in state.trials if trial.ended_at is not None), default=None),
        "report": str(paths.report) if paths.report.is_file() else None,
        "host": socket.gethostname(),
        "text": f"{text}. {headline}" if headline else text,
    }
    cleaned: dict[str, Any] = redacted(message)
    return cleaned


def _headline(paths: StudyPaths) -> str | None:
    """Of the table that was written beside the report."""
    try:
        table = Comparison.model_validate_json(paths.comparison("json").read_bytes())
    except (OSError, ValidationError):
        return None
    return table.headline.text if table.headline is not None else None


def _best(paths: StudyPaths) -> dict[str, Any] | None:
    try:
        answer = best(paths)
    except AfpError:
        return None
    score = {"mean": answer.score.mean, "ci95": answer.score.ci95, "split": answer.split}
    delta = answer.vs_base.delta if answer.vs_base is not None else None
    return {"arm": answer.arm, "trial": answer.trials[0], "objective": answer.objective, **score, "vs_base": delta}
