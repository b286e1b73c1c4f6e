"""Secrets leave by no door: their forms, what the process knows, and what stays readable."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate, make_study
from forked_python import forked_python

from afp_ray.config import RuntimeConfig
from afp_ray.execution.worker import output_to
from afp_ray.ledger import Ledger, replay
from afp_ray.redaction import redact, redact_json, remember
from afp_ray.store import StudyPaths, write_json
from services import cli
from services.api import LOOPBACK_NAMES, create_app
from services.output import say_json_text
from services.views.grid import Grid
from services.views.terminal import console, say_folded, show_grid

SUPPORT = Path(__file__).parent / "support"


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


@pytest.mark.parametrize(
    ("uri", "said", "shown"),
    [
        ("mysql://me:pa/ss@127.0.0.1:1/db", "nonnumeric port: 'pa'", "nonnumeric port: ***"),
        ("mysql://me:pa/ss@127.0.0.1:1/db", "denied for 'me'@'h' with pa/ss", "denied for ***@'h' with ***"),
        ("postgresql://me:x@db.example/d", 'failed for user "me"', "failed for ***"),
        ("mysql://a:hunter/2@x@db.example/d", "cannot connect to 'x@db.example'", "cannot connect to '***'"),
        (
            "http://a:12/34@host.example:5/",
            "exceeded with url: /34@host.example:5/api",
            "exceeded with url: /***:5/api",
        ),
        ("https://a:p%40CANARY@h/?token=QUERIED", "p@CANARY, p%40CANARY and QUERIED", "***, *** and ***"),
    ],
)
def test_a_part_of_a_uri_that_a_study_names_is_hidden_as_libraries_quote_it(uri: str, said: str, shown: str) -> None:
    assert redact(said) == said
    RuntimeConfig(tracking_uri=uri)
    assert redact(said) == shown
    assert redact(shown) == shown


def test_words_of_a_study_s_end_stay_whatever_the_password(tmp_path: Path) -> None:
    remember("mysql://a:complete/adopted@127.0.0.1/db")
    with Ledger.open(StudyPaths(tmp_path, "demo"), make_study()) as ledger:
        ledger.close("complete: told by complete/adopted")
    assert replay(StudyPaths(tmp_path, "demo").ledger).closed == "complete: told by ***"


def test_a_line_is_hidden_before_a_narrow_terminal_wraps_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    text = "see mysql://somebody:CAN/ARY@127.0.0.1/db"
    console().print(text)
    show_grid(Grid(["a"], [[text]], [[False]]), text)
    say_folded(text)
    said = "".join(capsys.readouterr().out.split())
    assert "***@127.0.0.1" in said
    assert "CAN" not in said


def test_a_trial_s_log_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "ENVCANARY9")
    told = "mysql://me:CANA/RY@127.0.0.1:1/db and ENVCANARY9"
    with output_to(tmp_path / "log.txt"):
        print(told)
        print(told, file=sys.stderr)
        logging.getLogger("a_library").warning("away: %s", told)
        try:
            raise OSError(told)
        except OSError:
            logging.getLogger("a_library").exception("lost")
    text = (tmp_path / "log.txt").read_text("utf-8")
    assert text.count("mysql://***@127.0.0.1:1/db and ***") == 4
    assert "CANA" not in text


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    """An interpreter that has imported what the command line will."""
    modules = ("afp_ray.study", "afp_ray.planning.plan", "afp_ray.tracking.projector", "services.views.html", "optuna")
    with forked_python(modules) as path:
        yield path


@pytest.mark.parametrize(
    ("uri", "secrets"),
    [
        ("http://researcher:CANA/RY@7secret@127.0.0.1:1/?token=TOKCANARY", ("CANA", "RY@7", "7secret", "TOKCANARY")),
        ("mysql+pymysql://researcher:CANA/RY7secret@127.0.0.1:1/db", ("CANA", "RY7")),
        ("https://127.0.0.1:1/?access_token=TOKCANARY&h=Bearer%20BEARERCANARY", ("TOKCANARY", "BEARERCANARY")),
    ],
)
def test_a_study_that_runs_to_its_end_keeps_its_secrets_in_one_file(
    uri: str, secrets: tuple[str, ...], tmp_path: Path, python: str
) -> None:
    """The server refuses, one trial fails and everything that can speak says all it knows."""
    storage, file, trials = tmp_path / "runs", tmp_path / "study.json", tmp_path / "trials.db"
    runtime = {"executor": "local", "tracking_uri": uri}
    file.write_text(json.dumps({"name": "told", "seeds": [0, 1], "compare": {"method": ["mcl"]}, "runtime": runtime}))
    verbs = [["run", str(file)], ["status", "told"], ["status", "told", "--json"], ["status"], ["best", "told"]]
    verbs += [["compare", "told", "--json"], ["report", "told"], ["sync", "told"], ["doctor", str(file)]]
    verbs += [["export", "told", "--optuna", str(trials)], ["resume", "told", "--set", f"runtime.tracking_uri={uri}@"]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])}
    environment |= {"MLFLOW_TRACKING_PASSWORD": "ENVCANARY9", "TOLD": f"{uri} ENVCANARY9", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [python, str(SUPPORT / "telling_trials.py")]
        + [json.dumps([*verb, "--storage", str(storage)]) for verb in verbs],
        env=environment,
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    assert [f"[{verb} {code}]" in said for verb, code in (("run", 3), ("sync", 75))] == [True, True], said
    assert said.count("lost: ") == 1, said
    for secret in (*secrets, "ENVCANARY9"):
        assert secret not in said
        holding = {at.name for at in tmp_path.rglob("*") if at.is_file() and secret.encode() in at.read_bytes()}
        assert holding <= {"study.json"}, secret
    (kept,) = storage.glob("told/study.json")
    assert kept.stat().st_mode & 0o777 == 0o600
    (failure,) = storage.glob("told/trials/*/failure-1.txt")
    assert "***" in failure.read_text("utf-8")
