"""The doctor: each check finds its planted fault and names the fix; a cluster open to strangers is refused."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services import cli, doctor
from services.schemas import DoctorCheck


def found(checks: list[DoctorCheck], name: str) -> DoctorCheck:
    return next(check for check in checks if check.name == name)


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[str]:
    """An HTTP server on the loopback that answers every GET with the status it is parametrised with."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(request.param)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Stay quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_good_environment_passes_and_answers_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--storage", str(tmp_path), "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert {"python", "ray", "torch", "gpu", "storage", "mlflow tracking", "ray cluster"} <= {c["name"] for c in checks}
    assert not [check for check in checks if check["verdict"] == "FAIL"]


def test_a_dead_cluster_fails_with_its_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--storage", str(tmp_path), "--address", "127.0.0.1:1"]) == 2
    text = capsys.readouterr().out
    assert "FAIL  ray cluster      nobody listens at 127.0.0.1:1" in text
    assert "fix: start the cluster" in text


@pytest.mark.parametrize(
    "answering, verdict", [(200, "FAIL"), (401, "OK"), (403, "OK"), (500, "FAIL")], indirect=["answering"]
)
def test_a_cluster_elsewhere_that_answers_strangers_is_refused(
    answering: str, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_is_loopback", lambda host: False)
    check = found(doctor.examine(tmp_path, address=answering), "ray cluster")
    assert check.verdict == verdict
    assert ("RAY_AUTH_MODE=token" in check.fix) == (verdict == "FAIL")


@pytest.mark.parametrize("answering, verdict", [(200, "OK"), (500, "WARN")], indirect=["answering"])
def test_a_tracking_server_is_asked_for_its_health(
    answering: str, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", answering)
    assert found(doctor.examine(tmp_path), "mlflow tracking").verdict == verdict


def test_a_mistyped_tracking_uri_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://somewhere")
    check = found(doctor.examine(tmp_path), "mlflow tracking")
    assert check.verdict == "FAIL"
    assert "sqlite:///" in check.fix


@pytest.mark.parametrize(
    "host, expected", [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False)]
)
def test_the_loopback_is_known(host: str, expected: bool) -> None:
    assert doctor._is_loopback(host) is expected
