"""Listens for the API on an address of this machine alone."""

import ipaddress
import socket
from pathlib import Path

import uvicorn

from afp_ray.errors import ConfigError, UnavailableError
from services.api import create_app


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
    """Listen until interrupted.

    Raises: ConfigError for an address that others can reach or a port that this user may not have, UnavailableError for
        a port that is in use.
    """
    check_host(host)
    _check_port(host, port)
    uvicorn.run(create_app(storage), host=host, port=port, log_level="warning", server_header=False, access_log=False)


def _check_port(host: str, port: int) -> None:
    """Try the port before the server does, which would end the process with a code of its own.

    Raises: ConfigError for a port that this user may not have, UnavailableError for one that is in use.
    """
    bare = host.strip("[]")
    try:
        with socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((bare, port))
            trial.listen()
    except PermissionError as error:
        raise ConfigError(
            f"port {port} is kept for the system's own services",
            where="--port",
            fix="write 8000, or another above 1023",
        ) from error
    except OSError as error:
        problem = f"{host} port {port} cannot be listened on: {error.strerror}; end the other server, or give --port"
        raise UnavailableError(problem) from error
