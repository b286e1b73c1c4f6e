"""What a Ray cluster answers to a stranger, who could run any code on one that asks for no token; and our own token."""

import http.client
import ipaddress
import json
import logging
import os
import secrets
import stat
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from afp_ray.errors import ConfigError, UnavailableError
from afp_ray.execution.ray_internals import address_on_this_machine, num_nodes_of_head, version_of_head

logger = logging.getLogger(__name__)

TIMEOUT_S = 3.0
TOKEN_FILE = "~/.ray/auth_token"  # noqa: S105  # Ray's default place
Openness = Literal["open", "token", "silent", "unknown"]
"""`open` serves anybody, `token` asks for one, `silent` does not answer, `unknown` answers something else."""
FIX = "start every node with RAY_AUTH_MODE=token, and keep the dashboard on the loopback, behind an ssh tunnel"


_ASKED = "pip install -c constraints.txt 'afp-ray[cluster]', which brings grpcio, and check the address"
_SEEN_BY = {"silent": "check the address and start the cluster, or try again when it answers"}


class ClusterAnswer(NamedTuple):
    """What a cluster said."""

    kind: Openness
    words: str
    ray_version: str = ""
    """"" where the cluster does not tell it."""


def host_of(address: str) -> str:
    """The host of `http://host:8265`, `ray://host:10001` or `host:6379`; "" for a word such as `auto`."""
    return _parts(address).hostname or "" if ":" in address else ""


def port_of(address: str) -> int | None:
    """The port of an address; the scheme's own where http(s) gives none, None where there is none at all.

    Raises: ConfigError for a port that is no number.
    """
    parts = _parts(address)
    try:
        return parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError as error:
        raise ConfigError(f"address {address[:80]!r} has no port that could be used: {error}") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine itself reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token() -> str | None:
    """The token of this user, from where Ray takes it: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""
    if value := os.environ.get("RAY_AUTH_TOKEN"):
        return value.strip()
    try:
        return token_file().read_text("utf-8").strip() or None
    except OSError:
        return None


def token_file() -> Path:
    """The file that the token is read from where RAY_AUTH_TOKEN does not hold it."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()


def keep_token_private(*, make: bool = False) -> None:
    """Take the token file of this user from others; Ray itself would write it for everybody to read.

    Args:
        make: make the token first where Ray, which starts a cluster next, would make one.
    """
    file = Path(TOKEN_FILE).expanduser()
    is_elsewhere = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    is_wanted = make and not is_elsewhere and os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    with suppress(OSError):  # a home folder that cannot be written: Ray says what it needs
        if is_wanted and not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
                handle.write(secrets.token_hex(32))
        status = file.stat()
        if status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) & 0o077:
            file.chmod(0o600)
            logger.warning("%s could be read by others, and is yours alone now (mode 0600)", file)


def ask(address: str, *, bearer: str | None = None) -> ClusterAnswer:
    """Ask a cluster for its version.

    Args:
        address: of its dashboard (`http://...`) or its head (`host:port`, `ray://...`, `auto`).
        bearer: a token to show; None asks as a stranger.
    """
    if address.startswith(("http://", "https://")):
        return _ask_dashboard(address, bearer)
    return _ask_head(address.removeprefix("ray://"), bearer)


def require_token(address: str, *, allow_open: bool = False) -> None:
    """Refuse a cluster that serves strangers from other machines.

    Args:
        address: as for `ask`; a word such as `auto` is resolved first.
        allow_open: use it all the same.
    Raises: ConfigError when it serves anybody or does not tell, UnavailableError when `auto` finds no cluster.
    """
    keep_token_private()
    address = resolve(address)
    if allow_open or address == "local" or is_loopback(host_of(address)):
        return
    answer = ask(address)
    if answer.kind == "open":
        raise ConfigError(
            f"the Ray cluster at {address} asks for no token: whoever reaches it can run any code on it",
            where="--address",
            fix=f"{FIX}; or give --allow-open-cluster where nobody else reaches the network",
        )
    if answer.kind != "token":
        raise ConfigError(
            f"whether the Ray cluster at {address} asks for a token could not be seen: {answer.words}",
            where="--address",
            allowed="a cluster that is known to ask for a token",
            fix=f"{_SEEN_BY.get(answer.kind, _ASKED)}; or give --allow-open-cluster where nobody else reaches the "
            "network",
        )


