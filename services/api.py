"""The HTTP API under /v1: the answers of the command line, read-only, on this machine alone."""

import logging
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, StringConstraints
from pydantic_core import to_json
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from afp_ray import __version__
from afp_ray.comparison.best_arm import LIMITS
from afp_ray.errors import AfpError, UnavailableError, UserError
from afp_ray.ledger import replay
from afp_ray.records import Best, Comparison, TrialStatus
from afp_ray.redaction import redact_json, redacted
from afp_ray.store import StudyPaths, list_studies, read_study
from services import answers
from services.answer_cache import cached_answer, mark_of
from services.computations import DEADLINE_S, Computations
from services.reports import report_page
from services.schemas import Health, Problem, StudyDetail, StudyStatus, TrialDetail, TrialPage
from services.status import all_statuses, status_of, trial_answer, trial_page
from services.studies import paths_of

logger = logging.getLogger(__name__)

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALLOW = {"Allow": "GET, HEAD, OPTIONS"}
_SEE = "see /v1/openapi.json for what can be asked"
_RETRY_S = 5
_PROBLEM = "application/problem+json"
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"content": {_PROBLEM: {"schema": Problem.model_json_schema()}}} for code in (400, 404, 409, 422, 500, 503)
}
_PLAIN = {"text/plain": {"schema": {"type": "string"}}}
for _code in (400, 503):  # what the server and the check of names say before a request reaches the application
    _PROBLEMS[_code]["content"] |= _PLAIN
_PROBLEMS[503]["headers"] = {"Retry-After": {"description": "in so many seconds", "schema": {"type": "integer"}}}

