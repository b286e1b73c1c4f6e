"""A study whose storage is a URL: run on one machine, asked about and continued on another."""

import json
from pathlib import Path
from typing import Any

import pytest

from afp_ray.cache import cache_folder
from afp_ray.remote import RemoteStudy
from afp_ray.store import StudyPaths, url_folder
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
LOCAL = ["--set", "runtime.keep_checkpoints=all", "--executor", "local", "--json"]
MORE = [*LOCAL, "--set", "seeds=[0,1]", "--allow-drift"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Base and one trained arm, a few seconds on the embedded model."""
    fixed = "\n".join(f"  {line.replace('=', ': ', 1)}" for line in SMALL)
    file = tmp_path / "tiny.yaml"
    file.write_text(f"name: tiny\nfixed:\n{fixed}\ncompare: {{method: [base, afp]}}\nseeds: [0]\n")
    return file


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"file://{tmp_path}/there"
    monkeypatch.setenv("AFP_STORAGE", url)
    return url


@pytest.fixture(autouse=True)
def one_database(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making MLflow's tables takes longer than these studies."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.getbasetemp()}/remote-mlflow.db")


def afp(*arguments: str) -> int:
    return cli.main([*arguments])


def last_line(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def num_trainings(folder: Path) -> int:
    """How often training really started, in all trials of a study."""
    return sum(len(file.read_text().splitlines()) for file in folder.glob("trials/*/training_calls.jsonl"))


def test_it_is_run_here_and_continued_elsewhere(
    study: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "first"))
    assert afp("run", str(study), *LOCAL) == 0
    here = last_line(capsys)
    assert (tmp_path / "there" / "tiny" / "report.html").is_file()
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "second"))
    assert afp("status", "tiny", "--json") == 0
    there = json.loads(capsys.readouterr().out)
    assert there["counts"] == here["status"]["counts"]
    assert "first" not in there["folder"]
    assert afp("best", "tiny", "--json") == 0
    assert json.loads(capsys.readouterr().out)["study"] == "tiny"
    assert num_trainings(url_folder(url, cache_folder("storage")) / "tiny") == 1
    assert afp("resume", "tiny", *MORE) == 0
    assert last_line(capsys)["status"]["counts"]["DONE"] == 3
    assert num_trainings(url_folder(url, cache_folder("storage")) / "tiny") == 2, (
        "the finished trial was trained once, elsewhere"
    )
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "first"))
    assert afp("status", "tiny", "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"]["DONE"] == 3


def test_two_histories_are_refused_and_the_user_chooses(
    study: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        monkeypatch.setenv("AFP_CACHE", str(tmp_path / name))
        assert afp("run", str(study), *LOCAL) == 0
        capsys.readouterr()
    pushed = (tmp_path / "there" / "tiny" / "ledger.jsonl").read_bytes()
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "first"))
    with monkeypatch.context() as patch:  # as when the network was away from the start to the end
        patch.setattr(RemoteStudy, "pull", lambda *_, **__: None)
        patch.setattr(RemoteStudy, "project", lambda *_, **__: 0)
        assert afp("resume", "tiny", *MORE) == 0
    capsys.readouterr()
    paths = StudyPaths(url_folder(url, cache_folder("storage")), "tiny")
    assert afp("resume", "tiny", *MORE) == 2
    said = capsys.readouterr().out
    assert "tiny was driven on two machines" in said
    assert "move one of them away" in said
    assert (tmp_path / "there" / "tiny" / "ledger.jsonl").read_bytes() == pushed
    paths.folder.rename(paths.folder.with_name("tiny.apart"))
    assert afp("resume", "tiny", *MORE) == 0
    assert last_line(capsys)["status"]["counts"]["DONE"] == 3
    assert num_trainings(paths.folder) == 1, "the trial of the other history was taken over"


def test_a_study_that_another_machine_takes_while_it_runs_ends_with_2(
    study: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "there" / "tiny" / "ledger.jsonl"
    real = RemoteStudy.project

    def overtaken(self: RemoteStudy, **arguments: Any) -> int:
        if not ledger.exists():
            ledger.parent.mkdir(parents=True)
            ledger.write_text('{"time":1.0,"state":"OPENED","attempt":1}\n')
        return real(self, **arguments)

    monkeypatch.setattr(RemoteStudy, "project", overtaken)
    assert afp("run", str(study), *LOCAL) == 2
    assert "tiny was driven on two machines" in capsys.readouterr().out
    assert ledger.read_text().count("\n") == 1, "the other's ledger stands"


def test_a_driver_of_another_machine_cannot_be_stopped_through_the_url(
    study: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "first"))
    assert afp("run", str(study), *LOCAL, "--set", "compare.method=[base]") == 0
    capsys.readouterr()
    assert afp("stop", "tiny") == 0
    assert "nobody drives tiny" in capsys.readouterr().out
    ledger = tmp_path / "there" / "tiny" / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-1]))  # as while it runs elsewhere
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "second"))
    assert afp("stop", "tiny") == 2
    assert "on the machine that drives it" in capsys.readouterr().err


def test_a_url_that_is_away_is_said_and_loses_nothing(
    study: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").write_text("a file where the storage should be")
    assert afp("run", str(study), *LOCAL, "--set", "compare.method=[base]") == 75
    assert "storage file://" in capsys.readouterr().out, "away at the start: nothing is begun"
    with monkeypatch.context() as patch:
        patch.setattr(RemoteStudy, "pull", lambda *_, **__: None)  # as when it was there at the start
        assert afp("run", str(study), *LOCAL, "--set", "compare.method=[base]") == 75
    said = capsys.readouterr().out
    assert "nothing is lost" in said
    assert "afp resume tiny" in said
    (tmp_path / "there").unlink()
    assert afp("resume", str(study), *LOCAL, "--set", "compare.method=[base]") == 0
    assert (tmp_path / "there" / "tiny" / "ledger.jsonl").is_file()


def test_a_storage_that_is_unknown_is_said_at_once(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert afp("run", str(study), "--storage", "nosuch://bucket/runs") == 2
    assert "nosuch://bucket/runs" in capsys.readouterr().err


def test_a_password_in_the_url_is_hidden(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert afp("run", str(study), "--storage", "nosuch://me:secret-word@bucket/runs") == 2
    said = capsys.readouterr().err
    assert "nosuch://***@bucket" in said
    assert "secret-word" not in said
