"""Listens for the API on an address of this machine alone; drops clients that neither finish asking nor read."""

import asyncio
import ipaddress
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from afp_ray.errors import ConfigError, UnavailableError
from afp_ray.store import list_studies
from services.api import create_app
from services.output import say

REQUEST_S = 10.0
"""In which a client has to send a request, from its first byte (or the opening of a connection) to its last."""
READ_S = 30.0
"""In which a client has to read something of an answer that fills its buffers."""
STOP_S = 5
"""For answers under way when the service is told to end."""
BACKLOG = 1024
"""Connections that the system keeps until they are taken."""
MAX_CONNECTIONS = 512
"""Further ones get 503; a process may have 1,024 files open on most systems."""


class TimedProtocol(H11Protocol):
    """Ends a connection whose request does not come in time, or whose answer is not read.

    The server itself limits idle connections and the size of a request's head, but not how long either may take.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._request: asyncio.TimerHandle | None = None
        self._read: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Time the first request."""
        super().connection_made(transport)
        self._time_request()

    def data_received(self, data: bytes) -> None:
        """Time a request until it is whole."""
        super().data_received(data)
        self._time_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop both clocks."""
        self._stop_request()
        self._stop_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Time a client that does not read."""
        super().pause_writing()
        self._stop_read()
        self._read = self.loop.call_later(READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        self._stop_read()
        super().resume_writing()

    def _time_request(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop_request()
        elif self._request is None:
            self._request = self.loop.call_later(REQUEST_S, self.transport.abort)

    def _stop_request(self) -> None:
        if self._request is not None:
            self._request.cancel()
            self._request = None

    def _stop_read(self) -> None:
        if self._read is not None:
            self._read.cancel()
            self._read = None


OPTIONS: dict[str, Any] = {
    "http": TimedProtocol,
    "ws": "none",
    "limit_concurrency": MAX_CONNECTIONS,
    "timeout_graceful_shutdown": STOP_S,
    "log_level": "warning",
    "server_header": False,
    "access_log": False,
}
"""Of the server, beside its address."""


def check_host(host: str) -> None:
    """Refuse to listen where others could reach the studies: there are no tokens yet.

    Raises: ConfigError for an address that is not this machine's own.
    """
    try:
        is_own = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        is_own = False
    if not is_own:
        raise ConfigError(
            f"--host {host} can be reached from other machines, and the API asks for no password",
            where="--host",
            allowed="127.0.0.1, ::1, localhost",
            fix="keep 127.0.0.1 and use an ssh tunnel: ssh -L 8000:127.0.0.1:8000 THIS_MACHINE",
        )


def serve(storage: Path, *, host: str, port: int) -> None:
    """Say where it listens and what it serves, and listen until interrupted.

    Args:
        storage: folder of the studies.
        host: address to listen on.
        port: 0 takes a free one.
    Raises: ConfigError for an address that others can reach or a port that this user may not have, UnavailableError for
        a port that is in use.
    """
    check_host(host)
    app = create_app(storage)
    with _listening(host, port) as listener:
        shown = f"[{host.strip('[]')}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        num_studies = len(list_studies(storage))
        say(f"serving  {num_studies} {'study' if num_studies == 1 else 'studies'} of {storage}")
        say(f"page     {address}/")
        say(f"api      {address}/v1/studies   described at {address}/docs")
        say("         Ctrl-C ends it")
        with suppress(KeyboardInterrupt):  # the server has ended in good order by then
            uvicorn.Server(uvicorn.Config(app, **OPTIONS)).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens already, so that whoever reads the address that is printed gets an answer.

    Raises: ConfigError for a port that this user may not have, UnavailableError for one that is in use.
    """
    bare = host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((bare, port))
        listener.listen(BACKLOG)
    except PermissionError as error:
        listener.close()
        raise ConfigError(
            f"port {port} is kept for the system's own services",
            where="--port",
            fix="write 8000, or another above 1023",
        ) from error
    except OSError as error:
        listener.close()
        problem = f"{host} port {port} cannot be listened on: {error.strerror}; end the other server, or give --port"
        raise UnavailableError(problem) from error
    return listener
