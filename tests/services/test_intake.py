"""Studies begun and stopped over HTTP: by whom, once, with what refused; and drivers that outlive the service."""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate, make_study
from submitting import FakeDrivers, bearer, client_of

from afp_ray.config import StudyConfig
from afp_ray.ledger import study_hash
from afp_ray.store import StudyPaths
from services import intake
from services.drivers import LocalDriver
from services.guard import Limits
from services.permissions import data_folders, require_permitted
from services.schemas import Problem
from services.service_schemas import Stopped, Submitted
from services.tokens import Tokens

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def drivers() -> Iterator[FakeDrivers]:
    fakes = FakeDrivers()
    yield fakes
    fakes.release()


@pytest.fixture
def http(tmp_path: Path, drivers: FakeDrivers) -> Iterator[Any]:
    with client_of(tmp_path, drivers) as client:
        yield client


@pytest.fixture
def submit(tmp_path: Path) -> dict[str, str]:
    """The header of who may submit."""
    return bearer(Tokens(tmp_path).new("bob", "submit")[0])


def body_of(name: str = "demo", **fields: Any) -> dict[str, Any]:
    return {**make_study(name).model_dump(mode="json", exclude_defaults=True), **fields}


def test_who_may_read_may_not_submit_or_stop(
    tmp_path: Path, drivers: FakeDrivers, submit: dict[str, str], http: Any
) -> None:
    fabricate(tmp_path, "other")
    reader = bearer(Tokens(tmp_path).new("anna", "read")[0])
    for ask in (
        lambda headers: http.post("/v1/studies", json=body_of(), headers=headers),
        lambda headers: http.delete("/v1/studies/other", headers=headers),
    ):
        assert ask({}).status_code == 401
        refused = ask(reader)
        assert (refused.status_code, 'scope="submit"' in refused.headers["www-authenticate"]) == (403, True)
        assert ask(bearer("afp_00000000_wrong")).status_code == 401
    assert drivers.started == []
    assert http.post("/v1/studies", json=body_of(), headers=submit).status_code == 202


def test_the_same_study_is_begun_once_and_another_of_its_name_is_refused(
    tmp_path: Path, drivers: FakeDrivers, submit: dict[str, str], http: Any
) -> None:
    paths = StudyPaths(tmp_path, "demo")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: http.post("/v1/studies", json=body_of(), headers=submit), range(4)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    assert [name for name, _ in drivers.started] == ["demo"]
    assert answers[0].headers["location"] == "/v1/studies/demo"
    again = http.post("/v1/studies", json=body_of(), headers=submit)
    told = Submitted.model_validate_json(again.content)
    assert (again.status_code, told.state, told.study_hash) == (200, "running", study_hash(make_study()))
    assert told.status is not None and told.status.state == "running"
    other = http.post("/v1/studies", json=body_of(seeds=[0, 1, 2]), headers=submit)
    assert other.status_code == 409
    assert "seeds: [0, 1] -> [0, 1, 2]" in other.json()["detail"]
    drivers.close("demo", "interrupted: afp stop")
    assert http.post("/v1/studies", json=body_of(), headers=submit).status_code == 202  # it goes on
    drivers.close("demo", "complete")
    over = http.post("/v1/studies", json=body_of(), headers=submit)
    assert (over.status_code, over.json()["state"]) == (200, "complete")
    assert len(drivers.started) == 2
    assert paths.ledger.is_file()


def test_a_request_with_a_key_is_answered_once(
    tmp_path: Path, drivers: FakeDrivers, submit: dict[str, str], http: Any
) -> None:
    keyed = {**submit, "Idempotency-Key": "monday"}
    first = http.post("/v1/studies", json=body_of(), headers=keyed)
    drivers.close("demo", "interrupted: afp stop")
    assert http.post("/v1/studies", json=body_of(), headers=keyed).content == first.content
    assert len(drivers.started) == 1  # without the key it would go on
    assert http.post("/v1/studies", json=body_of("other"), headers=keyed).status_code == 409
    assert http.post("/v1/studies", json=body_of(), headers=submit).status_code == 202


