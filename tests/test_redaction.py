"""Secrets leave by no door: their forms, what the process knows, and what stays readable."""

import json
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate, make_study

from afp_ray.redaction import redact, redact_json
from afp_ray.store import write_json
from services import cli
from services.api import LOOPBACK_NAMES, create_app
from services.output import say_json_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql+pymysql://me:pa/ss@127.0.0.1:1/db", "mysql+pymysql://***@127.0.0.1:1/db"),
        ("postgresql://me:p@ss/w@rd@host/db", "postgresql://***@host/db"),
        ("http://me:12/34@host:5/x", "http://***@host:5/x"),
        ("https://h/?token=CANARY&x=1", "https://h/?token=***&x=1"),
        ("https://h/?X-Amz-Signature=a/b&X-Amz-Date=1", "https://h/?X-Amz-Signature=***&X-Amz-Date=1"),
        ("https://h?sig=CANARY", "https://h?sig=***"),
        ("https://h/?h=Bearer%20CANARY", "https://h/?h=Bearer%20***"),
        ("Authorization: Basic dXNlcjpw", "Authorization: ***"),
        ("Basic dXNlcjpwYXNz", "Basic ***"),
        ("Bearer abc.DEF123ghi", "Bearer ***"),
        ("dapi0123456789abcdef glpat-CANARY12 ghp_CANARY hf_AbCdEf0123", "*** *** *** ***"),
        ("AWS_SECRET_ACCESS_KEY=abc/def+ghi host=x password=zz9", "AWS_SECRET_ACCESS_KEY=*** host=x password=***"),
    ],
)
def test_a_secret_shows_by_its_form(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/models/a@b",
        "git+https://github.com/x/y@main s3://bucket/a@b sqlite:////data/a@b/c.db?x=1",
        f"{'0123456789abcdef' * 2}01234567 at facebook/xglm-564M@refs/pr/4",
        "Basic usage, bearer tokens, hf_transfer, RAY_AUTH_MODE=token, num_tokens=100",
        "evaluation.generation.max_new_tokens: 128, eos token: 2",
        "afp reproduce 63eda85bf8907eb2 --storage /home/me/runs",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_values_of_secret_variables_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", 'hun"ter<2')
    assert redact('denied: hun"ter<2') == "denied: ***"
    assert redact("hun&quot;ter&lt;2") == "***"
    assert json.loads(redact_json(json.dumps({"a": 'hun"ter<2', "n": 1}))) == {"a": "***", "n": 1}


def test_a_secret_of_a_study_is_shown_by_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where it stands beside a quotation mark, which a cut through JSON would lose."""
    from fastapi.testclient import TestClient

    paths = fabricate(tmp_path)
    study = make_study().model_dump(mode="json")
    study["description"] = 'see https://h/?token=CANARY"quoted now'
    study["runtime"]["tracking_uri"] = "mysql+pymysql://me:CAN/ARY@127.0.0.1:1/db"
    write_json(paths.study, study)
    client: Any = TestClient(create_app(tmp_path, hosts=[*LOOPBACK_NAMES, "testserver"]))
    for address in ("", "/demo", "/demo/report", "/demo/trials", "/demo/comparison"):
        answer = client.get(f"/v1/studies{address}")
        assert answer.status_code == 200
        assert not {"CANARY", "CAN/ARY"} & {word for word in ("CANARY", "CAN/ARY") if word in answer.text}
    for arguments in (["status", "demo", "--json"], ["best", "demo", "--json"], ["status", "demo"]):
        assert cli.main([*arguments, "--storage", str(tmp_path)]) == 0
        said = capsys.readouterr().out
        assert "CANARY" not in said
        assert "CAN/ARY" not in said
        assert "--json" not in arguments or json.loads(said)


def test_a_secret_beside_a_quotation_mark_leaves_a_line_of_json_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """As events, results of jobs and tables are printed: JSON that is text already."""
    say_json_text(json.dumps({"note": 'see https://h/?token=CANARY"quoted', "text": "正确"}), before="result   ")
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert json.loads(said.removeprefix("result   ")) == {"note": 'see https://h/?token=***"quoted', "text": "正确"}
