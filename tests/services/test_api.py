"""The API: the answers of the command line over HTTP, problems as JSON, on this machine alone."""

import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate, leave_running
from served import serving

from afp_ray.errors import DataError, UnavailableError
from afp_ray.ledger import replay
from afp_ray.store import StudyPaths
from services import answer_cache, answers, computations
from services.answers import best_answer, comparison_answer
from services.api import LOOPBACK_NAMES, create_app
from services.client import ApiError, Client
from services.schemas import Problem
from services.service_schemas import Pareto, TrainingCurve


def client_of(storage: Path, *hosts: str, deadline_s: float = 60) -> Any:
    """A client of the application itself, without a server."""
    from fastapi.testclient import TestClient

    return TestClient(create_app(storage, hosts=hosts, deadline_s=deadline_s), raise_server_exceptions=False)


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    return fabricate(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def client(finished: StudyPaths) -> Iterator[Client]:
    """A client of a real server on a free port of this machine."""
    with serving(create_app(finished.storage)) as port:
        yield Client(f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def http(finished: StudyPaths) -> Any:
    from fastapi.testclient import TestClient

    return TestClient(
        create_app(finished.storage, hosts=[*LOOPBACK_NAMES, "testserver"]), raise_server_exceptions=False
    )


def test_the_client_gets_what_the_command_line_shows(finished: StudyPaths, client: Client) -> None:
    assert client.best("demo") == best_answer(finished.storage, "demo")
    assert client.comparison("demo") == comparison_answer(finished.storage, ["demo"])
    assert client.best("demo", language="sw", under={"gpu_hours": 1.0}).constraints["gpu_hours"].ok
    assert client.health().studies == 1
    assert [status.name for status in client.studies()] == ["demo"]
    assert client.study("demo").config.compare == {"method": ("base", "mcl", "afp")}


def test_trials_are_filtered_sorted_and_paged(finished: StudyPaths, client: Client) -> None:
    state = replay(finished.ledger)
    assert client.trials("demo").total == len(state.trials) == 6
    page = client.trials("demo", sort="objective", descending=True, limit=2, offset=1)
    assert [trial.objective for trial in page.trials] == [0.7, 0.52]
    assert client.trials("demo", sort="objective").trials[-1].status == "FAILED"  # without an objective: last
    assert {trial.arm for trial in client.trials("demo", arm="mcl").trials} == {"mcl"}
    assert client.trials("demo", status="FAILED").total == 1
    detail = client.trial("demo", state.trials[0].trial_id)
    assert detail.record == state.trials[0]
    assert len(detail.scores) == 24
    assert client.trial("demo", "f" * 16).scores == ()


def test_the_clients_errors_say_what_the_service_said(client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        client.best("other")
    assert caught.value.problem.status == 404
    with pytest.raises(UnavailableError):
        Client("http://127.0.0.1:9", timeout_s=1).health()
    with pytest.raises(ValueError, match="must begin with http"):
        Client("file:///etc/passwd")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/studies/nothing", 404),
        ("/v1/studies/nothing/best", 404),
        ("/v1/studies/nothing/report", 404),
        ("/v1/studies/demo/trials/0123", 404),
        ("/v1/nothing", 404),
        ("/v1/studies/..%2f..%2fetc", 404),
        ("/v1/studies/%2e%2e", 422),
        ("/v1/studies/DEMO", 422),
        ("/v1/studies/demo/trials/zz", 422),
        ("/v1/studies/demo/trials?limit=0", 422),
        ("/v1/studies/demo/trials?limit=1001", 422),
        ("/v1/studies/demo/trials?status=HAPPY", 422),
        ("/v1/studies/demo/trials?sort=__class__", 422),
        ("/v1/studies/demo/best?metric=nonsense", 409),
        ("/v1/studies/demo/best?under=seconds=inf", 422),
        ("/v1/studies/demo/best?under=seconds=1e999", 409),
        ("/v1/studies/demo/best?under=other=1", 422),
        ("/v1/studies/demo/best?under=gpu_hours", 422),
        ("/v1/studies/demo/best?under=gpu_hours=-1", 409),
        ("/v1/studies/nothing/pareto", 404),
        ("/v1/studies/demo/trials/0123/curve", 404),
        ("/v1/studies/demo/trials/0123/curve?points=1", 422),
    ],
)
def test_a_bad_request_is_a_problem_and_no_trace(http: Any, path: str, status: int) -> None:
    answer = http.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(answer.content)
    assert problem.status == status
    assert "Traceback" not in answer.text


def test_an_unexpected_error_tells_nothing(http: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(storage: Path) -> None:
        raise RuntimeError("the password is secret")

    monkeypatch.setattr("services.api.all_statuses", fail)
    answer = http.get("/v1/studies")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert Problem.model_validate_json(answer.content).title == "unexpected error"


def test_only_this_machines_names_are_answered(http: Any) -> None:
    assert http.get("/v1/health", headers={"host": "evil.example"}).status_code == 400  # a rebound name
    assert http.get("/v1/health", headers={"host": "localhost:8000"}).status_code == 200


def test_what_an_address_does_not_do_is_not_allowed(http: Any) -> None:
    assert http.put("/v1/studies").status_code == 405
    assert http.post("/v1/studies/demo").status_code == 405


def test_the_report_is_served_with_a_strict_policy(http: Any) -> None:
    answer = http.get("/v1/studies/demo/report")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_every_route_is_under_v1_and_in_the_openapi(http: Any) -> None:
    schema = http.get("/v1/openapi.json").json()
    assert set(schema["paths"]) == {
        "/v1/health",
        "/v1/studies",
        "/v1/studies/{name}",
        "/v1/studies/{name}/trials",
        "/v1/studies/{name}/trials/{trial_id}",
        "/v1/studies/{name}/trials/{trial_id}/curve",
        "/v1/studies/{name}/best",
        "/v1/studies/{name}/pareto",
        "/v1/studies/{name}/comparison",
        "/v1/studies/{name}/report",
        "/v1/studies/{name}/events",
    }


def test_a_name_of_the_tests_is_none_of_the_services(finished: StudyPaths) -> None:
    client = client_of(finished.storage, *LOOPBACK_NAMES)
    assert client.get("/v1/health").status_code == 400  # its Host is testserver
    assert client.get("/v1/health", headers={"host": "127.0.0.1"}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/health", "/v1/studies/demo/comparison", "/v1/studies/none", "/v1/openapi.json"])
def test_head_is_get_without_a_body(path: str, http: Any) -> None:
    asked, told = http.get(path), http.head(path)
    assert (told.status_code, told.content) == (asked.status_code, b"")
    assert told.headers["content-type"] == asked.headers["content-type"]


@pytest.mark.parametrize(
    "path, detail, fix",
    [
        ("/v1/nothing", "there is nothing at /v1/nothing", "GET /v1/studies lists the studies"),
        ("/v1/studies/none", "there is no study 'none'", "GET /v1/studies lists the studies"),
        ("/v1/studies/none/report", "there is no study 'none'", "GET /v1/studies lists the studies"),
        (
            "/v1/studies/demo/trials/0123",
            "study demo has no trial 0123",
            "GET /v1/studies/demo/trials lists",
        ),
        (
            "/v1/studies/demo/trials/0/curve",
            "study demo has no trial 0",
            "GET /v1/studies/demo/trials lists",
        ),
    ],
)
def test_a_wrong_address_says_what_is_not_there_and_where_to_look(path: str, detail: str, fix: str, http: Any) -> None:
    problem = Problem.model_validate_json(http.get(path).content)
    assert problem.status == 404
    assert problem.detail.startswith(detail)
    assert problem.fix.startswith(fix)


def test_quality_against_cost_is_what_the_best_answer_says(finished: StudyPaths, http: Any) -> None:
    best = best_answer(finished.storage, "demo")
    told = Pareto.model_validate_json(http.get("/v1/studies/demo/pareto").content)
    assert [point.arm for point in told.points] == ["base", "afp", "mcl"]
    assert (told.points, told.cheapest, told.cost_note) == (best.pareto, best.cheapest, best.cost_note)


def test_a_curve_is_thinned_out_and_bears_a_line_that_is_being_written(finished: StudyPaths, http: Any) -> None:
    trial_id = replay(finished.ledger).trials[1].trial_id
    address, file = f"/v1/studies/demo/trials/{trial_id}/curve", finished.trial(trial_id).curve
    assert TrainingCurve.model_validate_json(http.get(address).content) == TrainingCurve(trial_id=trial_id, total=0)
    rows = [{"step": step, "contrastive_loss": 1 / step} for step in range(1, 11)]
    rows[9]["gradient_cosine"] = 0.25
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 11, "contr')
    whole = TrainingCurve.model_validate_json(http.get(address).content)
    assert (whole.total, whole.steps) == (10, tuple(range(1, 11)))
    assert whole.metrics["contrastive_loss"] == tuple(1 / step for step in range(1, 11))
    assert whole.metrics["gradient_cosine"] == (None,) * 9 + (0.25,)
    few = TrainingCurve.model_validate_json(http.get(f"{address}?points=4").content)
    assert (few.total, few.steps) == (10, (1, 4, 7, 10))
    assert few.metrics["contrastive_loss"] == (1.0, 1 / 4, 1 / 7, 1 / 10)


@pytest.mark.parametrize("path", ["/", "/docs", "/page.js", "/page.css"])
def test_pages_name_no_other_host_and_have_nothing_inline(path: str, http: Any) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert not re.findall(r"(?:https?:)?//[a-z]", answer.text.replace("http://www.w3.org/", ""))
    if path in ("/", "/docs"):
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in answer.headers["content-security-policy"]
        assert not re.findall(r"<script(?! src=)|<style|\sstyle=|\son[a-z]+=", answer.text)


def test_the_page_of_the_api_has_every_address_and_all_links_lead_somewhere(http: Any) -> None:
    schema, page = http.get("/v1/openapi.json").json(), http.get("/docs").text
    for path, methods in schema["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code></h2>" in page
    anchors = re.findall(r'href="#([^"]+)"', page)
    assert len(anchors) > 50
    assert set(anchors) <= set(re.findall(r'\sid="([^"]+)"', page))


@pytest.mark.parametrize("age_s", [100, 0])
def test_forty_that_ask_at_once_are_answered_by_one_computation(
    age_s: int, finished: StudyPaths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether the study was left alone or a driver writes to it."""
    monkeypatch.setenv("AFP_CACHE", str(tmp_path))
    leave_alone(finished, age_s)
    calls = count_calls(monkeypatch)
    client = client_of(finished.storage, "testserver")
    with ThreadPoolExecutor(40) as pool:
        found = list(pool.map(lambda _: client.get("/v1/studies/demo/comparison"), range(40)))
    assert {answer.status_code for answer in found} == {200}
    assert len({answer.content for answer in found}) == 1
    assert len(calls) == 1
    assert len(answer_cache._locks) == 0


def test_a_ledger_that_grows_meanwhile_is_another_question(
    finished: StudyPaths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path))
    paths = fabricate(tmp_path / "runs")
    leave_alone(paths, 100)
    calls = count_calls(monkeypatch)
    client = client_of(paths.storage, "testserver")
    with ThreadPoolExecutor(2) as pool:
        before = pool.submit(client.get, "/v1/studies/demo/comparison")
        until = time.monotonic() + 20
        while not calls and time.monotonic() < until:
            time.sleep(0.01)
        leave_running(paths)
        after = pool.submit(client.get, "/v1/studies/demo/comparison")
        assert (before.result().status_code, after.result().status_code) == (200, 200)
    assert len(calls) == 2


def leave_alone(paths: StudyPaths, age_s: float) -> None:
    """Let the study look as if it had been written so long ago."""
    then = time.time() - age_s
    for file in paths.folder.rglob("*"):
        os.utime(file, (then, then))


def count_calls(monkeypatch: pytest.MonkeyPatch, *, takes_s: float = 0.3) -> list[float]:
    """When each comparison begins to be computed; they take longer than they do."""
    calls: list[float] = []
    compute = answers.comparison_answer

    def counted(*arguments: Any) -> Any:
        calls.append(time.monotonic())
        time.sleep(takes_s)
        return compute(*arguments)

    monkeypatch.setattr(answers, "comparison_answer", counted)
    return calls


def test_an_answer_that_takes_too_long_is_asked_for_again(
    finished: StudyPaths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path))
    leave_alone(finished, 100)
    calls = count_calls(monkeypatch, takes_s=4)
    client = client_of(finished.storage, "testserver", deadline_s=0.5)
    started = time.monotonic()
    answer = client.get("/v1/studies/demo/comparison")
    assert time.monotonic() - started < 3.5
    assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (503, True)
    assert Problem.model_validate_json(answer.content).detail == "the answer takes longer than 0.5 seconds"
    assert client.get("/v1/health").status_code == 200
    until = time.monotonic() + 20
    while client.get("/v1/studies/demo/comparison").status_code == 503 and time.monotonic() < until:
        time.sleep(0.1)
    assert client.get("/v1/studies/demo/comparison").status_code == 200
    assert len(calls) == 1  # it was computed on, and kept


def test_too_many_questions_are_refused_and_a_queue_does_not_outlive_its_askers(
    finished: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []

    def slow(*_: Any, **__: Any) -> Any:
        calls.append(time.monotonic())
        time.sleep(2)
        raise DataError("there is nothing")

    monkeypatch.setattr(computations, "MAX_QUESTIONS", 8)
    monkeypatch.setattr(answers, "best_answer", slow)
    client = client_of(finished.storage, "testserver", deadline_s=0.5)
    addresses = [f"/v1/studies/demo/best?under=seconds={number}" for number in range(20)]
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(client.get, addresses))
    assert {answer.status_code for answer in found} == {503}
    details = [Problem.model_validate_json(answer.content).detail for answer in found]
    assert details.count("8 other questions wait for their answers") == 12
    time.sleep(3)
    assert len(calls) == 2  # the six behind them had nobody waiting any more
    assert client.get("/v1/health").status_code == 200


def test_kept_answers_stay_within_their_size(
    finished: StudyPaths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path))
    leave_alone(finished, 100)
    client = client_of(finished.storage, "testserver")
    sizes = []
    for number in range(12):
        assert client.get(f"/v1/studies/demo/best?under=gpu_hours={number + 1}").status_code == 200
        sizes.append(sum(file.stat().st_size for file in (tmp_path / "answers").iterdir()))
        monkeypatch.setattr(answer_cache, "MAX_BYTES", 4 * sizes[0])
    assert sizes[2] > 2.5 * sizes[0]
    assert max(sizes) <= 4 * sizes[0]


@pytest.mark.parametrize("path", ["/v1/health", "/v1/studies/demo/comparison", "/v1/openapi.json"])
def test_options_and_what_is_not_allowed_say_what_is(path: str, http: Any) -> None:
    told = http.options(path)
    assert (told.status_code, told.content, told.headers["allow"]) == (204, b"", "GET, HEAD, OPTIONS")
    assert http.post(path).headers["allow"] == "GET, HEAD, OPTIONS"
    assert http.options("/v1/nothing").status_code == 404
    assert http.options("/v1/studies").headers["allow"] == "GET, HEAD, POST, OPTIONS"
    assert http.options("/v1/studies/demo").headers["allow"] == "GET, HEAD, DELETE, OPTIONS"
