"""Speaks to the Jobs API of a Ray cluster: submits by id as often as it takes, finds jobs, follows their logs.

A submission can be repeated: its id is the caller's, and the cluster keeps one job to an id. Ray answers a second
submission with status 500 like any mishap of its own, so after every failure the job is asked for by its id.
"""

import asyncio
import logging
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple, TypeVar

from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from afp_ray.errors import ConfigError, UnavailableError
from afp_ray.execution.cluster_auth import TOKEN_FILE, ask, token
from afp_ray.execution.ray_internals import job_client
from afp_ray.redaction import redact

logger = logging.getLogger(__name__)

PATIENCE_S: Final = 60.0
"""Seconds for which a request is tried again when the cluster is away."""
FOLLOW_PATIENCE_S: Final = 600.0
"""The same while the log of a job is followed, whom a break does not hurt."""
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.25, 5.0
_REQUEST_S = (10.0, 120.0)  # to connect, and between two bytes
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_REQUEST = "afp.request"
_TALKATIVE = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
_OVER = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
_T = TypeVar("_T")


class RayJob(NamedTuple):
    """A job as the cluster knows it."""

    submission_id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    exit_code: int | None
    """Of the job's command; null before its end, when it was stopped, and when its node was lost."""
    message: str
    metadata: dict[str, str]

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.status in _OVER


class _RefusedError(Exception):
    """The cluster understood the request and will not answer it otherwise."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


@contextmanager
def _noticing_interrupts() -> Iterator[threading.Event]:
    """Set once Ctrl-C has come: what closes a connection may raise an error of its own in place of the interrupt."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def note(number: int, frame: FrameType | None) -> None:
        came.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


