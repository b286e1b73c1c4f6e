"""The client in both forms: one shape, typed answers, patience where the service asks for it, and followed events."""

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate, make_study
from fastapi import FastAPI, Response
from served import serving
from submitting import FakeDrivers

from afp_ray.config import StudyConfig, TrialConfig
from afp_ray.errors import ConfigError, UnavailableError
from afp_ray.ledger import replay
from afp_ray.store import StudyPaths
from services.api import create_app
from services.client import ApiError, AsyncClient, Client
from services.intake import Rules
from services.tokens import Tokens


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    return fabricate(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def drivers() -> Iterator[FakeDrivers]:
    fakes = FakeDrivers()
    yield fakes
    fakes.release()


@pytest.fixture(scope="module")
def address(finished: StudyPaths, drivers: FakeDrivers) -> Iterator[str]:
    with serving(create_app(finished.storage, rules=Rules(drivers))) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def token(finished: StudyPaths) -> str:
    return Tokens(finished.storage).new("bob", "submit")[0]


def methods_of(kind: type) -> dict[str, Any]:
    return {name: function for name, function in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}


def test_both_forms_have_one_shape() -> None:
    waiting, awaited = methods_of(Client), methods_of(AsyncClient)
    assert waiting.keys() == awaited.keys() >= {"submit", "stop", "events", "wait", "curve", "pareto", "report"}
    for name, function in waiting.items():
        left, right = inspect.signature(function), inspect.signature(awaited[name])
        assert left.parameters == right.parameters, name
        assert name == "events" or left.return_annotation == right.return_annotation, name


def test_both_forms_get_the_same_answers(address: str, finished: StudyPaths) -> None:
    client, other = Client(address), AsyncClient(address)
    trial_id = replay(finished.ledger).trials[1].trial_id
    asked = [
        ("health", ()),
        ("studies", ()),
        ("study", ("demo",)),
        ("trials", ("demo",)),
        ("trial", ("demo", trial_id)),
        ("curve", ("demo", trial_id)),
        ("best", ("demo",)),
        ("pareto", ("demo",)),
        ("comparison", ("demo",)),
        ("report", ("demo",)),
        ("wait", ("demo",)),
    ]

    async def ask() -> list[Any]:
        return [await getattr(other, name)(*arguments) for name, arguments in asked]

    assert asyncio.run(ask()) == [getattr(client, name)(*arguments) for name, arguments in asked]
    config = client.best("demo").config
    assert isinstance(config, TrialConfig)
    assert config.loss.temperature == TrialConfig().loss.temperature


def test_a_study_is_submitted_followed_and_stopped(
    address: str, token: str, drivers: FakeDrivers, tmp_path: Path
) -> None:
    client = Client(address, token=token)
    study = make_study("sent")
    assert client.submit(study).state == "started"
    assert client.submit(study.model_dump(mode="json")).state == "running"
    events = client.events("sent")
    first = next(events)
    assert first.event is not None and first.event.state == "OPENED"
    assert client.submit(study, key="again").study == "sent"
    drivers.close("sent", "complete")
    rest = list(events)
    assert rest[-1].is_end and rest[-1].status is not None and rest[-1].status.state == "complete"
    assert client.wait("sent").state == "complete"
    told = [event.event.state for event in client.events("sent", after=first.position or 0) if event.event]
    assert told == ["CLOSED"]
    assert client.stop("sent").asked is None
    file = tmp_path / "file.yaml"
    file.write_text("name: from-file\nfixed: {training.max_steps: 2}\n")
    assert client.submit(file).study == "from-file"
    with pytest.raises(ConfigError, match="there is no study file"):
        client.submit("nothing")
    with pytest.raises(ApiError, match="401 a token is needed"):
        Client(address).submit(StudyConfig(name="other"))


def test_a_token_comes_from_the_environment_and_crosses_no_network_unprotected(
    address: str, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFP_TOKEN", token)
    assert Client(address).stop("demo").asked is None
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="use https"):
            kind("http://studies.example")
        kind("https://studies.example")


def test_who_is_asked_to_come_again_does_within_its_patience() -> None:
    app, asked = FastAPI(), []

    @app.get("/v1/health")
    async def health() -> Response:
        asked.append(1)
        if len(asked) % 3:
            return Response(status_code=503 if len(asked) % 3 == 1 else 429, headers={"Retry-After": "1"})
        return Response('{"version": "1", "storage": "x", "studies": 0}', media_type="application/json")

    with serving(app) as port:
        address = f"http://127.0.0.1:{port}"
        assert Client(address).health().studies == 0
        assert len(asked) == 3
        assert asyncio.run(AsyncClient(address).health()).version == "1"
        with pytest.raises(ApiError) as caught:
            Client(address, patience_s=0.5).health()
        assert (caught.value.problem.status, len(asked)) == (503, 7)
        with pytest.raises(ApiError) as other:
            Client(address).studies()
        assert other.value.problem.status == 404
    with pytest.raises(UnavailableError, match="no answer from"):
        asyncio.run(AsyncClient(address).health())