def test_what_the_driver_refuses_is_said_and_may_be_tried_again(
    tmp_path: Path, drivers: FakeDrivers, submit: dict[str, str], http: Any
) -> None:
    drivers.refuses = "there is no model 'x'"
    for headers in (submit, {**submit, "Idempotency-Key": "monday"}):
        refused = http.post("/v1/studies", json=body_of(), headers=headers)
        assert (refused.status_code, refused.json()["detail"]) == (409, "model.name: there is no model 'x'")
    drivers.refuses = ""
    assert http.post("/v1/studies", json=body_of(), headers={**submit, "Idempotency-Key": "monday"}).status_code == 202


def test_a_driver_that_takes_long_is_not_waited_for_and_may_be_stopped(
    tmp_path: Path, drivers: FakeDrivers, submit: dict[str, str], monkeypatch: pytest.MonkeyPatch, http: Any
) -> None:
    monkeypatch.setattr(intake, "START_S", 0.3)
    drivers.is_slow = True
    first = http.post("/v1/studies", json=body_of(), headers=submit)
    assert (first.status_code, first.json()["state"], first.json()["status"]) == (202, "starting", None)
    assert http.post("/v1/studies", json=body_of(), headers=submit).json()["state"] == "starting"
    other = http.post("/v1/studies", json=body_of(seeds=[5]), headers=submit)
    assert (other.status_code, "just being started" in other.json()["detail"]) == (409, True)
    assert len(drivers.started) == 1
    assert http.delete("/v1/studies/demo", headers=submit).json()["asked"] == {"driver": "starting"}
    assert drivers.ended == ["demo"]


@pytest.mark.parametrize(
    "content, kind, status, detail",
    [
        (b"name: demo", "application/yaml", 415, "application/yaml"),
        (b" " * 300_000, "application/json", 413, "too large"),
        (b"{", "application/json", 422, "body"),
        (b"[1]", "application/json", 422, "body"),
        (b"{}", "application/json", 422, "name"),
        (b'{"name": "../x"}', "application/json", 422, "name"),
        (b'{"name": "demo", "fixd": {}}', "application/json", 422, "fixd"),
        (b'{"name": "demo", "fixed": {"training.max_stesp": 2}}', "application/json", 422, "max_stesp"),
        (b'{"name": "demo", "fixed": {"data.languages": ["xx"]}}', "application/json", 422, "xx"),
    ],
)
def test_what_is_no_study_is_refused_with_its_place_and_starts_nothing(
    content: bytes,
    kind: str,
    status: int,
    detail: str,
    tmp_path: Path,
    drivers: FakeDrivers,
    submit: dict[str, str],
    http: Any,
) -> None:
    answer = http.post("/v1/studies", content=content, headers={**submit, "Content-Type": kind})
    problem = Problem.model_validate_json(answer.content)
    assert (answer.status_code, problem.status) == (status, status)
    assert detail in problem.detail
    assert "afp-body-" not in answer.text  # where it was kept meanwhile
    assert drivers.started == []


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"runtime": {"tracking_uri": "http://192.0.2.1:5000"}}, "runtime.tracking_uri"),
        ({"fixed": {"model.name": "org/model", "model.trust_remote_code": True}}, "model.trust_remote_code"),
        ({"compare": {"model.trust_remote_code": [False, True]}}, "model.trust_remote_code"),
        ({"fixed": {"model.name": "/etc"}}, "model.name"),
        ({"fixed": {"model": {"name": "~/model"}}}, "model.name"),
        ({"fixed": {"model.name": "../model"}}, "model.name"),
        ({"fixed": {"model.name": "here"}}, "model.name"),
        ({"tune": {"model.name": {"choices": ["embedded", "/etc"]}}}, "model.name"),
        ({"fixed": {"evaluation.data_dir": "$HOME/data"}}, "evaluation.data_dir"),
        ({"fixed": {"evaluation.data_dir": "data/../../secret"}}, "evaluation.data_dir"),
        ({"fixed": {"data.sources": [{"name": "own", "kind": "tsv", "path": "/etc/{target}"}]}}, "data.sources"),
        ({"fixed": {"data.sources": [{"name": "own", "kind": "tsv", "path": "{target}.tsv"}]}}, "data.sources"),
    ],
)
def test_a_submitted_study_touches_nothing_that_it_was_not_given(
    fields: dict[str, Any], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "data").mkdir()
    study = StudyConfig.model_validate({"name": "demo", **fields})
    with pytest.raises(intake.ConfigError, match=named.replace(".", r"\.")) as caught:
        require_permitted(study, [tmp_path / "data"])
    assert "--trust-submitters" in caught.value.fix


