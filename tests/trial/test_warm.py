"""What a process keeps from trial to trial changes no bit of what a trial gives."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from trial_cases import run_on_cpu

from afp_ray.config import TrialConfig, nest
from afp_ray.data import tokenizer_content
from afp_ray.evaluation import check, prompts, questions
from afp_ray.models import load
from afp_ray.models.model_cache import WarmModels
from afp_ray.records import TrialResult


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the models that were read from their files, by a process that has kept nothing so far."""
    found: list[str] = []
    read = load._read_model

    def counted(config: Any, description: Any) -> Any:
        found.append(config.name)
        return read(config, description)

    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(load, "_read_model", counted)
    monkeypatch.setattr(load.load_model, "__kwdefaults__", {"device": "cpu", "cache": WarmModels(2**30)})
    monkeypatch.setattr(tokenizer_content, "_known", OrderedDict())
    monkeypatch.setattr(check, "_digests", OrderedDict())
    for kept in (questions._parsed_rows, questions._embedded_rows, prompts._embedded_rows):
        kept.cache_clear()
    return found


def run(folder: Path, temperature: float) -> TrialResult:
    fields = {
        "model.name": "embedded",
        "data.languages": ["zh"],
        "data.num_pairs": 32,
        "data.num_instructions": 32,
        "training.batch_size": 4,
        "training.max_steps": 3,
        "training.max_length": 48,
        "training.learning_rate": 1e-3,
        "evaluation.tasks": ["xnli"],
        "evaluation.limit": 6,
        "evaluation.representation.num_pairs": 20,
        "loss.temperature": temperature,
    }
    result = run_on_cpu(TrialConfig.model_validate(nest(fields)), folder, caches_scores=False)
    assert result is not None
    return result


def content(result: TrialResult) -> dict[str, Any]:
    """All that a trial found out."""
    found: dict[str, Any] = json.loads(result.model_dump_json(include={"scores", "layers", "fingerprints", "warnings"}))
    return found | {"loss": (result.training.contrastive_loss, result.training.instruction_loss)}


def test_a_warm_trial_gives_the_bits_of_a_cold_one_and_reads_no_model(tmp_path: Path, reads: list[str]) -> None:
    cold, other, warm = (run(tmp_path / name, value) for name, value in (("a", 0.05), ("b", 0.5), ("c", 0.05)))
    assert reads == ["embedded"]
    assert content(warm) == content(cold)
    assert content(other)["loss"] != content(cold)["loss"]
    for name in (
        "checkpoint/model.safetensors",
        "predictions/validation.parquet",
        "representation/validation.safetensors",
    ):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "a" / name).read_bytes(), name


def test_a_stored_checkpoint_is_read_and_not_kept(tmp_path: Path, reads: list[str]) -> None:
    first = run(tmp_path / "a", 0.05)
    config = TrialConfig.model_validate(first.config)
    both = run_on_cpu(config, tmp_path / "a", "validation", "test", caches_scores=False)
    assert both is not None
    assert both.splits == ("validation", "test")
    run(tmp_path / "b", 0.5)
    assert reads == ["embedded", str(tmp_path / "a" / "checkpoint")]
