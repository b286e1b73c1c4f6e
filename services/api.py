"""The HTTP API under /v1: the answers of the command line, the events of a study, and studies begun and stopped."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import StringConstraints
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from afp_ray import __version__
from afp_ray.comparison.best_arm import LIMITS
from afp_ray.errors import UserError
from afp_ray.ledger import replay
from afp_ray.records import Best, Comparison, TrialStatus
from afp_ray.store import StudyPaths, list_studies, read_study
from services import answers
from services.answer_cache import cached_answer
from services.computations import DEADLINE_S
from services.curves import curve_answer
from services.desk import Desk, Page, as_json
from services.document import EVENT, EVERYWHERE, describe, problems_of
from services.events import Streams, require_position
from services.guard import DEFAULT_LIMITS, Guard, Limits, reader, submitter
from services.intake import DEFAULT_RULES, MAX_BYTES, Intake, Rules
from services.pages import add_pages
from services.problems import NotFoundError, add_problems, read_body
from services.reports import report_page
from services.schemas import Health, StudyDetail, StudyStatus, TrialDetail, TrialPage
from services.service_schemas import Pareto, Stopped, Submitted, TrainingCurve
from services.status import all_statuses, status_of, trial_answer, trial_page
from services.studies import match_id, paths_of
from services.tokens import Tokens

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Name = Annotated[str, InPath(max_length=64, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
TrialId = Annotated[str, InPath(max_length=64, pattern=r"^[0-9a-f]+$")]
Word = Annotated[str | None, Query(max_length=200)]
_LIMIT = rf"^({'|'.join(LIMITS)})=[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{{1,4}})?$"
Limit = Annotated[str, StringConstraints(max_length=100, pattern=_LIMIT)]
Sort = Literal["planned_at", "objective", "gpu_hours", "arm", "seed", "status"]


def create_app(
    storage: Path,
    *,
    hosts: Sequence[str] = LOOPBACK_NAMES,
    is_open: bool = True,
    limits: Limits = DEFAULT_LIMITS,
    rules: Rules = DEFAULT_RULES,
    deadline_s: float = DEADLINE_S,
) -> FastAPI:
    """The application over the studies under `storage`.

    Args:
        storage: folder of the studies, and of the tokens.
        hosts: names that it answers to; any other in a request's Host is refused, unless `*` is among them.
        is_open: whether a request from this machine itself may read without a token.
        limits: of one token or address.
        rules: what a study that is submitted may do, and who runs it.
        deadline_s: seconds that an answer may take before its asker is told to come again.
    """
    desk = Desk(storage, deadline_s)
    app = FastAPI(
        title="afp_ray",
        version=__version__,
        docs_url=None,  # the pages of the library load scripts from elsewhere; `pages` has our own
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        responses=problems_of(*EVERYWHERE),
        dependencies=[Depends(reader(is_open=is_open))],
        lifespan=desk.open,
    )
    app.add_middleware(Guard, tokens=Tokens(storage), limits=limits)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(Wrapping)
    add_problems(app)
    _add_studies(app, storage, desk)
    _add_answers(app, storage, desk)
    _add_events(app, storage)
    _add_intake(app, storage, Intake(storage, rules), Depends(submitter(limits)))
    describe(app, is_open=is_open)
    add_pages(app)
    return app


class Wrapping:
    """Answers HEAD as GET without the body, and gives every answer the headers of a service that browsers may reach."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"
        if is_head:
            scope = {**scope, "method": "GET", "is_head": True}

        async def send_changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app(scope, receive, send_changed)


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
            return trial_answer(storage, name, _whole_id(_known(storage, name), trial_id))

        return await desk.quick(request, compute, name=name)

    @app.get("/v1/studies/{name}/trials/{trial_id}/curve", response_model=TrainingCurve)
    async def curve(
        request: Request,
        name: Name,
        trial_id: TrialId,
        points: Annotated[int, Query(ge=2, le=2000)] = 500,
    ) -> Response:
        """Losses and other metrics of a training by step, also while it trains; at most `points` steps."""

        def compute() -> TrainingCurve:
            paths = _known(storage, name)
            identity = _whole_id(paths, trial_id)
            return curve_answer(paths.trial(identity).curve, identity, max_points=points)

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

    @app.get("/v1/studies/{name}/pareto", response_model=Pareto)
    async def pareto(request: Request, name: Name) -> Response:
        """Quality against cost: of every confirmed arm, and of the search of each where it has several objectives."""

        def compute() -> Pareto:
            _known(storage, name)
            best = answers.best_answer(storage, name)
            fields = ("study", "objective", "cheapest", "cost_note", "fronts")
            return Pareto(points=best.pareto, **{field: getattr(best, field) for field in fields})

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


