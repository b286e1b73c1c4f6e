"""The ledger as server-sent events: all of it, from a position on, along with its driver, and to its end."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fabricate import event, fabricate, make_study

from afp_ray.ledger import CLOSED, Ledger
from afp_ray.store import StudyPaths
from services import events
from services.events import Streams
from services.schemas import StudyStatus

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    return fabricate(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def http(finished: StudyPaths) -> Any:
    from fastapi.testclient import TestClient

    from services.api import create_app

    return TestClient(create_app(finished.storage, hosts=["*"]), raise_server_exceptions=False)


def parsed(text: str) -> list[dict[str, str]]:
    """The events of a stream, each as its fields."""
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


def test_a_finished_study_is_told_whole_and_ends(finished: StudyPaths, http: Any) -> None:
    answer = http.get("/v1/studies/demo/events")
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    told = parsed(answer.text)
    lines = finished.ledger.read_bytes().splitlines(keepends=True)
    of_ledger = [item for item in told if item["event"] == "ledger"]
    assert [json.loads(item["data"])["state"] for item in of_ledger] == [json.loads(line)["state"] for line in lines]
    assert [int(item["id"]) for item in of_ledger] == [
        sum(map(len, lines[: number + 1])) for number in range(len(lines))
    ]
    assert [item["event"] for item in told[-2:]] == ["status", "end"]
    assert StudyStatus.model_validate_json(told[-1]["data"]).state == "complete"
    assert json.loads(of_ledger[-1]["data"])["state"] == CLOSED


def test_a_stream_goes_on_from_a_position_and_no_other(http: Any) -> None:
    positions = [item["id"] for item in parsed(http.get("/v1/studies/demo/events").text) if "id" in item]
    resumed = parsed(http.get("/v1/studies/demo/events", headers={"Last-Event-ID": positions[3]}).text)
    assert [item["id"] for item in resumed if "id" in item] == positions[4:]
    last = parsed(http.get("/v1/studies/demo/events", headers={"Last-Event-ID": positions[-1]}).text)
    assert [item["event"] for item in last] == ["status", "end"]
    for wrong, status in (
        (str(int(positions[3]) - 1), 409),
        (str(int(positions[-1]) + 5), 409),
        ("x", 422),
        ("-1", 422),
    ):
        assert http.get("/v1/studies/demo/events", headers={"Last-Event-ID": wrong}).status_code == status
    assert http.get("/v1/studies/none/events").status_code == 404
    head = http.head("/v1/studies/demo/events")
    assert (head.status_code, head.content, head.headers["content-type"].split(";")[0]) == (
        200,
        b"",
        "text/event-stream",
    )


async def until(stream: Any, kind: bytes) -> list[bytes]:
    """Pieces of a stream up to the first of a kind."""
    pieces: list[bytes] = []
    while not pieces or kind not in pieces[-1]:
        pieces.append(await asyncio.wait_for(anext(stream), 20))
    return pieces


def test_a_stream_goes_along_with_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "POLL_S", 0.05)
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.2)
    paths, study = StudyPaths(tmp_path, "demo"), make_study()

    async def follow() -> None:
        ledger = Ledger.open(paths, study)
        stream = Streams().follow(paths, 0)
        assert b"OPENED" in (await until(stream, b"event: status"))[0]
        assert await until(stream, b": still here")  # nothing happens, and nobody takes that for the end
        event(ledger, "PLANNED", 1.0, trial_id="a" * 16, arm="afp", seed=0, role="confirm", config={})
        assert b"PLANNED" in (await until(stream, b"event: ledger"))[-1]
        ledger.close("complete")
        pieces = await until(stream, b"event: end")
        assert b"CLOSED" in b"".join(pieces)
        assert b'"state": "complete"' in pieces[-1]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(follow())


def test_a_stream_ends_with_a_driver_that_dies_and_with_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "POLL_S", 0.05)
    paths = StudyPaths(tmp_path, "demo")

    async def follow() -> None:
        ledger = Ledger.open(paths, make_study())
        streams = Streams()
        first, second = streams.follow(paths, 0), streams.follow(paths, 0)
        await until(first, b"event: status")
        await until(second, b"event: status")
        streams.ending.set()
        with pytest.raises(StopAsyncIteration):
            await until(second, b"event: end")
        streams.ending.clear()
        ledger.release()
        assert b'"state": "dead"' in (await until(first, b"event: end"))[-1]

    asyncio.run(follow())


def test_no_more_streams_than_are_served(http: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_STREAMS", 0)
    answer = http.get("/v1/studies/demo/events")
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)


def test_a_damaged_line_ends_a_stream_with_its_reason(tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    lines = paths.ledger.read_bytes().splitlines(keepends=True)
    paths.ledger.write_bytes(b"".join([*lines[:2], b"{}\n", *lines[2:]]))

    async def follow() -> list[bytes]:
        return [piece async for piece in Streams().follow(paths, 0)]

    assert asyncio.run(follow())[-1].startswith(b"event: problem")
