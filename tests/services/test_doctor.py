"""The doctor: each check finds its planted fault and names the fix; a cluster open to strangers is refused."""

import http.server
import json
import os
import shutil
import socket
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import fake_jobs
import grpc
import pytest
from fake_jobs import dashboard
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.core.generated.gcs_service_pb2 import CheckAliveReply, GetAllNodeInfoReply
from ray.core.generated.gcs_service_pb2_grpc import (
    NodeInfoGcsServiceServicer,
    add_NodeInfoGcsServiceServicer_to_server,
)

from afp_ray.errors import ConfigError, UnavailableError
from afp_ray.execution import cluster_auth
from afp_ray.planning.check import Checked
from services import cli, doctor
from services.schemas import DoctorCheck


@pytest.fixture(autouse=True)
def no_ray_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", os.devnull)


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


@pytest.mark.parametrize("answering", [200, 500], indirect=True)
def test_a_cluster_elsewhere_that_does_not_ask_for_a_token_is_refused(
    answering: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_auth, "is_loopback", lambda host: False)
    check = found(doctor.examine(tmp_path, address=answering), "ray cluster")
    assert check.verdict == "FAIL"
    assert "RAY_AUTH_MODE=token" in check.fix


def test_a_cluster_that_does_not_answer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a head nor a dashboard that takes the question and says nothing is taken for a guarded one."""
    monkeypatch.setattr(cluster_auth, "is_loopback", lambda host: False)
    monkeypatch.setattr(cluster_auth, "TIMEOUT_S", 0.3)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        for one in (address, f"http://{address}"):
            with pytest.raises(ConfigError, match=r"does not answer within 0\.3 s"):
                cluster_auth.require_token(one)
            cluster_auth.require_token(one, allow_open=True)
        arguments = ["run", "demo", "--executor", "ray", "--address", address, "--storage", str(tmp_path)]
        assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert "could not be seen" in said
    assert "--allow-open-cluster" in said


@pytest.mark.parametrize("variable", [None, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"])
def test_the_token_that_a_first_run_makes_is_nobody_else_s(
    variable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if variable:
        monkeypatch.setenv(variable, "disabled")
    file = tmp_path / ".ray" / "auth_token"
    cluster_auth.keep_token_private()
    assert not file.exists()
    cluster_auth.keep_token_private(make=True)
    assert file.exists() is (variable is None)
    if variable is None:
        made = file.read_text("utf-8")
        assert len(made) == 64
        assert file.stat().st_mode & 0o777 == 0o600
        cluster_auth.keep_token_private(make=True)
        assert file.read_text("utf-8") == made


def test_a_token_that_others_can_read_is_taken_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("as Ray writes it")
    file.chmod(0o644)
    cluster_auth.require_token("127.0.0.1:6379")
    assert file.stat().st_mode & 0o777 == 0o600
    assert "0600" in caplog.text
    assert "as Ray writes it" not in caplog.text


def test_a_cluster_that_asks_for_a_token_is_well_when_ours_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_auth, "is_loopback", lambda host: False)
    with dashboard(token="right") as fake:
        check = found(doctor.examine(tmp_path, address=fake.address), "ray cluster")
        assert (check.verdict, "~/.ray/auth_token" in check.fix) == ("FAIL", True)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        assert found(doctor.examine(tmp_path, address=fake.address), "ray cluster").verdict == "FAIL"
        monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
        assert found(doctor.examine(tmp_path, address=fake.address), "ray cluster").verdict == "OK"


def test_a_cluster_of_another_version_is_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_jobs, "VERSION", "2.59.1")
    with dashboard() as fake:
        check = found(doctor.examine(tmp_path, address=fake.address), "ray cluster")
    assert check.verdict == "FAIL"
    assert "2.59.1" in check.found
    assert "pip install ray==2.59.1" in check.fix


def test_a_head_is_asked_as_a_stranger_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head speaks gRPC: one that wants a token says so to who has none, another tells its version."""
    answers = {"open": None, "token": grpc.StatusCode.UNAUTHENTICATED, "unknown": grpc.StatusCode.INTERNAL}
    for kind, code in answers.items():
        with grpc_head(code) as address:
            assert cluster_auth.ask(address).kind == kind
    with grpc_head(None) as address:
        assert cluster_auth.ask(address).ray_version == "9.9.9"
        cluster_auth.require_token(address)  # the loopback is this machine's own
        monkeypatch.setattr(cluster_auth, "is_loopback", lambda host: False)
        with pytest.raises(ConfigError, match="asks for no token"):
            cluster_auth.require_token(address)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert cluster_auth.ask(f"127.0.0.1:{taken.getsockname()[1]}").kind == "silent"


