"""The HTTP API under /v1: the answers of the command line, read-only, on this machine alone."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from afp_ray import __version__
from afp_ray.errors import AfpError, ConfigError, UnavailableError, UserError
from afp_ray.ledger import replay
from afp_ray.records import Best, Comparison, TrialStatus
from afp_ray.store import StudyPaths, list_studies
from afp_ray.tracking.redaction import redacted
from services import answers
from services.kept import kept
from services.reports.incomplete import incomplete_grids
from services.reports.page import render_report
from services.running import answers_of
from services.schemas import Health, Problem, StudyDetail, StudyStatus, TrialDetail, TrialPage
from services.studies import kept_study, paths_of

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
_PROBLEMS: dict[int | str, dict[str, object]] = {code: {"model": Problem} for code in (400, 404, 409, 422, 500, 503)}

Name = Annotated[str, InPath(max_length=64, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
TrialId = Annotated[str, InPath(max_length=64, pattern=r"^[0-9a-f]+$")]
Word = Annotated[str | None, Query(max_length=200)]
Sort = Literal["planned_at", "objective", "gpu_hours", "arm", "seed", "status"]


class NotFoundError(AfpError):
    """The address names a study or trial that does not exist."""


def create_app(storage: Path, *, hosts: Sequence[str] = LOOPBACK_NAMES) -> FastAPI:
    """The application over the studies under `storage`.

    Args:
        storage: folder of the studies.
        hosts: names that it answers to; any other in a request's Host is refused.
    """
    app = FastAPI(
        title="afp_ray",
        version=__version__,
        docs_url=None,  # the interactive pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        responses=_PROBLEMS,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.middleware("http")(_with_headers)
    app.add_middleware(HeadAsGet)
    _add_problems(app)
    _add_studies(app, storage)
    _add_answers(app, storage)
    return app


class HeadAsGet:
    """Answers HEAD as GET without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, without_body)


async def _with_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _add_studies(app: FastAPI, storage: Path) -> None:
    @app.get("/v1/health")
    def health() -> Health:
        """Whether the service answers."""
        return Health(version=__version__, storage=str(storage), studies=len(list_studies(storage)))

    @app.get("/v1/studies")
    def studies() -> list[StudyStatus]:
        """How far every study is."""
        found = answers.all_statuses(storage)
        return [StudyStatus.model_validate(redacted(status.model_dump(mode="json"))) for status in found]

    @app.get("/v1/studies/{name}")
    def study(name: Name) -> StudyDetail:
        """How far a study is, and what it asks."""
        _known(storage, name)
        found = StudyDetail(status=answers.status_answer(storage, name), config=kept_study(paths_of(storage, name)))
        return StudyDetail.model_validate(redacted(found.model_dump(mode="json")))

    @app.get("/v1/studies/{name}/trials")
    def trials(
        name: Name,
        arm: Word = None,
        status: TrialStatus | None = None,
        sort: Sort = "planned_at",
        descending: bool = False,
        offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> TrialPage:
        """Trials of a study; those without the sorted value come last."""
        _known(storage, name)
        chosen = str(status) if status else None
        return answers.trial_page(
            storage, name, arm=arm, status=chosen, sort=sort, descending=descending, offset=offset, limit=limit
        )

    @app.get("/v1/studies/{name}/trials/{trial_id}")
    def trial(name: Name, trial_id: TrialId) -> TrialDetail:
        """One trial with its scores."""
        if replay(_known(storage, name).ledger).trial(trial_id) is None:
            raise NotFoundError(f"study {name} has no trial {trial_id}")
        return answers.trial_answer(storage, name, trial_id)


def _add_answers(app: FastAPI, storage: Path) -> None:
    @app.get("/v1/studies/{name}/best")
    def best(
        name: Name, metric: Word = None, language: Word = None, under: Annotated[list[str] | None, Query()] = None
    ) -> Best:
        """The best configuration; `under=gpu_hours=2` limits what a trial may cost."""
        _known(storage, name)
        limits = dict(parse_limit(text) for text in under or [])
        return answers.best_answer(storage, name, metric=metric, language=language, under=limits)

    @app.get("/v1/studies/{name}/comparison")
    def comparison(name: Name) -> Comparison:
        """The ablation table."""
        paths = _known(storage, name)
        return kept(paths, {"kind": "comparison"}, lambda: answers.comparison_answer(storage, [name]), Comparison)

    @app.get("/v1/studies/{name}/report", response_class=HTMLResponse)
    def report(name: Name) -> HTMLResponse:
        """The HTML report, made from what is there now."""
        paths = _known(storage, name)
        page = kept(paths, {"kind": "report"}, lambda: _report(paths), Page)
        return HTMLResponse(page.html, headers={"Content-Security-Policy": _REPORT_POLICY})


class Page(BaseModel):
    """A report as it is kept."""

    html: str


def _report(paths: StudyPaths) -> Page:
    table, found, _ = answers_of(paths)
    state = replay(paths.ledger)
    parts = incomplete_grids(paths, state.trials)
    return Page(html=render_report(kept_study(paths), answers.status_of(paths), state, table, found, incomplete=parts))


def _known(storage: Path, name: str) -> StudyPaths:
    try:
        return paths_of(storage, name)
    except UserError as error:
        raise NotFoundError(error.problem) from error


def parse_limit(text: str) -> tuple[str, float]:
    """`gpu_hours=2` as a name and a number.

    Raises: ConfigError for anything else.
    """
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no limit", fix="write under=gpu_hours=2") from error


def _add_problems(app: FastAPI) -> None:
    """Every failure as one JSON form; what was not foreseen is logged, and its details stay here."""

    def answer(problem: Problem) -> JSONResponse:
        problem = Problem.model_validate(redacted(problem.model_dump(mode="json")))
        return JSONResponse(problem.model_dump(), status_code=problem.status, media_type="application/problem+json")

    @app.exception_handler(NotFoundError)
    def not_found(_: Request, error: NotFoundError) -> JSONResponse:
        return answer(Problem(status=404, title="not found", detail=str(error)))

    @app.exception_handler(UserError)
    def refused(_: Request, error: UserError) -> JSONResponse:
        code = 422 if isinstance(error, ConfigError) else 409
        detail = f"{error.where}: {error.problem}" if error.where else error.problem
        title = "cannot be answered" if code == 409 else "bad request"
        return answer(Problem(status=code, title=title, detail=detail, allowed=error.allowed, fix=error.fix))

    @app.exception_handler(UnavailableError)
    def away(_: Request, error: UnavailableError) -> JSONResponse:
        return answer(Problem(status=503, title="away for now", detail=str(error), fix="try again later"))

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return answer(Problem(status=422, title="bad request", detail=f"{place}: {first['msg']}"))

    @app.exception_handler(HTTPException)
    def http(_: Request, error: HTTPException) -> JSONResponse:
        told = str(error.detail)
        fix = "see /v1/openapi.json for what can be asked"
        problem = answer(Problem(status=error.status_code, title=told.lower(), detail=told, fix=fix))
        problem.headers.update(error.headers or {})
        return problem

    @app.exception_handler(Exception)
    def unexpected(_: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected error", exc_info=error)
        return answer(Problem(status=500, title="unexpected error", detail="the service's log has the details"))