def num_nodes(address: str) -> int | None:
    """Live nodes of the cluster of a head; None where it does not tell.

    Args:
        address: of the head, or a word such as `auto`.
    """
    try:
        import grpc
    except ImportError:
        return None
    bearer = token()
    metadata = [("authorization", f"Bearer {bearer}")] if bearer else []
    with grpc.insecure_channel(resolve(address)) as channel:
        try:
            return num_nodes_of_head(channel, timeout=TIMEOUT_S, metadata=metadata)
        except grpc.RpcError:
            return None


def resolve(address: str) -> str:
    """An address that processes on every node understand: `auto` becomes the `host:port` that it stands for here.

    Raises: UnavailableError when no cluster runs on this machine.
    """
    if ":" in address or address == "local":
        return address
    if address != "auto":
        raise ConfigError(
            f"{address!r} is no address of a cluster",
            where="--address or RAY_ADDRESS",
            allowed="HOST:PORT, ray://HOST:PORT, auto, local",
            fix="give the head's address, or unset RAY_ADDRESS to start a cluster here",
        )
    try:
        head = address_on_this_machine()
    except (ConnectionError, ValueError) as error:
        raise UnavailableError(f"no Ray cluster runs on this machine that {address!r} could stand for") from error
    return head or address


def _parts(address: str) -> urllib.parse.SplitResult:
    return urllib.parse.urlsplit(address if "//" in address else f"//{address}")


def _ask_dashboard(address: str, bearer: str | None) -> ClusterAnswer:
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    request = urllib.request.Request(f"{address.rstrip('/')}/api/version", headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return ClusterAnswer("open", f"answers {answer.status}", _version_in(answer.read(4096)))
    except urllib.error.HTTPError as error:
        with error:
            return ClusterAnswer("token" if error.code in (401, 403) else "unknown", f"answers {error.code}")
    except (OSError, ValueError, http.client.HTTPException):
        return ClusterAnswer("silent", f"does not answer within {TIMEOUT_S:g} s")


def _version_in(body: bytes) -> str:
    try:
        content: Any = json.loads(body)
    except ValueError:
        return ""
    return str(content.get("ray_version", "")) if isinstance(content, dict) else ""


def _ask_head(address: str, bearer: str | None) -> ClusterAnswer:
    """A head speaks gRPC; the question that Ray itself asks to see whether it lives is guarded like all others."""
    try:
        import grpc
    except ImportError:
        return ClusterAnswer("unknown", "grpcio is not installed here")
    metadata = [("authorization", f"Bearer {bearer}")] if bearer else []
    with grpc.insecure_channel(address) as channel:
        try:
            version = version_of_head(channel, timeout=TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            return _refusal(error.code(), grpc.StatusCode)
    return ClusterAnswer("open", "answers", version)


def _refusal(code: Any, codes: Any) -> ClusterAnswer:
    if code in (codes.UNAUTHENTICATED, codes.PERMISSION_DENIED):
        return ClusterAnswer("token", "asks for a token")
    if code is codes.UNIMPLEMENTED:  # another service of Ray, which would have asked for a token first
        return ClusterAnswer("open", "answers")
    if code in (codes.UNAVAILABLE, codes.DEADLINE_EXCEEDED):
        return ClusterAnswer("silent", f"does not answer within {TIMEOUT_S:g} s")
    return ClusterAnswer("unknown", f"answers {code.name}")
