"""A URL or a command hears once that a study has ended, whatever the end; a study never fails for it."""

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate, make_study
from pydantic import ValidationError

import afp_ray.study
from afp_ray.config import RuntimeConfig, StudyConfig
from afp_ray.execution import StopRequest, notify
from afp_ray.execution.notify import end_message, tell_end
from afp_ray.ledger import Ledger, replay
from afp_ray.records import Comparison
from afp_ray.redaction import redact
from afp_ray.store import StudyPaths
from services.reports import write_reports


class Server:
    """Keeps what is posted to it, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.status, self.wait_s = 200, 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                time.sleep(outer.wait_s)
                self.send_response(outer.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/hooks/T0LKEN5417"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    paths = fabricate(tmp_path_factory.mktemp("runs"), methods=("base", "afp"), seeds=(0, 1))
    write_reports(paths)
    return paths


def test_a_url_gets_what_came_of_the_study(study: StudyPaths, server: Server) -> None:
    tell_end(server.url, study)
    (message,) = server.got
    assert (message["study"], message["state"], message["trials"]) == ("demo", "complete", 4)
    assert message["counts"] == {"DONE": 3, "FAILED": 1}
    assert message["best"]["arm"] == "afp" and message["best"]["vs_base"] == pytest.approx(0.2, abs=0.05)
    table = Comparison.model_validate_json(study.comparison("json").read_bytes())
    assert table.headline is not None and message["headline"] == table.headline.text
    assert message["text"] == f"demo: complete, 3 of 4 trials done, 1 failed. {message['headline']}"
    assert message["report"] == str(study.report)


def test_a_command_gets_the_same_on_its_standard_input(study: StudyPaths, tmp_path: Path) -> None:
    code = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    tell_end([sys.executable, "-c", code, str(tmp_path / "told.json")], study)
    assert json.loads((tmp_path / "told.json").read_text()) == end_message(study, replay(study.ledger))


@pytest.mark.parametrize(
    ("status", "wait_s", "said"), [(500, 0, "it answered 500"), (302, 0, "it answered 302"), (200, 1.0, "timed out")]
)
def test_a_server_that_fails_gives_one_warning_without_its_secret(
    study: StudyPaths,
    server: Server,
    status: int,
    wait_s: float,
    said: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notify, "URL_S", 0.2)
    server.status, server.wait_s = status, wait_s
    tell_end(server.url, study)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert said in record.getMessage() and "T0LKEN5417" not in record.getMessage()
    assert len(server.got) == 1  # sent once: what timed out may have arrived


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("http://127.0.0.1:1/x", "refused"),
        ("http://me:canary-54@127.0.0.1:1/x", "127.0.0.1"),
        (["/no/such/command"], "No such file"),
        ([sys.executable, "-c", "import sys; sys.exit('cannot mail')"], "it ended with 1: cannot mail"),
        ([sys.executable, "-c", "import time; time.sleep(9)"], "did not end within 0.3 s"),
    ],
)
def test_what_cannot_be_told_is_a_warning(
    target: Any, said: str, study: StudyPaths, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    RuntimeConfig(notify=target)  # whoever reads a study knows its secrets
    monkeypatch.setattr(notify, "COMMAND_S", 0.3 if "time" in str(target) else 20.0)
    tell_end(target, study)
    assert said in caplog.text and "canary-54" not in caplog.text and len(caplog.records) == 1


def test_the_address_is_a_secret_of_the_study() -> None:
    url = "https://hooks.example.org/services/T00/B00/abcdef"
    RuntimeConfig(notify=url)
    assert redact(f"told {url} of it") == "told *** of it"
    for wrong in ("mail me", "ftp://host/x", "http://", [], [""]):
        with pytest.raises(ValidationError, match="notify"):
            RuntimeConfig(notify=wrong)  # type: ignore[arg-type]


def run(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Any:
    """A study of fake trials in this process, without MLflow."""
    monkeypatch.setattr(afp_ray.study, "RUN_TRIAL", "fake_trials:run")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/no/such/folder/x.db")
    base = make_study(methods=("afp",), seeds=(0,)).model_dump(exclude={"runtime"}) | fields.pop("study", {})
    runtime = RuntimeConfig(executor="local", notify=server.url)
    study = StudyConfig.model_validate({**base, "runtime": runtime.model_dump()})
    paths = StudyPaths(tmp_path, study.name)
    monkeypatch.setattr(afp_ray.study.BackgroundProjector, "to_mlflow", lambda *_: Silent())
    return afp_ray.study.run(study, paths, **fields)


class Silent:
    """Shows nothing."""

    def submit(self) -> None: ...

    def close(self, deadline_s: float = 0.0) -> bool:
        return True


def test_a_finished_study_tells_once(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, server, monkeypatch)
    assert [(message["state"], message["counts"]) for message in server.got] == [("complete", {"DONE": 1})]
    assert server.url not in (tmp_path / "demo" / "ledger.jsonl").read_text()


def test_an_interrupted_study_tells_once(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = StopRequest()
    stop.request("SIGINT")
    run(tmp_path, server, monkeypatch, stop=stop)
    assert [(message["state"], message["detail"]) for message in server.got] == [("interrupted", "SIGINT")]


def test_a_study_that_breaks_tells_of_its_error(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("the executor broke")

    monkeypatch.setattr(afp_ray.study.LocalExecutor, "run", broken)
    with pytest.raises(RuntimeError, match="broke"):
        run(tmp_path, server, monkeypatch)
    (message,) = server.got
    assert message["state"] == "error" and "the executor broke" in message["detail"]


def test_a_study_that_its_budget_ends_tells_of_the_budget(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, server, monkeypatch, study={"seeds": (0, 1, 2), "budget": {"trials": 1, "wall_s": 1e-9}})
    assert [message["state"] for message in server.got] == ["budget"]


def test_a_study_that_another_driver_holds_tells_nothing(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = fabricate(tmp_path, methods=("base",), seeds=(0,))
    study = StudyConfig.model_validate_json(paths.study.read_bytes())
    with Ledger.open(paths, study):
        tell_end(server.url, paths)
    assert server.got == []
