"""A Ray dashboard without a Ray: the Jobs API over a table of jobs, with faults on request.

A job's command is never run: a test says what it prints and how it ends. Ray's own answers are kept to the letter
where our code reads them: a second submission of an id is a 500 with a traceback, a job that is not there a 404.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

VERSION = "2.60.0"


@dataclass
class FakeJob:
    entrypoint: str
    runtime_env: dict[str, Any]
    metadata: dict[str, str]
    status: str = "PENDING"
    exit_code: int | None = None
    log: str = ""

    def end(self, exit_code: int, log: str = "") -> None:
        """Let the command end."""
        self.log += log
        self.exit_code = exit_code
        self.status = "SUCCEEDED" if exit_code == 0 else "FAILED"


@dataclass
class FakeDashboard:
    """What a test sees of the server; `faults` are used up one by one by the submissions that arrive."""

    address: str = ""
    token: str | None = None
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    packages: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    """`500` and `503` answer so and do nothing; `lost` does the work and never answers; `refused` drops the request."""
    submissions: int = 0
    tails: int = 0
    cut_tail_after: int | None = None
    """Characters after which the first log connection breaks."""
    on_submit: Callable[[FakeJob], None] = lambda job: None
    on_tail: Callable[[FakeJob], None] = lambda job: None
    """Called when a log connection that is not cut has sent what there is."""

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._with_token])
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/packages/{protocol}/{name}", self._package)
        app.router.add_put("/api/packages/{protocol}/{name}", self._upload)
        app.router.add_post("/api/jobs/", self._submit)
        app.router.add_get("/api/jobs/{id}", self._info)
        app.router.add_get("/api/jobs/{id}/logs", self._logs)
        app.router.add_get("/api/jobs/{id}/logs/tail", self._tail)
        return app

    @web.middleware
    async def _with_token(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401, text="Unauthorized: Missing authentication token")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": VERSION, "ray_commit": "", "session_name": "s"})

    async def _package(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["name"] in self.packages else 404)

    async def _upload(self, request: web.Request) -> web.Response:
        self.packages[request.match_info["name"]] = await request.read()
        return web.Response()

    async def _submit(self, request: web.Request) -> web.Response:
        content = await request.json()
        self.submissions += 1
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "refused":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault in ("500", "503"):
            return web.Response(status=int(fault), text="No available agent to submit job, please try again later.")
        name = content["submission_id"]
        if name in self.jobs:
            text = f"Traceback (most recent call last):\nRuntimeError: Job with submission_id {name} already exists."
            return web.Response(status=500, text=text)
        job = FakeJob(content["entrypoint"], content["runtime_env"], content["metadata"], status="RUNNING")
        self.jobs[name] = job
        self.on_submit(job)
        if fault == "lost":
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"job_id": name, "submission_id": name})

    async def _info(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            return web.Response(status=404, text="does not exist")
        message = f"Job entrypoint command failed with exit code {job.exit_code}" if job.exit_code else ""
        return web.json_response(
            {
                "type": "SUBMISSION",
                "submission_id": request.match_info["id"],
                "status": job.status,
                "entrypoint": job.entrypoint,
                "metadata": job.metadata,
                "driver_exit_code": job.exit_code,
                "message": message,
            }
        )

    async def _logs(self, request: web.Request) -> web.Response:
        return web.json_response({"logs": self.jobs[request.match_info["id"]].log})

    async def _tail(self, request: web.Request) -> web.WebSocketResponse:
        job = self.jobs[request.match_info["id"]]
        self.tails += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        sent = 0
        while not socket.closed:
            is_over, text = job.status not in ("PENDING", "RUNNING"), job.log[sent:]
            if self.cut_tail_after is not None:
                text = text[: self.cut_tail_after]
            if text:
                await socket.send_str(text)
                sent += len(text)
            if self.cut_tail_after is not None:
                self.cut_tail_after = None
                assert request.transport is not None
                request.transport.abort()
                break
            if is_over:
                break
            self.on_tail(job)
            await asyncio.sleep(0.02)
        return socket


@contextmanager
def dashboard(**fields: Any) -> Iterator[FakeDashboard]:
    """A server on a free port of the loopback for the length of the block."""
    fake = FakeDashboard(**fields)
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(fake.app(), access_log=None)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port: int = runner.addresses[0][1]
        return port

    fake.address = f"http://127.0.0.1:{loop.run_until_complete(start())}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
