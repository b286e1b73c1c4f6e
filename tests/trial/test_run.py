"""The one arrow: durable, repeatable, never trained twice, and refused early where it cannot work."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from trial_cases import run_on_cpu

from afp_ray.config import TrainingRuntime, TrialConfig, nest, trial_id
from afp_ray.errors import ConfigError, DivergedError, ModelError
from afp_ray.evaluation.objective import objective_value
from afp_ray.evaluation.predictions import read_predictions
from afp_ray.methods import pins
from afp_ray.records import TrialResult
from afp_ray.trial.check import check_trial, fingerprints


def trial(method: str = "afp", **fields: Any) -> TrialConfig:
    small = {
        "method": method,
        "data.languages": ["zh", "tr"],
        "data.num_pairs": 200,
        "data.num_instructions": 60,
        "training.max_steps": 3,
        "training.batch_size": 4,
        "training.learning_rate": 1e-3,
        "evaluation.tasks": ["xcopa"],
        "evaluation.limit": 12,
        "evaluation.representation.num_pairs": 20,
    }
    return TrialConfig.model_validate(nest({**small, **fields, **pins(method)}))


def run(config: TrialConfig, folder: Path, *splits: str, **host: Any) -> TrialResult:
    result = run_on_cpu(config, folder, *splits, **host)
    assert result is not None
    return result


def num_trainings(folder: Path) -> int:
    file = folder / "training_calls.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_a_split_is_added_from_the_checkpoint_without_training_again(tmp_path: Path) -> None:
    config = trial()
    first = run(config, tmp_path / "a", "validation")
    assert first.splits == ("validation",)
    again = run(config, tmp_path / "a", "validation")
    assert again == first
    both = run(config, tmp_path / "a", "validation", "test")
    assert both.splits == ("validation", "test")
    assert num_trainings(tmp_path / "a") == 1
    assert TrialResult.model_validate_json((tmp_path / "a" / "result.json").read_text()) == both
    at_once = run(config, tmp_path / "b", "validation", "test")
    assert sorted(at_once.scores, key=str) == sorted(both.scores, key=str)


def test_the_same_trial_gives_the_same_numbers_and_another_seed_does_not(tmp_path: Path) -> None:
    runs = [run(trial(seed=seed), tmp_path / str(number), "validation") for number, seed in enumerate((0, 0, 1))]
    assert runs[0].scores == runs[1].scores
    assert runs[0].training.contrastive_loss == runs[1].training.contrastive_loss
    assert runs[0].training.contrastive_loss != runs[2].training.contrastive_loss


def test_micro_batches_change_no_loss(tmp_path: Path) -> None:
    whole = run(trial(), tmp_path / "whole", "validation").training
    parts = run(trial(), tmp_path / "parts", "validation", runtime=TrainingRuntime(micro_batch_size=1)).training
    assert parts.instruction_loss == pytest.approx(whole.instruction_loss, abs=1e-5)
    assert parts.contrastive_loss == pytest.approx(whole.contrastive_loss, abs=1e-5)


def test_base_trains_nothing_keeps_no_checkpoint_and_ignores_the_training_rows(tmp_path: Path) -> None:
    config = trial("base")
    result = run(config, tmp_path, "validation", "test")
    assert num_trainings(tmp_path) == 0
    assert result.checkpoint is None
    assert result.training.steps == 0
    assert fingerprints(config)["data"] == ""
    other = trial("base", **{"data.num_instructions": 7})
    assert trial_id(other, fingerprints(other)) == trial_id(config, fingerprints(config))


def test_predictions_carry_their_content_and_make_up_the_scores(tmp_path: Path) -> None:
    result = run(trial("base"), tmp_path, "validation")
    rows = read_predictions(tmp_path / result.predictions["validation"])
    assert all(row.content_id for row in rows)
    for language in ("en", "zh", "tr"):
        correct = [row.correct for row in rows if row.language == language]
        (score,) = [score for score in result.scores if score.task == "xcopa" and score.language == language]
        assert score.value == pytest.approx(sum(correct) / len(correct))


def test_divergence_names_its_step_and_leaves_no_result(tmp_path: Path) -> None:
    config = trial(**{"training.max_steps": 8})
    steep = config.training.model_copy(update={"learning_rate": 1e12})  # no file may ask for it
    with pytest.raises(DivergedError) as diverged:
        run(config.model_copy(update={"training": steep}), tmp_path, "validation")
    assert 0 <= diverged.value.step < 8
    assert not (tmp_path / "result.json").exists()


def test_a_damaged_checkpoint_is_not_scored(tmp_path: Path) -> None:
    run(trial(), tmp_path, "validation")
    weights = tmp_path / "checkpoint" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        run(trial(), tmp_path, "validation", "test")
    assert json.loads((tmp_path / "result.json").read_text())["splits"] == ["validation"]


@pytest.mark.parametrize(
    "fields, message, place",
    [
        ({"loss.layer": 9}, "layer 9 is beyond", "loss.layer"),
        ({"training.max_length": 4096}, "max_length 4096 is beyond", "training.max_length"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_it_is_loaded(
    fields: dict[str, Any], message: str, place: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        check_trial(trial(**fields))
    assert refused.value.where == place
    assert refused.value.allowed
    assert refused.value.fix


@pytest.mark.slow
def test_afp_aligns_what_base_does_not(tmp_path: Path) -> None:
    """The demo's headline at one setting: retrieval of held-out translations in four languages."""
    fields = {
        "data.languages": ["zh", "th", "tr", "sw"],
        "data.num_pairs": 4000,
        "data.num_instructions": 2000,
        "training.max_steps": 200,
        "training.batch_size": 8,
        "training.pair_batch_size": 64,
        "training.learning_rate": 1.5e-3,
        "loss.pooling": "mean",
        "loss.symmetric": True,
        "evaluation.representation.num_pairs": 100,
    }
    reached = {}
    for method in ("base", "afp"):
        result = run(trial(method, **fields), tmp_path / method, "validation", "test")
        reached[method] = objective_value(result.scores, "retrieval@1", pivot="en", split="test")
    assert reached["base"] < 0.2
    assert reached["afp"] > 0.6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_trial_gives_what_a_cpu_trial_gives(tmp_path: Path, precision: str) -> None:
    config = trial(**{"training.precision": precision, "evaluation.limit": None})
    on_cpu = run(config, tmp_path / "cpu", "validation")
    on_gpu = run(config, tmp_path / "gpu", "validation", device="cuda")
    tolerance = 1e-3 if precision == "fp32" else 3e-2
    assert on_gpu.training.contrastive_loss == pytest.approx(on_cpu.training.contrastive_loss, abs=tolerance)
    assert on_gpu.training.instruction_loss == pytest.approx(on_cpu.training.instruction_loss, abs=tolerance)
    assert on_gpu.training.peak_memory_bytes > 0
    for cpu, gpu in zip(on_cpu.scores, on_gpu.scores, strict=True):
        if cpu.metric == "accuracy":
            assert gpu.value == pytest.approx(cpu.value, abs=0.03), cpu
