"""A study whose storage is a URL: run on one machine, asked about and continued on another."""

import json
from pathlib import Path

import pytest

from afp_ray.remote import Place
from afp_ray.remote import lease as leases
from services import cli

SMALL = [
    "training.max_steps=2",
    "data.num_pairs=20",
    "data.num_instructions=20",
    "data.languages=[zh]",
    "evaluation.tasks=[xcopa]",
    "evaluation.limit=6",
    "evaluation.representation=null",
]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Base and one trained arm, a few seconds on the embedded model."""
    fixed = "\n".join(f"  {line.replace('=', ': ', 1)}" for line in SMALL)
    file = tmp_path / "tiny.yaml"
    file.write_text(f"name: tiny\nfixed:\n{fixed}\ncompare: {{method: [base, afp]}}\nseeds: [0]\n")
    return file


@pytest.fixture(autouse=True)
def one_database(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making MLflow's tables takes longer than these studies."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.getbasetemp()}/remote-mlflow.db")


def afp(*arguments: str) -> int:
    return cli.main([*arguments])


def test_it_is_run_here_and_continued_elsewhere(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(leases, "SETTLE_S", 0.01)
    url = f"file://{tmp_path}/there"
    monkeypatch.setenv("AFP_STORAGE", url)
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "one"))
    budget = ["--set", "runtime.keep_checkpoints=all", "--executor", "local"]
    assert afp("run", str(study), *budget, "--json") == 0
    here = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (tmp_path / "there" / "tiny" / "report.html").is_file()
    assert not Place(url).read("tiny/lease.json")
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "two"))
    assert afp("status", "tiny", "--json") == 0
    there = json.loads(capsys.readouterr().out)
    assert there["counts"] == here["status"]["counts"]
    assert "one" not in there["folder"]
    assert afp("best", "tiny", "--json") == 0
    assert json.loads(capsys.readouterr().out)["study"] == "tiny"
    assert afp("resume", "tiny", *budget, "--set", "seeds=[0,1]", "--allow-drift", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["status"]["counts"]["DONE"] == 3
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "one"))
    assert afp("status", "tiny", "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"]["DONE"] == 3


def test_what_another_machine_drives_is_asked_to_stop_there(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(leases, "SETTLE_S", 0.01)
    url = f"file://{tmp_path}/there"
    monkeypatch.setenv("AFP_STORAGE", url)
    assert afp("run", str(study), "--executor", "local", "--set", "compare.method=[base]", "--json") == 0
    place = Place(url)
    place.write("tiny/lease.json", json.dumps({"token": "t", "host": "far", "pid": 7}).encode())
    capsys.readouterr()
    assert afp("stop", "tiny") == 0
    assert "asked pid 7 on far to stop" in capsys.readouterr().out
    assert place.read("tiny/stop") is not None


def test_a_storage_that_is_away_is_said_at_once(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert afp("run", str(study), "--storage", "nosuch://bucket/runs") == 2
    assert "nosuch://bucket/runs" in capsys.readouterr().err
