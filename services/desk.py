"""Has the answers of the API computed apart from the loop that listens, and wraps them as JSON or as a page."""

from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from pydantic_core import to_json

from afp_ray.redaction import redact_json
from afp_ray.store import StudyPaths
from services.answer_cache import mark_of
from services.computations import Computations
from services.views.html import POLICY

_REPORT_HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'self'",  # the page of the studies shows it
    "X-Frame-Options": "SAMEORIGIN",
}


class Page(BaseModel):
    """A report as it is kept."""

    html: str


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
        return HTMLResponse(body, headers=_REPORT_HEADERS)

    @asynccontextmanager
    async def open(self, _: FastAPI) -> AsyncIterator[None]:
        """Drop what waits for an answer when the service ends."""
        yield
        self._quick.close()
        self._long.close()

    async def _body(
        self, computations: Computations, request: Request, name: str | None, compute: Callable[[], object]
    ) -> bytes:
        return await computations.answer(self._question(request, name), lambda: as_json(compute()))

    def _question(self, request: Request, name: str | None) -> Hashable:
        """Equal for requests that must get equal answers: a ledger that has grown makes another question."""
        grown = mark_of(StudyPaths(self._storage, name).ledger) if name else None
        return request.url.path, request.url.query, tuple(grown or ())


def as_json(value: object) -> bytes:
    """An answer as it leaves: without secrets, and without numbers that JSON does not have."""
    return redact_json(to_json(value, inf_nan_mode="null").decode()).encode()