class RayJobs:
    """The jobs of one cluster.

    Args:
        address: of its dashboard, `http://host:port`.
        patience_s: seconds for which a request is tried again when the cluster is away.
    """

    def __init__(self, address: str, *, patience_s: float = PATIENCE_S) -> None:
        self.address, self.patience_s = address, patience_s
        self._client: JobSubmissionClient | None = None

    def find(self, submission_id: str) -> RayJob | None:
        """The job of that id; None when the cluster has none.

        Raises: UnavailableError when the cluster stays away, ConfigError when it refuses us.
        """
        try:
            info = self._patiently(lambda client: client.get_job_info(submission_id))
        except _RefusedError as error:
            if error.status == 404:
                return None
            raise self._not_understood(error) from error
        status = getattr(info.status, "value", info.status)
        return RayJob(submission_id, str(status), info.driver_exit_code, info.message or "", info.metadata or {})

    def submit(
        self,
        submission_id: str,
        entrypoint: str,
        *,
        working_dir: Path,
        metadata: Mapping[str, str],
        environment: Mapping[str, str],
    ) -> bool:
        """Submit a job under its id; harmless to repeat, also by two at once.

        Args:
            submission_id: the cluster keeps one job to an id.
            entrypoint: the command, run by a shell on the head.
            working_dir: folder that the command starts in; it is sent along.
            metadata: kept with the job.
            environment: variables of the job; anybody who may ask for the job reads them, so no secrets.
        Returns: whether this call made the job; false when it was there already.
        Raises: UnavailableError when the cluster stays away, ConfigError when it refuses the job.
        """
        request = secrets.token_hex(8)  # tells our job, whose answer was lost, from another's

        def once(client: JobSubmissionClient) -> bool:
            try:
                client.submit_job(
                    submission_id=submission_id,
                    entrypoint=entrypoint,
                    runtime_env={"working_dir": str(working_dir), "env_vars": dict(environment)},
                    metadata={**metadata, _REQUEST: request},
                )
                return True
            except (OSError, RuntimeError) as error:
                try:
                    job = client.get_job_info(submission_id)
                except RuntimeError as missing:
                    raise error from missing
                return bool((job.metadata or {}).get(_REQUEST) == request)

        try:
            return self._patiently(once)
        except _RefusedError as error:
            raise self._not_understood(error) from error

    def log(self, submission_id: str) -> str:
        """Everything that the job has printed; "" when the cluster no longer has it.

        Raises: UnavailableError when the cluster stays away.
        """
        try:
            return str(self._patiently(lambda client: client.get_job_logs(submission_id)))
        except _RefusedError:
            return ""

    def follow(self, submission_id: str, write: Callable[[str], None]) -> RayJob:
        """Pass on what the job prints, from its beginning, until it is over; a broken connection is mended.

        Args:
            submission_id: a job that is there.
            write: gets every piece of text once, in order; pieces are not lines.
        Returns: the job once it is over.
        Raises: UnavailableError when the cluster stays away or has forgotten the job; KeyboardInterrupt on Ctrl-C,
            wherever it comes.
        """
        patient = RayJobs(self.address, patience_s=max(self.patience_s, FOLLOW_PATIENCE_S))
        num_seen = 0

        def pass_on(text: str) -> None:
            nonlocal num_seen
            num_seen += len(text)
            write(text)

        with _noticing_interrupts() as interrupted:
            while True:
                try:
                    asyncio.run(patient._tail(submission_id, num_seen, pass_on))
                except (OSError, RuntimeError, ClientError) as error:
                    logger.info("the log of job %s broke off: %s", submission_id, error)
                if interrupted.is_set():
                    raise KeyboardInterrupt
                job = patient.find(submission_id)
                if job is None:
                    raise UnavailableError(f"the cluster at {self.address} no longer knows job {submission_id}")
                if job.is_over:
                    pass_on(patient.log(submission_id)[num_seen:])
                    return job
                time.sleep(_FIRST_PAUSE_S)

    async def _tail(self, submission_id: str, num_seen: int, write: Callable[[str], None]) -> None:
        """One connection to the log, which always begins at its first character."""
        client = self._patiently(lambda client: client)
        async for text in client.tail_job_logs(submission_id):
            new = text[num_seen:]
            num_seen = max(0, num_seen - len(text))
            if new:
                write(new)

    def _patiently(self, call: Callable[[JobSubmissionClient], _T]) -> _T:
        """Call until the cluster answers.

        Raises: _RefusedError for an answer that trying again would not change.
        """
        end, pause = time.monotonic() + self.patience_s, _FIRST_PAUSE_S
        while True:
            try:
                self._client = self._client or self._connect()
                return call(self._client)
            except AuthenticationError as error:
                raise self._unknown_token() from error
            except (OSError, RuntimeError) as error:
                if not _may_pass(error):
                    raise _RefusedError(_status_of(error) or 0, str(error)) from error
                if time.monotonic() + pause > end:
                    reason = str(error).splitlines()[0]
                    raise UnavailableError(f"the Ray dashboard at {self.address} does not answer: {reason}") from error
                logger.warning("the Ray dashboard at %s does not answer; trying again", self.address)
            except (KeyError, ValueError) as error:
                raise ConfigError(f"the job could not be sent to {self.address}: {error}") from error
            time.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE_S)

    def _connect(self) -> JobSubmissionClient:
        headers = {}
        answer = ask(self.address)
        if answer.kind == "open" and not answer.ray_version:
            raise ConfigError(f"{self.address} is no Ray dashboard: it {answer.words}", where="--address")
        if answer.kind == "token":  # ours is shown to nobody who does not ask
            if (ours := token()) is None:
                raise self._unknown_token()
            headers["Authorization"] = f"Bearer {ours}"
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        with _without_ray_address():
            try:
                return job_client(self.address, headers=headers, timeout_s=_REQUEST_S)
            except (KeyError, TypeError, ValueError) as error:
                if isinstance(error, OSError):  # an answer that is cut off is no JSON either
                    raise
                raise ConfigError(f"{self.address} is no Ray dashboard: {error!r}", where="--address") from error

    def _unknown_token(self) -> ConfigError:
        return ConfigError(
            f"the Ray cluster at {self.address} asks for a token, and {'refuses ours' if token() else 'there is none'}",
            where="--address",
            fix=f"write the cluster's token to {TOKEN_FILE} (chmod 600), or set RAY_AUTH_TOKEN",
        )

    def _not_understood(self, error: _RefusedError) -> ConfigError:
        first = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
        return ConfigError(f"the Ray cluster at {self.address} refuses: {redact(first)[:500]}", where="--address")


def _status_of(error: Exception) -> int | None:
    """The HTTP status in an error of Ray's client, or None."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    match = re.match(r"Request failed with status code (\d{3})", str(error))
    return int(match[1]) if match else None


def _may_pass(error: Exception) -> bool:
    """Whether trying again may help: no answer at all, one of a server in trouble, or one that asks to wait."""
    status = _status_of(error)
    if status is None:
        return isinstance(error, OSError)
    return status >= 500 or status in (408, 429)


@contextmanager
def _without_ray_address() -> Iterator[None]:
    """Hide variables that Ray's client would put before the address that it is given."""
    hidden = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
