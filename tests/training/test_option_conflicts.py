"""Options of training that do not work together are refused with the field to change."""

from typing import Any

import pytest

from afp_ray.config.loss import LossConfig
from afp_ray.config.runtime import TrainingRuntime
from afp_ray.config.training import LoraConfig, TrainingConfig
from afp_ray.errors import ConfigError
from afp_ray.training.option_conflicts import check_lengths, check_together

FULL = TrainingRuntime(sharding="full")
IN_BACKWARD: dict[str, Any] = {"optimizer_in_backward": True, "max_grad_norm": None}


@pytest.mark.parametrize(
    "where, loss, training, runtime, num_workers",
    [
        ("training.optimizer_in_backward", {}, IN_BACKWARD, TrainingRuntime(), 2),
        ("training.optimizer_in_backward", {}, IN_BACKWARD, FULL, 2),
        ("runtime.sharding", {}, {}, FULL, 1),
        ("runtime.sharding", {}, {"lora": LoraConfig()}, FULL, 2),
        ("loss.negatives", {"negatives": "queue"}, {}, FULL, 2),
        ("loss.layer", {"layer": 0}, {}, FULL, 2),
        ("loss.layer", {"layer": 0}, {"lora": LoraConfig()}, TrainingRuntime(), 1),
    ],
)
def test_what_does_not_work_together_is_refused(
    where: str, loss: Any, training: Any, runtime: TrainingRuntime, num_workers: int
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_together(LossConfig(**loss), TrainingConfig(**training), runtime, num_workers=num_workers)
    assert caught.value.where == where
    assert caught.value.fix.startswith(("set ", "pip "))
    check_together(LossConfig(**loss), TrainingConfig(**training, max_steps=0), runtime, num_workers=num_workers)


@pytest.mark.parametrize(
    "loss, training, runtime, num_workers",
    [
        ({}, {}, TrainingRuntime(), 1),
        ({}, {}, FULL, 2),
        ({"layer": "all"}, {"precision": "bf16_resident"}, FULL, 4),
        ({"layer": 0, "contrastive_weight": 0.0}, {}, FULL, 2),
        ({"negatives": "queue"}, IN_BACKWARD, TrainingRuntime(gradient_checkpointing=True), 1),
        ({}, {"lora": LoraConfig(), "precision": "bf16_resident"}, TrainingRuntime(), 2),
    ],
)
def test_what_works_together_is_let_through(
    loss: Any, training: Any, runtime: TrainingRuntime, num_workers: int
) -> None:
    check_together(LossConfig(**loss), TrainingConfig(**training), runtime, num_workers=num_workers)


def test_adapters_without_their_library_are_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="peft") as caught:
        check_together(LossConfig(), TrainingConfig(lora=LoraConfig()), TrainingRuntime())
    assert "pip install 'afp-ray[lora]'" in caught.value.fix


def test_shared_weights_are_refused_for_texts_that_may_not_stand_in_one_forward() -> None:
    training = TrainingConfig(max_length=64)
    with pytest.raises(ConfigError) as caught:
        check_lengths(48, training, FULL)
    assert (caught.value.where, caught.value.allowed) == ("training.max_length", "2 to 48 with runtime.sharding full")
    with pytest.raises(ConfigError, match="sharding") as caught:
        check_lengths(0, training, FULL)  # a family that is given rows of equal length alone
    assert caught.value.where == "runtime.sharding"
    check_lengths(64, training, FULL)
    check_lengths(48, training, TrainingRuntime())
    check_lengths(48, TrainingConfig(max_length=64, max_steps=0), FULL)
