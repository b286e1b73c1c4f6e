"""Tokens: shown once, kept as hashes, good until they expire or are revoked; and who may ask what, how often."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate

from afp_ray.errors import ConfigError
from services import cli, tokens
from services.api import create_app
from services.guard import Limits, Pace
from services.schemas import Problem
from services.server import Exposure, check_exposure
from services.tokens import Tokens, seconds_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabricate(tmp_path_factory.mktemp("runs")).storage


def client_of(storage: Path, **settings: Any) -> Any:
    from fastapi.testclient import TestClient

    return TestClient(create_app(storage, hosts=["*"], **settings), raise_server_exceptions=False)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_token_is_kept_as_a_hash_that_its_owner_alone_may_read(tmp_path: Path) -> None:
    kept = Tokens(tmp_path)
    token, record = kept.new("anna", "read")
    assert kept.file.stat().st_mode & 0o777 == 0o600
    assert token not in kept.file.read_text()
    assert token.rpartition("_")[2] not in kept.file.read_text()
    assert kept.find(token) == record
    assert [kept.find(text) for text in ("", "anna", token[:-1], token + "x", token.replace(record.id, "0" * 8))] == [
        None
    ] * 5
    other, _ = kept.new("bob", "submit")
    assert other != token
    assert kept.find(f"afp_{record.id}_{other.rpartition('_')[2]}"[: len(token)]) is None  # another's secret


def test_a_token_ends_when_it_expires_or_is_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, service = Tokens(tmp_path), Tokens(tmp_path)
    short, _ = kept.new("anna", "read", lifetime_s=seconds_of("2h"))
    long, record = kept.new("bob", "read")
    assert service.find(short) and service.find(long)
    kept.revoke(record.id)
    assert service.find(long) is None  # from the next request on
    now = time.time()
    monkeypatch.setattr(tokens.time, "time", lambda: now + 7201)
    assert service.find(short) is None
    with pytest.raises(ConfigError, match="no token 'bob'"):
        kept.revoke("bob")


def test_tokens_made_at_once_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: Tokens(tmp_path).new(f"user-{number}", "read")[0], range(8)))
    assert all(map(Tokens(tmp_path).find, made))


@pytest.mark.parametrize("damage", ["others", "text"])
def test_a_file_that_cannot_be_trusted_is_refused_and_makes_no_token_good(damage: str, tmp_path: Path) -> None:
    kept = Tokens(tmp_path)
    token, _ = kept.new("anna", "read")
    kept.file.chmod(0o644) if damage == "others" else kept.file.write_text("{")
    with pytest.raises(ConfigError, match="chmod 600" if damage == "others" else "cannot be read"):
        Tokens(tmp_path).find(token)
    assert client_of(tmp_path, is_open=False).get("/v1/studies", headers=bearer(token)).status_code == 401


@pytest.mark.parametrize("lifetime", ["", "3y", "0d", "-1d", "1.5h", "100000d"])
def test_a_lifetime_is_a_number_and_a_unit(lifetime: str) -> None:
    with pytest.raises(ConfigError, match="allowed: a whole number"):
        seconds_of(lifetime)
    assert (seconds_of("12h"), seconds_of("30d")) == (43_200, 2_592_000)


def test_the_command_makes_lists_and_revokes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--storage", str(tmp_path)]
    assert cli.main(["token", "new", "anna", "--scope", "submit", "--expires", "30d", "--json", *where]) == 0
    made = json.loads(capsys.readouterr().out)
    assert Tokens(tmp_path).find(made["token"]) is not None
    assert cli.main(["token", "new", "anna", *where]) == 2
    assert cli.main(["token", "list", *where]) == 0
    shown = capsys.readouterr().out
    assert "anna" in shown and made["id"] in shown and "submit" in shown
    assert made["token"] not in shown
    assert cli.main(["token", "revoke", "anna", *where]) == 0
    assert Tokens(tmp_path).find(made["token"]) is None


def test_beyond_this_machine_every_address_of_the_api_needs_a_token(storage: Path) -> None:
    http = client_of(storage, is_open=False)
    token, record = Tokens(storage).new("reader", "read")
    paths = [path.format(name="demo", trial_id="f" * 16) for path in http.get("/v1/openapi.json").json()["paths"]]
    assert len(paths) >= 10
    for path in paths:
        refused = http.get(path)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="afp_ray"'), path
        assert Problem.model_validate_json(refused.content).fix
    assert http.get("/v1/studies/demo", headers=bearer(token)).status_code == 200
    wrong = http.get("/v1/studies", headers=bearer(token[:-1] + ("A" if token[-1] != "A" else "B")))
    assert (wrong.status_code, "invalid_token" in wrong.headers["www-authenticate"]) == (401, True)
    assert http.get("/v1/studies", headers={"Authorization": f"Basic {token}"}).status_code == 401
    assert {http.get(path).status_code for path in ("/", "/docs", "/page.js", "/page.css")} == {200}
    Tokens(storage).revoke(record.id)
    assert http.get("/v1/studies/demo", headers=bearer(token)).status_code == 401


def test_on_this_machine_reading_is_open_but_not_to_what_a_proxy_passes_on(storage: Path) -> None:
    http = client_of(storage)
    assert http.get("/v1/studies").status_code == 200
    assert http.get("/v1/studies", headers=bearer("afp_00000000_wrong")).status_code == 401  # never less by mistake
    for header in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
        answer = http.get("/v1/studies", headers={header: "192.0.2.1"})
        assert answer.status_code == 401
        assert "proxy" in answer.json()["detail"]


def test_the_document_says_which_address_needs_a_token(storage: Path) -> None:
    for is_open, security in ((True, [{}, {"token": []}]), (False, [{"token": []}])):
        document = client_of(storage, is_open=is_open).get("/v1/openapi.json").json()
        assert document["paths"]["/v1/studies"]["get"]["security"] == security
        assert document["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}


def test_who_asks_too_often_is_told_when_to_come_again(storage: Path) -> None:
    http = client_of(storage, limits=Limits(requests_per_s=0.5, burst_s=6))
    anna, _ = Tokens(storage).new("anna", "read")
    answers = [http.get("/v1/health") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[3].headers["retry-after"] == "2"
    assert answers[3].headers["content-type"] == "application/problem+json"
    assert http.get("/v1/health", headers=bearer(anna)).status_code == 200  # each token has a pace of its own


def test_a_bucket_fills_at_its_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("services.guard.time.monotonic", lambda: now[0])
    pace = Pace(per_s=2, most=3)
    assert [pace.wait_s("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert pace.wait_s("b") == 0
    now[0] += 0.5
    assert [pace.wait_s("a"), pace.wait_s("a")] == [0, 0.5]
    now[0] += 1000
    assert [pace.wait_s("a") for _ in range(4)] == [0, 0, 0, 0.5]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of this machine's own name, signed by itself, and its key."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.com", ""])
def test_an_address_that_others_reach_needs_tls_or_a_word_and_a_token(
    host: str, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    kept = Tokens(tmp_path)
    with pytest.raises(ConfigError, match="other machines") as caught:
        check_exposure(Exposure(host), kept)
    assert "ssh -L" in caught.value.fix
    protected = [Exposure(host, 8000, *certificate), Exposure(host, behind_tls_proxy=True)]
    for exposure in protected:
        with pytest.raises(ConfigError, match="no token that is good"):
            check_exposure(exposure, kept)
    kept.new("anna", "read")
    for exposure in protected:
        check_exposure(exposure, kept)
        assert not exposure.is_open


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_this_machines_own_addresses_need_neither_unless_a_proxy_stands_before_them(host: str, tmp_path: Path) -> None:
    check_exposure(Exposure(host), Tokens(tmp_path))
    assert Exposure(host).is_open
    with pytest.raises(ConfigError, match="no token that is good"):
        check_exposure(Exposure(host, behind_tls_proxy=True), Tokens(tmp_path))


def test_files_of_tls_are_tried_before_anything_listens(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    for exposure, words in [
        (Exposure(tls_cert=cert), "--tls-key"),
        (Exposure(tls_key=key), "--tls-cert"),
        (Exposure(tls_cert=cert, tls_key=cert), "cannot be used"),
        (Exposure(tls_cert=tmp_path / "none.pem", tls_key=key), "No such file"),
    ]:
        with pytest.raises(ConfigError, match=words):
            check_exposure(exposure, Tokens(tmp_path))


def test_the_command_serves_by_tls_to_who_has_a_token(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    import ssl
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from served import served

    cert, key = certificate
    token, _ = Tokens(tmp_path).new("anna", "read")
    options = ("--host", "0.0.0.0", "--tls-cert", str(cert), "--tls-key", str(key))
    with served(tmp_path, *options) as port:
        address, context = f"https://localhost:{port}/v1/studies", ssl.create_default_context(cafile=str(cert))
        with pytest.raises(HTTPError, match="401"):
            urlopen(address, context=context)
        with urlopen(Request(address, headers=bearer(token)), context=context) as answer:
            assert json.load(answer) == []