Name = Annotated[str, InPath(max_length=64, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
TrialId = Annotated[str, InPath(max_length=64, pattern=r"^[0-9a-f]+$")]
Word = Annotated[str | None, Query(max_length=200)]
_LIMIT = rf"^({'|'.join(LIMITS)})=[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{{1,4}})?$"
Limit = Annotated[str, StringConstraints(max_length=100, pattern=_LIMIT)]
Sort = Literal["planned_at", "objective", "gpu_hours", "arm", "seed", "status"]


class NotFoundError(AfpError):
    """The address names a study or trial that does not exist."""


def create_app(storage: Path, *, hosts: Sequence[str] = LOOPBACK_NAMES, deadline_s: float = DEADLINE_S) -> FastAPI:
    """The application over the studies under `storage`.

    Args:
        storage: folder of the studies.
        hosts: names that it answers to; any other in a request's Host is refused.
        deadline_s: seconds that an answer may take before its asker is told to come again.
    """
    desk = Desk(storage, deadline_s)
    app = FastAPI(
        title="afp_ray",
        version=__version__,
        docs_url=None,  # the interactive pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        responses=_PROBLEMS,
        lifespan=desk.open,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(ReadOnly)
    _add_problems(app)
    _add_studies(app, storage, desk)
    _add_answers(app, storage, desk)
    return app


class ReadOnly:
    """Answers HEAD as GET without the body, and gives every answer the headers of a service that browsers may reach."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"

        async def send_changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"} if is_head else scope, receive, send_changed)


class Desk:
    """Has answers computed apart from the loop that listens, and wraps them.

    Args:
        storage: folder of the studies.
        deadline_s: seconds that an asker waits at most.
    """

    def __init__(self, storage: Path, deadline_s: float) -> None:
        self._storage = storage
        self._quick = Computations(at_once=4, deadline_s=deadline_s)
        self._long = Computations(at_once=2, deadline_s=deadline_s)

    async def quick(self, request: Request, compute: Callable[[], object], *, name: str | None = None) -> Response:
        """An answer of milliseconds, as JSON."""
        return Response(await self._body(self._quick, request, name, compute), media_type="application/json")

    async def long(self, request: Request, compute: Callable[[], object], *, name: str) -> Response:
        """An answer of seconds, as JSON."""
        return Response(await self._body(self._long, request, name, compute), media_type="application/json")

    async def page(self, request: Request, compute: Callable[[], "Page"], *, name: str) -> Response:
        """An answer of seconds, as a page."""
        body = await self._long.answer(self._question(request, name), lambda: compute().html.encode())
        return HTMLResponse(body, headers={"Content-Security-Policy": _REPORT_POLICY})

    @asynccontextmanager
    async def open(self, _: FastAPI) -> AsyncIterator[None]:
        """Drop what waits for an answer when the service ends."""
        yield
        self._quick.close()
        self._long.close()

    async def _body(
        self, computations: Computations, request: Request, name: str | None, compute: Callable[[], object]
    ) -> bytes:
        return await computations.answer(self._question(request, name), lambda: _json(compute()))

    def _question(self, request: Request, name: str | None) -> Hashable:
        """Equal for requests that must get equal answers: a ledger that has grown makes another question."""
        grown = mark_of(StudyPaths(self._storage, name).ledger) if name else None
        return request.url.path, request.url.query, tuple(grown or ())


def _json(value: object) -> bytes:
    return redact_json(to_json(value, inf_nan_mode="null").decode()).encode()


def _add_studies(app: FastAPI, storage: Path, desk: Desk) -> None:
    @app.get("/v1/health", response_model=Health)
    async def health(request: Request) -> Response:
        """Whether the service answers."""

        def compute() -> Health:
            return Health(version=__version__, storage=str(storage), studies=len(list_studies(storage)))

        return await desk.quick(request, compute)

    @app.get("/v1/studies", response_model=list[StudyStatus])
    async def studies(request: Request) -> Response:
        """How far every study is."""
        return await desk.quick(request, lambda: all_statuses(storage))

    @app.get("/v1/studies/{name}", response_model=StudyDetail)
    async def study(request: Request, name: Name) -> Response:
        """How far a study is, and what it asks."""

        def compute() -> StudyDetail:
            paths = _known(storage, name)
            return StudyDetail(status=status_of(paths), config=read_study(paths))

        return await desk.quick(request, compute, name=name)

    @app.get("/v1/studies/{name}/trials", response_model=TrialPage)
    async def trials(
        request: Request,
        name: Name,
        arm: Word = None,
        status: TrialStatus | None = None,
        sort: Sort = "planned_at",
        descending: bool = False,
        offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Response:
        """Trials of a study; those without the sorted value come last."""

        def compute() -> TrialPage:
            _known(storage, name)
            chosen = str(status) if status else None
            return trial_page(
                storage, name, arm=arm, status=chosen, sort=sort, descending=descending, offset=offset, limit=limit
            )

        return await desk.quick(request, compute, name=name)

    @app.get("/v1/studies/{name}/trials/{trial_id}", response_model=TrialDetail)
    async def trial(request: Request, name: Name, trial_id: TrialId) -> Response:
        """One trial with its scores."""

        def compute() -> TrialDetail:
            if replay(_known(storage, name).ledger).trial(trial_id) is None:
                raise NotFoundError(f"study {name} has no trial {trial_id}")
            return trial_answer(storage, name, trial_id)

        return await desk.quick(request, compute, name=name)


def _add_answers(app: FastAPI, storage: Path, desk: Desk) -> None:
    @app.get("/v1/studies/{name}/best", response_model=Best)
    async def best(
        request: Request,
        name: Name,
        metric: Word = None,
        language: Word = None,
        under: Annotated[list[Limit] | None, Query(max_length=20)] = None,
    ) -> Response:
        """The best configuration; `under=gpu_hours=2` limits what the training of a trial may cost."""
        limits = {limit: float(value) for limit, value in (text.split("=") for text in under or [])}

        def compute() -> Best:
            _known(storage, name)
            return answers.best_answer(storage, name, metric=metric, language=language, under=limits)

        return await desk.long(request, compute, name=name)

    @app.get("/v1/studies/{name}/comparison", response_model=Comparison)
    async def comparison(request: Request, name: Name) -> Response:
        """The ablation table."""

        def compute() -> Comparison:
            paths = _known(storage, name)
            return cached_answer(
                paths, {"kind": "comparison"}, lambda: answers.comparison_answer(storage, [name]), Comparison
            )

        return await desk.long(request, compute, name=name)

    @app.get("/v1/studies/{name}/report", response_class=HTMLResponse)
    async def report(request: Request, name: Name) -> Response:
        """The HTML report, made from what is there now."""

        def compute() -> Page:
            paths = _known(storage, name)
            return cached_answer(paths, {"kind": "report"}, lambda: Page(html=report_page(paths)), Page)

        return await desk.page(request, compute, name=name)


class Page(BaseModel):
    """A report as it is kept."""

    html: str


def _known(storage: Path, name: str) -> StudyPaths:
    try:
        return paths_of(storage, name)
    except UserError as error:
        raise NotFoundError(error.problem) from error


def _add_problems(app: FastAPI) -> None:
    """Every failure as one JSON form; what was not foreseen is logged, and its details stay here."""

    def answer(problem: Problem) -> JSONResponse:
        problem = Problem.model_validate(redacted(problem.model_dump(mode="json")))
        return JSONResponse(problem.model_dump(), status_code=problem.status, media_type=_PROBLEM)

    @app.exception_handler(NotFoundError)
    async def not_found(_: Request, error: NotFoundError) -> JSONResponse:
        return answer(Problem(status=404, title="not found", detail=str(error)))

    @app.exception_handler(UserError)
    async def refused(_: Request, error: UserError) -> JSONResponse:
        detail = f"{error.where}: {error.problem}" if error.where else error.problem
        fields = {"title": "cannot be answered", "detail": detail, "allowed": error.allowed, "fix": error.fix}
        return answer(Problem(status=409, **fields))

    @app.exception_handler(UnavailableError)
    async def away(_: Request, error: UnavailableError) -> JSONResponse:
        problem = answer(Problem(status=503, title="away for now", detail=str(error), fix="try again later"))
        problem.headers["Retry-After"] = str(_RETRY_S)
        return problem

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        detail = f"{field}: {first['msg']}"
        return answer(Problem(status=422, title="bad request", detail=detail, fix=_SEE))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        headers = {**(error.headers or {}), **(_ALLOW if error.status_code == 405 else {})}
        if error.status_code == 405 and request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        detail = str(error.detail)
        problem = answer(Problem(status=error.status_code, title=detail.lower(), detail=detail, fix=_SEE))
        problem.headers.update(headers)
        return problem

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected error", exc_info=error)
        return answer(Problem(status=500, title="unexpected error", detail="the service's log has the details"))
