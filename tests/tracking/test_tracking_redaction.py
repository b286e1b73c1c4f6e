"""What is a secret goes, and nothing else."""

import pytest

from afp_ray.tracking.redaction import redact


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("mysql+pymysql://user:pa/ss@127.0.0.1:1/db", "mysql+pymysql://***@127.0.0.1:1/db"),
        ("postgresql://u:p@ss@host/db?sslmode=require", "postgresql://***@host/db?sslmode=require"),
        ("https://me:secret@host/x", "https://***@host/x"),
        ("https://host/x?token=abc&run=5", "https://host/x?token=***&run=5"),
        ("https://host/x?X-Amz-Signature=ab12&a=b", "https://host/x?X-Amz-Signature=***&a=b"),
        ("http://host/?api_key=k&sig=s", "http://host/?api_key=***&sig=***"),
        ("Authorization: Bearer abc.DEF123ghi", "Authorization: Bearer ***"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
        ("dapi0123456789abcdef0123 glpat-abcdefghij1234567890", "*** ***"),
        ('{"password": "hunter2", "user": "me"}', '{"password": "***", "user": "me"}'),
        ("password=hunter2 next", "password=*** next"),
    ],
)
def test_secrets_go(text: str, clean: str) -> None:
    assert redact(text) == clean
    assert redact(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/path/a@b",
        "sqlite:////data/runs/mlflow.db",
        "facebook/xglm-564M@refs/pr/4",
        "a" * 40,
        "afp reproduce 63eda85bf8907eb2 --storage /home/me/runs",
        "the basic configuration of a bearer of news",
        "evaluation.generation.max_new_tokens: 128, eos token: 2",
        "https://arxiv.org/abs/2311.08089",
        "s3://bucket/runs?versionId=5",
    ],
)
def test_everything_else_stays(text: str) -> None:
    assert redact(text) == text


def test_values_of_secret_variables_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse battery")
    assert redact("it was correct horse battery") == "it was ***"