def test_a_submitted_study_may_name_what_lies_in_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AFP_DATA_DIR", str(tmp_path / "corpora"))
    (tmp_path / "data").mkdir()
    folders = data_folders([Path("data")])
    for name, path in [
        ("evaluation.data_dir", "${AFP_DATA_DIR}/tasks"),
        ("evaluation.data_dir", "data"),
        ("model.name", str(tmp_path / "data" / "model")),
        ("model.name", "facebook/xglm-564M"),  # of the hub
        ("model.name", "embedded"),
    ]:
        require_permitted(StudyConfig(name="demo", fixed={name: path}), folders)
    source = {"name": "own", "kind": "tsv", "path": "data/{source}-{target}.tsv"}
    require_permitted(StudyConfig(name="demo", fixed={"data.sources": [source]}), folders)


def test_who_is_trusted_may_name_any_file(
    tmp_path: Path, drivers: FakeDrivers, submit: dict[str, str], http: Any
) -> None:
    body = body_of(fixed={"evaluation.data_dir": "/etc"})
    refused = http.post("/v1/studies", json=body, headers=submit)
    assert (refused.status_code, drivers.started) == (409, [])
    with client_of(tmp_path, drivers, trusts=True) as trusting:
        assert trusting.post("/v1/studies", json=body, headers=submit).status_code == 202


def test_a_stop_is_asked_for_once_however_often_it_is_sent(
    tmp_path: Path, drivers: FakeDrivers, submit: dict[str, str], monkeypatch: pytest.MonkeyPatch, http: Any
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(intake, "request_stop", lambda paths: asked.append(paths.name))
    http.post("/v1/studies", json=body_of(), headers=submit)
    results = sorted(StudyPaths(tmp_path, "demo").folder.rglob("*"))
    for _ in range(3):
        told = Stopped.model_validate_json(http.delete("/v1/studies/demo", headers=submit).content)
        assert told.asked is not None and told.asked["pid"] == os.getpid()
    assert asked == ["demo"]
    http.delete("/v1/studies/demo?now=true", headers=submit)
    assert asked == ["demo", "demo"]
    drivers.close("demo", "interrupted: afp stop")
    told = Stopped.model_validate_json(http.delete("/v1/studies/demo", headers=submit).content)
    assert (told.asked, asked) == (None, ["demo", "demo"])
    assert set(results) <= set(StudyPaths(tmp_path, "demo").folder.rglob("*"))
    assert http.delete("/v1/studies/none", headers=submit).status_code == 404


def test_studies_are_submitted_at_a_pace(tmp_path: Path, drivers: FakeDrivers, submit: dict[str, str]) -> None:
    with client_of(tmp_path, drivers, limits=Limits(submissions_per_min=2)) as http:
        answers = [http.post("/v1/studies", json=body_of(f"s{number}"), headers=submit) for number in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 429]
        assert http.get("/v1/studies", headers=submit).status_code == 200


def test_a_driver_of_this_machine_has_a_session_of_its_own_and_says_why_it_ends(tmp_path: Path) -> None:
    study = make_study().model_copy(update={"fixed": {"model.name": str(tmp_path / "none")}})
    driver = LocalDriver(study, StudyPaths(tmp_path, "demo"))
    pid = driver._process.pid
    assert os.getsid(pid) == pid != os.getsid(0)
    until = time.monotonic() + 60
    while driver.exit_code() is None and time.monotonic() < until:
        time.sleep(0.1)
    assert driver.exit_code() == 2
    refusal = driver.refusal()
    assert "none" in refusal.problem
    kept = tmp_path / ".submitted" / "demo.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert json.loads(kept.read_text())["name"] == "demo"
    assert not StudyPaths(tmp_path, "demo").ledger.exists()
