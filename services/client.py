"""A typed client of the API, in two forms of one shape: `Client` waits for an answer, `AsyncClient` is awaited."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import ValidationError

from afp_ray.config import StudyConfig
from afp_ray.errors import AfpError, UnavailableError
from afp_ray.records import Best, Comparison
from services import calls
from services.calls import Call, EventReader, StudyEvent
from services.schemas import Health, Problem, StudyDetail, StudyStatus, TrialDetail, TrialPage
from services.service_schemas import Pareto, Stopped, Submitted, TrainingCurve

_Answer = TypeVar("_Answer")
Sent = StudyConfig | Mapping[str, Any] | str | Path
"""A study: itself, its content, its file, or the name of one that ships."""
SILENCE_S = 45.0
"""A stream without so much as a comment for so long is taken for broken; the service sends one every 15 seconds."""
_AGAIN = (429, 503)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ApiError(AfpError):
    """The API refused a request.

    Args:
        problem: what it answered.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}" if problem.detail else problem.title)


class _Settings:
    """Where a client asks, as whom, and how long it waits.

    Args:
        base_url: where the service listens.
        token: its bearer token; None takes AFP_TOKEN, and none where that is not set.
        timeout_s: seconds to wait for an answer; `best` and `comparison` compute.
        patience_s: seconds in which a request is sent again where the service asks to come again (429 and 503).
    Raises: ValueError for what is no address, or one at which a token would cross the network unprotected.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        timeout_s: float = 60.0,
        patience_s: float = 30.0,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url {base_url!r} must begin with http:// or https://")
        token = token or os.environ.get("AFP_TOKEN") or None
        if token and base_url.startswith("http://") and urlsplit(base_url).hostname not in _LOOPBACK:
            raise ValueError(f"a token would cross the network unprotected on its way to {base_url}; use https://")
        self.base_url, self.timeout_s, self.patience_s = base_url.rstrip("/"), timeout_s, patience_s
        # No connection is kept: the service closes idle ones after seconds, and nothing is left open by who forgets.
        self._http: dict[str, Any] = {
            "headers": {"Authorization": f"Bearer {token}"} if token else {},
            "timeout": httpx2.Timeout(timeout_s),
            "limits": httpx2.Limits(max_keepalive_connections=0),
        }

    def _request(self, call: Call[Any]) -> dict[str, Any]:
        query = {name: value for name, value in call.query.items() if value is not None}
        return {
            "method": call.method,
            "url": f"{self.base_url}{call.path}",
            "params": query,
            "content": call.body,
            "headers": dict(call.headers),
        }

    def _stream(self, name: str, position: int) -> dict[str, Any]:
        headers = {"Last-Event-ID": str(position)} if position else {}
        url = f"{self.base_url}{calls.path_of(name, 'events')}"
        return {"method": "GET", "url": url, "headers": headers, "timeout": httpx2.Timeout(SILENCE_S)}

    def _away(self, error: Exception) -> UnavailableError:
        return UnavailableError(f"no answer from {self.base_url}: {error or type(error).__name__}")

    def _pause_s(self, answer: httpx2.Response, until: float) -> float | None:
        """Seconds after which to ask again; None where that is not asked for, or too late."""
        if answer.status_code not in _AGAIN:
            return None
        asked = answer.headers.get("retry-after", "")
        pause_s = float(asked) if asked.isdecimal() else 1.0
        return pause_s if time.monotonic() + pause_s <= until else None


def _read(answer: httpx2.Response, call: Call[_Answer]) -> _Answer:
    if answer.is_success:
        return call.read(answer.content)
    raise _error(answer.status_code, answer.content)


def _error(status: int, body: bytes) -> ApiError:
    try:
        return ApiError(Problem.model_validate_json(body))
    except ValidationError:
        detail = json.dumps(body[:200].decode("utf-8", "replace"))
        return ApiError(Problem(status=status, title="the service refused", detail=detail))


class Client(_Settings):
    """Asks a service started by `afp serve`; every method waits for its answer.

    Raises, in each method: ApiError when the service refuses; UnavailableError when it does not answer.
    """

    def health(self) -> Health:
        """Whether the service answers."""
        return self._do(calls.health())

    def studies(self) -> list[StudyStatus]:
        """How far every study is."""
        return self._do(calls.studies())

    def study(self, name: str) -> StudyDetail:
        """How far a study is, and what it asks."""
        return self._do(calls.study(name))

    def trials(
        self,
        name: str,
        *,
        arm: str | None = None,
        status: str | None = None,
        sort: str = "planned_at",
        descending: bool = False,
        offset: int = 0,
        limit: int = 100,
    ) -> TrialPage:
        """A page of the trials of a study."""
        query = {"arm": arm, "status": status, "sort": sort, "offset": offset, "limit": limit}
        return self._do(calls.trials(name, descending=descending, **query))

    def trial(self, name: str, trial_id: str) -> TrialDetail:
        """One trial with its scores."""
        return self._do(calls.trial(name, trial_id))

    def curve(self, name: str, trial_id: str, *, points: int = 500) -> TrainingCurve:
        """Metrics of a training by step, at most `points` steps."""
        return self._do(calls.curve(name, trial_id, points))

    def best(
        self,
        name: str,
        *,
        metric: str | None = None,
        language: str | None = None,
        under: Mapping[str, float] | None = None,
    ) -> Best:
        """The best configuration of a study."""
        return self._do(calls.best(name, metric, language, under))

    def pareto(self, name: str) -> Pareto:
        """Quality against cost of a study."""
        return self._do(calls.pareto(name))

    def comparison(self, name: str) -> Comparison:
        """The ablation table of a study."""
        return self._do(calls.comparison(name))

    def report(self, name: str) -> str:
        """The HTML report of a study."""
        return self._do(calls.report(name))

    def submit(self, study: Sent, *, key: str | None = None) -> Submitted:
        """Run a study, or find the one that runs; needs a token of scope `submit`."""
        return self._do(calls.submit(study, key))

    def stop(self, name: str, *, now: bool = False) -> Stopped:
        """Ask a study to stop after its running trials, or at once; needs a token of scope `submit`."""
        return self._do(calls.stop(name, now=now))

    def events(self, name: str, *, after: int = 0) -> Iterator[StudyEvent]:
        """Events of a study from a position on, along with its driver to its end; a broken connection is made again."""
        reader, until = EventReader(after), time.monotonic() + self.patience_s
        while True:
            try:
                with self._open() as http, http.stream(**self._stream(name, reader.position)) as answer:
                    if not answer.is_success:
                        raise _error(answer.status_code, answer.read())
                    for line in answer.iter_lines():
                        until = time.monotonic() + self.patience_s
                        for event in reader.read(line):
                            yield event
                            if event.is_end:
                                return
            except httpx2.TransportError as error:
                if time.monotonic() > until:
                    raise self._away(error) from error
            time.sleep(1)

    def wait(self, name: str) -> StudyStatus:
        """The status of a study once its driver has ended."""
        for event in self.events(name):
            if event.is_end and event.status is not None:
                return event.status
        raise UnavailableError(f"the events of {name} cannot be followed to their end")

    def _open(self) -> httpx2.Client:
        return httpx2.Client(**self._http)

    def _do(self, call: Call[_Answer]) -> _Answer:
        until = time.monotonic() + self.patience_s
        with self._open() as http:
            while True:
                try:
                    answer = http.request(**self._request(call))
                except httpx2.TransportError as error:
                    raise self._away(error) from error
                pause_s = self._pause_s(answer, until)
                if pause_s is None:
                    return _read(answer, call)
                time.sleep(pause_s)


class AsyncClient(_Settings):
    """The same, each method awaited; `events` is for `async for`.

    Raises, in each method: ApiError when the service refuses; UnavailableError when it does not answer.
    """

    async def health(self) -> Health:
        """Whether the service answers."""
        return await self._do(calls.health())

    async def studies(self) -> list[StudyStatus]:
        """How far every study is."""
        return await self._do(calls.studies())

    async def study(self, name: str) -> StudyDetail:
        """How far a study is, and what it asks."""
        return await self._do(calls.study(name))

    async def trials(
        self,
        name: str,
        *,
        arm: str | None = None,
        status: str | None = None,
        sort: str = "planned_at",
        descending: bool = False,
        offset: int = 0,
        limit: int = 100,
    ) -> TrialPage:
        """A page of the trials of a study."""
        query = {"arm": arm, "status": status, "sort": sort, "offset": offset, "limit": limit}
        return await self._do(calls.trials(name, descending=descending, **query))

    async def trial(self, name: str, trial_id: str) -> TrialDetail:
        """One trial with its scores."""
        return await self._do(calls.trial(name, trial_id))

    async def curve(self, name: str, trial_id: str, *, points: int = 500) -> TrainingCurve:
        """Metrics of a training by step, at most `points` steps."""
        return await self._do(calls.curve(name, trial_id, points))

    async def best(
        self,
        name: str,
        *,
        metric: str | None = None,
        language: str | None = None,
        under: Mapping[str, float] | None = None,
    ) -> Best:
        """The best configuration of a study."""
        return await self._do(calls.best(name, metric, language, under))

    async def pareto(self, name: str) -> Pareto:
        """Quality against cost of a study."""
        return await self._do(calls.pareto(name))

    async def comparison(self, name: str) -> Comparison:
        """The ablation table of a study."""
        return await self._do(calls.comparison(name))

    async def report(self, name: str) -> str:
        """The HTML report of a study."""
        return await self._do(calls.report(name))

    async def submit(self, study: Sent, *, key: str | None = None) -> Submitted:
        """Run a study, or find the one that runs; needs a token of scope `submit`."""
        return await self._do(calls.submit(study, key))

    async def stop(self, name: str, *, now: bool = False) -> Stopped:
        """Ask a study to stop after its running trials, or at once; needs a token of scope `submit`."""
        return await self._do(calls.stop(name, now=now))

    async def events(self, name: str, *, after: int = 0) -> AsyncIterator[StudyEvent]:
        """Events of a study from a position on, along with its driver to its end; a broken connection is made again."""
        reader, until = EventReader(after), time.monotonic() + self.patience_s
        while True:
            try:
                async with self._open() as http, http.stream(**self._stream(name, reader.position)) as answer:
                    if not answer.is_success:
                        raise _error(answer.status_code, await answer.aread())
                    async for line in answer.aiter_lines():
                        until = time.monotonic() + self.patience_s
                        for event in reader.read(line):
                            yield event
                            if event.is_end:
                                return
            except httpx2.TransportError as error:
                if time.monotonic() > until:
                    raise self._away(error) from error
            await asyncio.sleep(1)

    async def wait(self, name: str) -> StudyStatus:
        """The status of a study once its driver has ended."""
        async for event in self.events(name):
            if event.is_end and event.status is not None:
                return event.status
        raise UnavailableError(f"the events of {name} cannot be followed to their end")

    def _open(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(**self._http)

    async def _do(self, call: Call[_Answer]) -> _Answer:
        until = time.monotonic() + self.patience_s
        async with self._open() as http:
            while True:
                try:
                    answer = await http.request(**self._request(call))
                except httpx2.TransportError as error:
                    raise self._away(error) from error
                pause_s = self._pause_s(answer, until)
                if pause_s is None:
                    return _read(answer, call)
                await asyncio.sleep(pause_s)