@contextmanager
def grpc_head(code: grpc.StatusCode | None, *, num_nodes: int = 1) -> Iterator[str]:
    """A head that answers every question whether it lives with its version, or with an error."""

    class Service(NodeInfoGcsServiceServicer):  # type: ignore[misc]
        def CheckAlive(self, request: object, context: Any) -> CheckAliveReply:  # noqa: N802
            if code is not None:
                context.abort(code, "no")
            return CheckAliveReply(ray_version="9.9.9")

        def GetAllNodeInfo(self, request: object, context: object) -> GetAllNodeInfoReply:  # noqa: N802
            states = [GcsNodeInfo.ALIVE] * num_nodes + [GcsNodeInfo.DEAD]
            return GetAllNodeInfoReply(node_info_list=[GcsNodeInfo(state=state) for state in states])

    server = grpc.server(ThreadPoolExecutor(1))
    add_NodeInfoGcsServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_afp_run_refuses_an_open_cluster_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster_auth, "is_loopback", lambda host: False)
    monkeypatch.setattr("afp_ray.study.check_study", lambda study: Checked())
    monkeypatch.setattr("afp_ray.study.run", lambda *_, **__: pytest.fail("it ran"))
    with grpc_head(None) as address:
        arguments = ["run", "demo", "--storage", str(tmp_path), "--address", address]
        assert cli.main(arguments) == 2
        assert "--allow-open-cluster" in capsys.readouterr().err
        with pytest.raises(pytest.fail.Exception, match="it ran"):
            cli.main([*arguments, "--allow-open-cluster"])
    assert cli.main(["run", "demo", "--storage", str(tmp_path), "--address", "http://127.0.0.1:8265"]) == 2
    assert "afp submit, with the same study file and --address http://127.0.0.1:8265" in capsys.readouterr().err


def test_auto_is_told_to_every_node_by_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray._private.services as services

    monkeypatch.setattr(services, "canonicalize_bootstrap_address", lambda address: "127.0.0.1:6379")
    assert cluster_auth.resolve("auto") == "127.0.0.1:6379"
    assert cluster_auth.resolve("10.0.0.1:6379") == "10.0.0.1:6379"

    def find_none(address: str) -> str:
        raise ConnectionError("none")

    monkeypatch.setattr(services, "canonicalize_bootstrap_address", find_none)
    with pytest.raises(UnavailableError, match="no Ray cluster runs on this machine"):
        cluster_auth.resolve("auto")
    check = found(doctor.examine(tmp_path, address="auto"), "ray cluster")
    assert (check.verdict, "start one" in check.fix) == ("FAIL", True)


@pytest.mark.parametrize("num_nodes, code", [(1, None), (2, 2)])
def test_a_storage_url_needs_a_cluster_of_one_node(
    num_nodes: int,
    code: int | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("afp_ray.study.check_study", lambda study: Checked())
    monkeypatch.setattr("afp_ray.study.run", lambda *_, **__: pytest.fail("it ran"))
    with grpc_head(None, num_nodes=num_nodes) as address:
        arguments = ["run", "demo", "--storage", f"file://{tmp_path}/there", "--address", address]
        if code is None:
            with pytest.raises(pytest.fail.Exception, match="it ran"):
                cli.main(arguments)
        else:
            assert cli.main(arguments) == code
            assert "give a folder that every node sees" in capsys.readouterr().err


@pytest.mark.parametrize("mode, verdict", [(0o600, "OK"), (0o644, "WARN")])
def test_a_token_that_others_read_is_told(mode: int, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tempfile.mkdtemp(prefix="afp-token-", dir="/tmp"))  # pytest's own folders are closed to others
    try:
        folder.chmod(0o755)
        file = folder / "auth_token"
        file.write_text("t")
        file.chmod(mode)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
        check = doctor._token()
        assert check.verdict == verdict
        assert (f"chmod 600 {file}" in check.fix) == (verdict == "WARN")
        folder.chmod(0o700)
        assert doctor._token().verdict == "OK"
    finally:
        shutil.rmtree(folder)


def test_a_token_that_is_asked_for_and_missing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert doctor._token().verdict == "FAIL"


@pytest.mark.parametrize(
    "revision, verdict, fix", [("0000deadbeef", "FAIL", "pip install --upgrade mlflow"), (None, "FAIL", "afp sync")]
)
def test_a_database_of_another_mlflow_is_told(
    revision: str | None, verdict: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("CREATE TABLE runs (id TEXT)")
        if revision:
            database.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    check = found(doctor.examine(tmp_path), "mlflow tracking")
    assert check.verdict == verdict
    assert fix in check.fix


def test_what_a_study_needs_is_held_against_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    weight = {"dtype": "F32", "shape": [10**6, 2_500_000], "data_offsets": [0, 10**13]}
    header = json.dumps({"transformer.wte.weight": weight}).encode()
    with (model / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 10**13)  # ten terabytes of nothing
    study = tmp_path / "large.yaml"
    study.write_text(
        f"name: large\nfixed: {{model.name: {model}}}\nruntime: {{gpus_per_worker: 4, workers_per_trial: 2}}\n"
    )
    assert cli.main(["doctor", str(study), "--storage", str(tmp_path)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert any("FAIL  storage" in line and "need at least 10,000.0 GB" in line for line in lines)
    assert any("gpu" in line and "needs 8" in line and line.startswith("WARN") for line in lines)


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
    "address, expected",
    [
        ("http://10.0.0.1:8265", ("10.0.0.1", 8265)),
        ("ray://head:10001", ("head", 10001)),
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("[::1]:6379", ("::1", 6379)),
        ("https://head", ("head", 443)),
        ("auto", ("", None)),
    ],
)
def test_addresses_have_a_host_and_a_port(address: str, expected: tuple[str, int | None]) -> None:
    assert (cluster_auth.host_of(address), cluster_auth.port_of(address)) == expected


@pytest.mark.parametrize(
    "host, expected", [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False)]
)
def test_the_loopback_is_known(host: str, expected: bool) -> None:
    assert cluster_auth.is_loopback(host) is expected


def test_a_cluster_that_cannot_be_asked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an installation without grpcio: what is not known to be safe is not used."""
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ConfigError, match="could not be seen") as caught:
        cluster_auth.require_token("10.1.2.3:6379")
    assert "--allow-open-cluster" in caught.value.fix
    cluster_auth.require_token("10.1.2.3:6379", allow_open=True)
