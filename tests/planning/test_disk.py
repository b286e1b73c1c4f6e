"""A disk without room is found before anything is trained, and named with what is needed and what is free."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from staged import NoProjection

from afp_ray.config import ModelConfig
from afp_ray.errors import StorageError
from afp_ray.models import hub
from afp_ray.models.describe import EMBEDDED_FOLDER
from afp_ray.models.load import load_model
from afp_ray.models.manifest import MANIFEST
from afp_ray.models.weight_files import SINGLE
from afp_ray.store import StudyPaths
from services import cli

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
name: room
fixed:
  data.languages: [zh]
  data.num_pairs: 8
  data.num_instructions: 8
  model.name: {model}
  training: {{max_steps: 1, batch_size: 4, max_length: 32}}
  evaluation.tasks: [xcopa]
  evaluation.limit: 4
  evaluation.representation: null
compare: {{method: [base, mit]}}
seeds: [0, 1]
runtime: {{executor: local, checkpoint_every_s: null}}
"""
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFP_STORAGE", str(tmp_path / "runs"))
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("afp_ray.study.BackgroundProjector", NoProjection)
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def checkpoint_bytes() -> int:
    model = load_model(ModelConfig()).model
    return sum(parameter.nbytes for parameter in model.parameters())


def write(folder: Path, model: str = "embedded") -> str:
    file = folder / "study.yaml"
    file.write_text(STUDY.format(model=model), "utf-8")
    return str(file)


def leave(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - free, free))


def test_a_disk_that_holds_no_checkpoint_is_refused_before_anything_is_written(
    tmp_path: Path,
    storage: Path,
    checkpoint_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = write(tmp_path)
    leave(monkeypatch, checkpoint_bytes - 1)
    assert cli.main(["run", study]) == 75
    said = capsys.readouterr().err
    assert f"{tmp_path} has {(checkpoint_bytes - 1) / 1e6:,.1f} MB free, and checkpoints need at least " in said
    assert f"{checkpoint_bytes / 1e6:,.1f} MB; free some space" in said
    assert not storage.exists()
    assert cli.main(["plan", study]) == 0
    assert f"WARN   {tmp_path} has " in capsys.readouterr().out
    assert cli.main(["plan", study, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["disk_bytes"] == 2 * checkpoint_bytes  # base keeps none
    assert "--storage" in answer["warnings"][0]
    cli.main(["doctor", study])
    assert "checkpoints need at least" in capsys.readouterr().out


def test_a_disk_that_the_whole_study_fills_is_warned_of(
    tmp_path: Path,
    storage: Path,
    checkpoint_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each trial then looks for room before it trains: none is trained for nothing."""
    study = write(tmp_path)
    leave(monkeypatch, 2 * checkpoint_bytes - 1)  # and no trial has the spare bytes that it asks for beside
    assert cli.main(["run", study]) == 75
    said = capsys.readouterr().err
    assert f"warning  {tmp_path} has " in said and "checkpoints need up to" in said
    assert "the checkpoint needs " in said and str(storage) in said
    assert not list(storage.glob("**/training_calls.jsonl")), "nothing was trained"
    monkeypatch.undo()
    monkeypatch.setenv("AFP_STORAGE", str(storage))
    monkeypatch.setattr("afp_ray.study.BackgroundProjector", NoProjection)
    assert cli.main(["resume", "room"]) == 0
    leave(monkeypatch, 0)
    assert cli.main(["run", study]) == 0, "what is complete writes no checkpoint"


def test_weights_that_are_still_to_be_converted_count(
    tmp_path: Path,
    storage: Path,
    checkpoint_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(EMBEDDED_FOLDER, folder)
    (folder / MANIFEST).unlink()
    (folder / SINGLE).unlink()
    torch.save(load_model(ModelConfig()).model.state_dict(), folder / "pytorch_model.bin")
    study = write(tmp_path, str(folder))
    leave(monkeypatch, checkpoint_bytes + 1)
    assert cli.main(["run", study]) == 75
    said = capsys.readouterr().err
    assert "checkpoints and converted weights need at least" in said
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**12))
    load_model(ModelConfig(name=str(folder)), cache=None)
    leave(monkeypatch, checkpoint_bytes + 1)
    assert cli.main(["plan", study]) == 0
    assert "and converted weights need" not in capsys.readouterr().out


def test_a_disk_that_fills_while_it_runs_ends_with_75_and_the_path(tmp_path: Path, checkpoint_bytes: int) -> None:
    """No file may grow to a checkpoint: what a full disk answers, without one."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (checkpoint_bytes // 2, checkpoint_bytes // 2))

    storage = tmp_path / "runs"
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "run", write(tmp_path), "--storage", str(storage)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "AFP_CACHE": str(tmp_path / "cache")},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 75, done.stderr
    assert "cannot write the checkpoint " in done.stderr and str(storage) in done.stderr
    assert "Traceback" not in done.stderr and "bug of afp_ray" not in done.stderr
    assert not list(storage.glob("**/checkpoint"))
    assert StudyPaths(storage, "room").ledger.read_bytes().endswith(b"\n")


def test_a_hub_cache_without_room_is_no_model_that_is_not_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device", "/cache/blobs/1")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    monkeypatch.setattr(hub, "_is_reachable", lambda: True)
    with pytest.raises(StorageError, match=r"files of model 'some/model' to /cache/blobs/1: .*No space"):
        hub._download(ModelConfig(name="some/model"), "a" * 40, ["*.json"])
