"""Listens for the API where that is safe; drops clients that neither finish asking nor read."""

import asyncio
import ipaddress
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from afp_ray.errors import ConfigError, UnavailableError
from afp_ray.store import list_studies
from services.api import LOOPBACK_NAMES, create_app
from services.guard import DEFAULT_LIMITS, Limits
from services.intake import DEFAULT_RULES, Rules
from services.output import say
from services.tokens import Tokens

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


@dataclass(frozen=True, slots=True)
class Exposure:
    """Where the service listens, and who may reach it.

    Attributes:
        host: address to listen on.
        port: 0 takes a free one.
        tls_cert, tls_key: files of a certificate and its key; None listens in plain text.
        behind_tls_proxy: whether a proxy that others reach by TLS passes their requests on.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_tls_proxy: bool = False

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone reaches the address."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def is_open(self) -> bool:
        """Whether reading needs no token: nobody else reaches the service, by a proxy either."""
        return self.is_loopback and not self.behind_tls_proxy

    @property
    def has_tls(self) -> bool:
        """Whether the service encrypts by itself."""
        return self.tls_cert is not None


def check_exposure(exposure: Exposure, tokens: Tokens) -> None:
    """Refuse to listen where a token could be read on its way, or where others reach a service that has none.

    Raises: ConfigError with what to do instead.
    """
    if (exposure.tls_cert is None) != (exposure.tls_key is None):
        missing = "--tls-key" if exposure.tls_key is None else "--tls-cert"
        raise ConfigError("TLS needs a certificate and its key", where=missing, fix=f"give {missing} as well")
    if exposure.tls_cert is not None and exposure.tls_key is not None:
        _check_certificate(exposure.tls_cert, exposure.tls_key)
    records = tokens.records()
    if exposure.is_open:
        return
    if not (exposure.has_tls or exposure.behind_tls_proxy):
        raise ConfigError(
            f"--host {exposure.host} can be reached from other machines, and nothing would hide tokens on their way",
            where="--host",
            allowed="127.0.0.1, ::1, localhost; any address with --tls-cert and --tls-key, or --behind-tls-proxy",
            fix="keep 127.0.0.1 and use an ssh tunnel: ssh -L 8000:127.0.0.1:8000 THIS_MACHINE",
        )
    if all(record.is_expired for record in records):
        raise ConfigError(
            "others can reach the service, and there is no token that is good",
            where=str(tokens.file),
            fix="afp token new NAME makes one (--scope submit for who may run studies)",
        )


def _check_certificate(cert: Path, key: Path) -> None:
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise ConfigError(
            f"{cert} and {key} cannot be used: {error}",
            where="--tls-cert",
            fix="give a PEM certificate (with its chain) and the key that belongs to it, without a password",
        ) from error


def serve(storage: Path, exposure: Exposure, *, limits: Limits = DEFAULT_LIMITS, rules: Rules = DEFAULT_RULES) -> None:
    """Say where it listens and what it serves, and listen until interrupted.

    Args:
        storage: folder of the studies.
        exposure: where it listens.
        limits: of one token or address.
        rules: what a study that is submitted may do, and who runs it.
    Raises: ConfigError for an address that others reach unprotected, files of TLS that cannot be used or a port that
        this user may not have, UnavailableError for a port that is in use.
    """
    tokens = Tokens(storage)
    check_exposure(exposure, tokens)
    app = create_app(
        storage,
        hosts=LOOPBACK_NAMES if exposure.is_open else ("*",),  # by another name there is nothing without a token
        is_open=exposure.is_open,
        limits=limits,
        rules=rules,
    )
    files: dict[str, Any] = (
        {"ssl_certfile": exposure.tls_cert, "ssl_keyfile": exposure.tls_key} if exposure.has_tls else {}
    )
    with _listening(exposure.host, exposure.port) as listener:
        _say_address(storage, exposure, listener.getsockname()[1], tokens)
        config = uvicorn.Config(app, proxy_headers=exposure.behind_tls_proxy, **files, **OPTIONS)
        with suppress(KeyboardInterrupt):  # the server has ended in good order by then
            _Server(config, app.state.streams.ending).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Tells streams of events that the service ends, which would otherwise be waited for."""

    def __init__(self, config: uvicorn.Config, ending: threading.Event) -> None:
        super().__init__(config)
        self._ending = ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End them first."""
        self._ending.set()
        super().handle_exit(sig, frame)


def _say_address(storage: Path, exposure: Exposure, port: int, tokens: Tokens) -> None:
    bare = exposure.host.strip("[]")
    name = socket.gethostname() if bare in ("0.0.0.0", "::") else f"[{bare}]" if ":" in bare else bare  # noqa: S104
    address = f"{'https' if exposure.has_tls else 'http'}://{name}:{port}"
    num_studies = len(list_studies(storage))
    num_tokens = sum(not record.is_expired for record in tokens.records())
    say(f"serving  {num_studies} {'study' if num_studies == 1 else 'studies'} of {storage}")
    say(f"page     {address}/")
    say(f"api      {address}/v1/studies   described at {address}/docs")
    reads = "no token is needed to read" if exposure.is_open else "a token is needed to read"
    say(f"tokens   {num_tokens} good; {reads}, one of scope submit to run or stop a study")
    say("         Ctrl-C ends it")


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
