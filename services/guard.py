"""Who asks: by token or by address, how often, and whether that is enough for what is asked."""

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from afp_ray.errors import UserError
from services.problems import RefusedError, problem_answer
from services.tokens import Scope as TokenScope
from services.tokens import TokenRecord, Tokens

logger = logging.getLogger(__name__)

MAX_CALLERS = 10_000
"""Callers whose pace is remembered, those seen last."""
_OF_A_PROXY = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one token, or one address without a token, may ask.

    Attributes:
        requests_per_s: in the long run.
        burst_s: seconds of it that may be asked at once.
        submissions_per_min: studies begun or stopped, of that many at once.
    """

    requests_per_s: float = 50.0
    burst_s: float = 4.0
    submissions_per_min: float = 10.0


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request is from.

    Attributes:
        key: of the token, or of the address.
        scope: of the token; None without one.
        has_token: whether one was given, good or not.
        is_forwarded: whether a proxy says that it has passed the request on.
    """

    key: str
    scope: TokenScope | None
    has_token: bool
    is_forwarded: bool


class Pace:
    """A bucket of requests for each caller: it fills at a steady pace, and a request takes one out.

    Args:
        per_s: requests that a bucket gains in a second.
        most: that it holds.
    """

    def __init__(self, per_s: float, most: float) -> None:
        self._per_s, self._most = per_s, most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, key: str) -> float:
        """Take one request out; the seconds until there is one where there is none, else 0."""
        now = time.monotonic()
        with self._lock:
            level, since = self._buckets.pop(key, (self._most, now))
            level = min(self._most, level + (now - since) * self._per_s)
            is_full_enough = level >= 1
            self._buckets[key] = (level - is_full_enough, now)
            while len(self._buckets) > MAX_CALLERS:
                self._buckets.popitem(last=False)
        return 0.0 if is_full_enough else (1 - level) / self._per_s


class Guard:
    """Finds out who asks, and refuses who asks too often; what is asked decides whether that caller may.

    Args:
        app: what answers.
        tokens: that are good.
        limits: of one caller.
    """

    def __init__(self, app: ASGIApp, *, tokens: Tokens, limits: Limits) -> None:
        self._app, self._tokens = app, tokens
        self._pace = Pace(limits.requests_per_s, max(1.0, limits.requests_per_s * limits.burst_s))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its caller, or answer 429."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller = self._caller(scope)
        scope.setdefault("state", {})["caller"] = caller
        if wait_s := self._pace.wait_s(caller.key):
            await problem_answer(too_often(wait_s))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        headers = dict(scope["headers"])
        kind, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        record = self._find(token.strip()) if kind.lower() == "bearer" else None
        address = (scope.get("client") or ("unknown",))[0]
        return Caller(
            key=f"token {record.id}" if record else f"address {address}",
            scope=record.scope if record else None,
            has_token=b"authorization" in headers,
            is_forwarded=_has_any(headers, _OF_A_PROXY),
        )

    def _find(self, token: str) -> TokenRecord | None:
        try:
            return self._tokens.find(token)
        except UserError as error:
            logger.error("no token is accepted: %s", error)
            return None


def _has_any(headers: dict[bytes, bytes], names: Iterable[bytes]) -> bool:
    return any(name in headers for name in names)


def too_often(wait_s: float) -> RefusedError:
    """The refusal of a request that comes too soon."""
    return RefusedError(
        429,
        "too many requests",
        detail="this token or address asks too often",
        fix="come again after Retry-After seconds",
        headers={"Retry-After": str(math.ceil(wait_s))},
    )


def reader(*, is_open: bool) -> Callable[[Request], None]:
    """What a route that reads depends on.

    Args:
        is_open: whether a request from this machine itself needs no token.
    """

    def check(request: Request) -> None:
        caller: Caller = request.state.caller
        if caller.scope is None and (caller.has_token or caller.is_forwarded or not is_open):
            raise _unknown(caller)

    return check


def submitter(limits: Limits) -> Callable[[Request], None]:
    """What a route that begins or stops a study depends on: a token of that scope, wherever the request comes from.

    A browser never adds the header of a token by itself, so no page of another site can use the one of this page.
    """
    pace = Pace(limits.submissions_per_min / 60, max(1.0, limits.submissions_per_min))

    def check(request: Request) -> None:
        caller: Caller = request.state.caller
        if caller.scope is None:
            raise _unknown(caller, scope="submit")
        if caller.scope != "submit":
            raise RefusedError(
                403,
                "not allowed",
                detail="this token may read, not submit",
                fix="afp token new NAME --scope submit makes one that may",
                headers={"WWW-Authenticate": 'Bearer realm="afp_ray", error="insufficient_scope", scope="submit"'},
            )
        if wait_s := pace.wait_s(caller.key):
            raise too_often(wait_s)

    return check


def _unknown(caller: Caller, scope: str = "read") -> RefusedError:
    if caller.has_token:
        detail, error = "the token is unknown, expired or revoked", ', error="invalid_token"'
    elif caller.is_forwarded and scope == "read":
        detail, error = "a proxy has passed this request on, so it needs a token", ""
    else:
        detail, error = f"to {scope} needs a token", ""
    return RefusedError(
        401,
        "a token is needed",
        detail=detail,
        fix="send it in the header Authorization, as Bearer; afp token new NAME makes one",
        headers={"WWW-Authenticate": f'Bearer realm="afp_ray"{error}'},
    )
