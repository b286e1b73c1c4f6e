"""How the API says that a request failed: one JSON form for every status, and no trace of what went wrong inside."""

import logging
from collections.abc import Mapping
from types import MappingProxyType

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from afp_ray.errors import AfpError, UnavailableError, UserError
from afp_ray.redaction import redacted
from services.schemas import Problem

logger = logging.getLogger(__name__)

_SEE = "see /docs, or /v1/openapi.json, for what can be asked"
_RETRY_S = 5
PROBLEM = "application/problem+json"


class NotFoundError(UserError):
    """The address names a study or trial that does not exist."""


class RefusedError(AfpError):
    """The service does not take a request as it is.

    Args:
        status: of HTTP.
        title, detail, allowed, fix: of the problem.
        headers: beside it.
    """

    def __init__(
        self,
        status: int,
        title: str,
        *,
        detail: str,
        allowed: str = "",
        fix: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.problem = Problem(status=status, title=title, detail=detail, allowed=allowed, fix=fix)
        self.headers = headers
        super().__init__(detail)


def problem_answer(refusal: RefusedError) -> JSONResponse:
    """The answer to a request that is refused."""
    answer = _answer(refusal.problem)
    answer.headers.update(refusal.headers)
    return answer


def _answer(problem: Problem) -> JSONResponse:
    problem = Problem.model_validate(redacted(problem.model_dump(mode="json")))
    return JSONResponse(problem.model_dump(), status_code=problem.status, media_type=PROBLEM)


def add_problems(app: FastAPI) -> None:
    """Every failure as one JSON form; what was not foreseen is logged, and its details stay here."""

    @app.exception_handler(RefusedError)
    async def not_taken(_: Request, error: RefusedError) -> JSONResponse:
        return problem_answer(error)

    @app.exception_handler(NotFoundError)
    async def not_found(_: Request, error: NotFoundError) -> JSONResponse:
        fields = {"detail": error.problem, "allowed": error.allowed, "fix": error.fix}
        return _answer(Problem(status=404, title="not found", **fields))

    @app.exception_handler(UserError)
    async def refused(_: Request, error: UserError) -> JSONResponse:
        detail = f"{error.where}: {error.problem}" if error.where else error.problem
        fields = {"title": "cannot be answered", "detail": detail, "allowed": error.allowed, "fix": error.fix}
        return _answer(Problem(status=409, **fields))

    @app.exception_handler(UnavailableError)
    async def away(_: Request, error: UnavailableError) -> JSONResponse:
        problem = _answer(Problem(status=503, title="away for now", detail=str(error), fix="try again later"))
        problem.headers["Retry-After"] = str(_RETRY_S)
        return problem

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        detail = f"{field}: {first['msg']}"
        return _answer(Problem(status=422, title="bad request", detail=detail, fix=_SEE))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        detail, fix = str(error.detail), _SEE
        if error.status_code == 405:
            headers["Allow"] = ", ".join(methods_of(app, request))
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
            detail = f"{request.method[:20]} is not allowed here"
        elif error.status_code == 404:
            detail = f"there is nothing at {request.url.path[:200]}"
            fix = f"GET /v1/studies lists the studies; {_SEE}"
        title, allowed = str(error.detail).lower(), headers.get("Allow", "")
        problem = _answer(Problem(status=error.status_code, title=title, detail=detail, allowed=allowed, fix=fix))
        problem.headers.update(headers)
        return problem

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected error", exc_info=error)
        return _answer(Problem(status=500, title="unexpected error", detail="the service's log has the details"))


def methods_of(app: FastAPI, request: Request) -> list[str]:
    """Methods that the address of a request answers to; HEAD wherever GET."""
    found = {"OPTIONS"}
    for route in app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found |= set(getattr(route, "methods", None) or ())
    if "GET" in found:
        found.add("HEAD")
    return sorted(found, key=("GET", "HEAD", "POST", "DELETE", "OPTIONS").index)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The JSON that a request brings, as it was sent.

    Raises: RefusedError: 415 for another kind of content, 413 for more than `max_bytes`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(
            415, "unsupported media type", detail=f"the body is {kind[:80] or 'of no kind'}", allowed="application/json"
        )
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise RefusedError(413, "too large", detail="the body is too large", allowed=f"{max_bytes} bytes")
    return body
