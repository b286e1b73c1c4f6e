"""A checkpoint is whole or not there, loads with stock transformers, and a damaged one is never used."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, build_model, build_tokenizer
from training_cases import RandomBatches, make_training
from transformers import AutoModelForCausalLM, AutoTokenizer

from afp_ray.config.loss import LossConfig
from afp_ray.config.model import ModelConfig
from afp_ray.errors import ModelError, UnavailableError
from afp_ray.models.load import load_model
from afp_ray.records import Host
from afp_ray.training.checkpoint import save_checkpoint, verify_checkpoint
from afp_ray.training.loop import TrainingRequest, train

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits  # type: ignore[no-any-return]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    save_checkpoint(build_model("llama"), build_tokenizer(), folder)
    return folder


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_trained_model_loads_with_stock_transformers(family: str, tmp_path: Path) -> None:
    model = build_model(family)
    train(model, RandomBatches(), TrainingRequest(LossConfig(), make_training(max_steps=2)), Host())
    save_checkpoint(model, build_tokenizer(), tmp_path / "checkpoint")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    assert torch.equal(logits(stock), logits(model))
    ours = load_model(ModelConfig(name=str(tmp_path / "checkpoint")))
    assert torch.equal(logits(ours.model), logits(model))


def test_the_tokenizer_is_saved_beside_the_weights(checkpoint: Path) -> None:
    assert AutoTokenizer.from_pretrained(checkpoint)("w1 w2").input_ids == [5, 6]


def test_a_tied_head_is_stored_once(checkpoint: Path) -> None:
    from safetensors import safe_open

    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names


def test_a_whole_checkpoint_is_verified(checkpoint: Path) -> None:
    verify_checkpoint(checkpoint)
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    assert set(files) == {path.name for path in checkpoint.iterdir()} - {"manifest.json"}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damage_is_found_and_named(checkpoint: Path, name: str, damage: str) -> None:
    file = checkpoint / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes({"flip": bytes(content), "truncate": bytes(content[:-1]), "empty": b""}[damage])
    with pytest.raises(ModelError) as caught:
        verify_checkpoint(checkpoint)
    assert caught.value.where == str(file)
    assert name in caught.value.problem
    assert caught.value.fix


@pytest.mark.parametrize("content", [None, "", "{}", '{"files": []}'])
def test_a_checkpoint_without_a_manifest_is_refused(checkpoint: Path, content: str | None) -> None:
    (checkpoint / "manifest.json").unlink()
    if content is not None:
        (checkpoint / "manifest.json").write_text(content)
    with pytest.raises(ModelError, match="manifest"):
        verify_checkpoint(checkpoint)


def test_saving_again_replaces_and_leaves_nothing_beside(checkpoint: Path) -> None:
    (checkpoint / "stray").write_text("old")
    save_checkpoint(build_model("llama", seed=1), build_tokenizer(), checkpoint)
    verify_checkpoint(checkpoint)
    assert not (checkpoint / "stray").exists()
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]


def test_a_save_that_fails_leaves_the_old_checkpoint(checkpoint: Path) -> None:
    class Broken:
        def save_pretrained(self, folder: Path) -> None:
            raise RuntimeError("no tokenizer")

    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    with pytest.raises(RuntimeError, match="no tokenizer"):
        save_checkpoint(build_model("llama", seed=1), Broken(), checkpoint)
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]


def test_what_a_kill_left_unfinished_is_removed_by_the_next_save(checkpoint: Path) -> None:
    for left in (".checkpoint.abc.tmp", ".checkpoint.abc.tmp.old"):
        (checkpoint.parent / left).mkdir()
        (checkpoint.parent / left / "model.safetensors").write_bytes(b"part")
    save_checkpoint(build_model("llama", seed=1), build_tokenizer(), checkpoint)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 10, 10))
    with pytest.raises(UnavailableError, match="MiB are free"):
        save_checkpoint(build_model("llama"), build_tokenizer(), tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())