def _add_events(app: FastAPI, storage: Path) -> None:
    streams = app.state.streams = Streams()
    content = {"text/event-stream": {"schema": EVENT}}

    @app.get("/v1/studies/{name}/events", response_class=StreamingResponse, responses={200: {"content": content}})
    async def events(
        request: Request, name: Name, last_event_id: Annotated[int, Header(ge=0, le=10**15)] = 0
    ) -> Response:
        """The events of a study along with its driver, as server-sent events; resumed by `Last-Event-ID`."""
        paths = await asyncio.to_thread(_known, storage, name)
        require_position(paths, last_event_id)
        streams.require_room()
        if request.scope.get("is_head"):
            return Response(media_type="text/event-stream")
        return StreamingResponse(streams.follow(paths, last_event_id), media_type="text/event-stream")


def _add_intake(app: FastAPI, storage: Path, intake: Intake, may_submit: Any) -> None:
    taken = {"model": Submitted, "description": "The study is begun or continued."}
    is_there = {"model": Submitted, "description": "The study is at work, or complete; nothing was started."}
    schema = {"$ref": "#/components/schemas/StudyFile"}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}

    @app.post(
        "/v1/studies",
        status_code=202,
        dependencies=[may_submit],
        responses={200: is_there, 202: taken, **problems_of(403, 413, 415)},
        openapi_extra={"requestBody": body},
    )
    async def submit(
        request: Request, idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None
    ) -> Response:
        """Check a study and run it. The same study again finds the one that runs or is complete; another one of that
        name is refused with the difference.
        """
        content = await read_body(request, MAX_BYTES)
        answer = await intake.submit(content, key=idempotency_key, caller=request.state.caller.key)
        code = 200 if answer.state in ("running", "complete") else 202
        where = {"Location": f"/v1/studies/{answer.study}"}
        return Response(as_json(answer), status_code=code, headers=where, media_type="application/json")

    @app.delete(
        "/v1/studies/{name}",
        response_model=Stopped,
        dependencies=[may_submit],
        responses=problems_of(403),
    )
    async def stop(name: Name, now: bool = False) -> Response:
        """Ask the driver of a study to stop after its running trials, or at once with `now`; no result is deleted."""
        answer = await intake.stop(name, lambda: _known(storage, name), now=now)
        return Response(as_json(answer), media_type="application/json")


def _known(storage: Path, name: str) -> StudyPaths:
    try:
        return paths_of(storage, name)
    except UserError as error:
        raise NotFoundError(error.problem, allowed=error.allowed, fix="GET /v1/studies lists the studies") from error


def _whole_id(paths: StudyPaths, digits: str) -> str:
    """The id of the one trial that begins with `digits`."""
    ids = [trial.trial_id for trial in replay(paths.ledger).trials]
    if not any(identity.startswith(digits) for identity in ids):
        raise NotFoundError(
            f"study {paths.name} has no trial {digits}", fix=f"GET /v1/studies/{paths.name}/trials lists its trials"
        )
    return match_id(digits, ids, where=f"study {paths.name}")
