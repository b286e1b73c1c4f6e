"""The loop learns, repeats itself by seed, stops where the loss is no number, and leaves no trace."""

import math
from typing import Any

import pytest
import torch
from tiny_models import build_model
from training_cases import Listener, RandomBatches, make_training

from afp_ray.config.loss import LossConfig
from afp_ray.data.batches import TrainBatch
from afp_ray.errors import DivergedError
from afp_ray.records import Host
from afp_ray.training.loop import TrainingRequest, train
from afp_ray.training.schedule import learning_rate


class SameBatch(RandomBatches):
    """The batch of step 0 at every step."""

    def batch(self, step: int, *, micro_batch_size: int | None = None) -> TrainBatch:
        return super().batch(0, micro_batch_size=micro_batch_size)


def trained(
    seed: int = 0, *, family: str = "llama", loss: LossConfig | None = None, **training: Any
) -> dict[str, torch.Tensor]:
    model = build_model(family)
    train(model, RandomBatches(), TrainingRequest(loss or LossConfig(), make_training(**training), seed=seed), Host())
    return dict(model.state_dict())


def differ(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in first if not torch.equal(first[name], second[name])]


def test_a_batch_is_learnt() -> None:
    listener, model = Listener(), build_model("llama")
    summary = train(
        model,
        SameBatch(),
        TrainingRequest(LossConfig(), make_training(max_steps=40, learning_rate=1e-2)),
        Host(reporter=listener),
    )
    first, last = listener.metrics[0], listener.metrics[-1]
    assert last["contrastive_loss"] < 0.2 * first["contrastive_loss"]
    assert last["instruction_loss"] < 0.5 * first["instruction_loss"]
    assert summary.steps == 40
    assert summary.contrastive_loss == pytest.approx(sum(row["contrastive_loss"] for row in listener.metrics[-4:]) / 4)
    assert summary.instruction_loss == pytest.approx(sum(row["instruction_loss"] for row in listener.metrics[-4:]) / 4)


def test_every_step_is_reported_and_counted() -> None:
    listener = Listener()
    summary = train(
        build_model("llama"), RandomBatches(), TrainingRequest(LossConfig(), make_training()), Host(reporter=listener)
    )
    assert listener.calls == [("train", step, 5) for step in range(1, 6)]
    names = {"contrastive_loss", "instruction_loss", "learning_rate", "gradient_norm", "tokens_per_s"}
    assert all(names <= row.keys() for row in listener.metrics)
    batches = [RandomBatches().batch(step) for step in range(5)]
    real = sum(
        int(mask.sum())
        for batch in batches
        if batch.pairs is not None
        for mask in (batch.pairs.source_mask, batch.pairs.target_mask, batch.instructions[0].attention_mask)
    )
    assert summary.tokens == real
    assert summary.peak_memory_bytes > 10**7
    assert summary.seconds > 0
    assert summary.gradient_cosine is not None
    assert -1 <= summary.gradient_cosine <= 1


@pytest.mark.parametrize("off", ["contrastive", "instruction"])
def test_a_term_that_is_off_is_null(off: str) -> None:
    listener = Listener()
    loss = LossConfig(**{f"{off}_weight": 0.0})  # type: ignore[arg-type]
    summary = train(
        build_model("llama"), RandomBatches(), TrainingRequest(loss, make_training()), Host(reporter=listener)
    )
    assert getattr(summary, f"{off}_loss") is None
    assert summary.gradient_cosine is None
    assert all(f"{off}_loss" not in row for row in listener.metrics)


def test_no_steps_train_nothing() -> None:
    model = build_model("llama")
    summary = train(model, RandomBatches(), TrainingRequest(LossConfig(), make_training(max_steps=0)), Host())
    assert (summary.steps, summary.tokens, summary.contrastive_loss) == (0, 0, None)
    assert not differ(dict(model.state_dict()), dict(build_model("llama").state_dict()))


def test_equal_seeds_give_equal_weights_with_dropout() -> None:
    first = trained(7, family="gpt2")  # GPT-2 has dropout
    assert not differ(first, trained(7, family="gpt2"))
    assert differ(first, trained(8, family="gpt2"))


def test_the_global_random_state_and_the_mode_are_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    model = build_model("gpt2")
    train(model, RandomBatches(), TrainingRequest(LossConfig(), make_training()), Host())
    assert torch.equal(torch.rand(2), expected)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_follows_the_global_random_state_in_nothing() -> None:
    torch.manual_seed(1)
    first = trained(family="gpt2")
    torch.manual_seed(2)
    assert not differ(first, trained(family="gpt2"))


@pytest.mark.parametrize("rate", [1e9, 1e30])
def test_divergence_names_its_step(rate: float) -> None:
    listener = Listener()
    with pytest.raises(DivergedError) as caught:
        train(
            build_model("llama"),
            RandomBatches(),
            TrainingRequest(LossConfig(), make_training(max_steps=50, learning_rate=rate, warmup_ratio=0)),
            Host(reporter=listener),
        )
    assert caught.value.step == len(listener.calls)
    assert 0 < caught.value.step < 20
    assert "nan" in caught.value.what or "inf" in caught.value.what


def test_a_weight_that_is_no_number_is_found_at_the_first_step() -> None:
    model = build_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
    with pytest.raises(DivergedError, match="diverged at step 0: contrastive_loss is nan"):
        train(model, RandomBatches(), TrainingRequest(LossConfig(), make_training()), Host())


def test_gradients_are_clipped() -> None:
    moved = []
    for limit in (1e-12, 1e9):
        listener, model = Listener(), build_model("llama")
        train(
            model,
            RandomBatches(),
            TrainingRequest(LossConfig(), make_training(max_steps=1, max_grad_norm=limit, warmup_ratio=0)),
            Host(reporter=listener),
        )
        before = build_model("llama").state_dict()
        moved.append(max(float((value - before[name]).abs().max()) for name, value in model.state_dict().items()))
        assert listener.metrics[0]["gradient_norm"] > 1, "the norm is that before clipping"
    # Adam is blind to scale but for its epsilon of 1e-8, which gradients of 1e-12 are far below.
    assert moved[0] < 1e-2 * moved[1]


def test_bf16_trains_float32_weights() -> None:
    weights = trained(precision="bf16")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert differ(weights, trained())


def test_schedules_by_hand() -> None:
    def rates(**fields: Any) -> list[float]:
        config = make_training(learning_rate=1.0, max_steps=6, **fields)
        return [round(learning_rate(config, step), 6) for step in range(6)]

    assert rates(schedule="constant", warmup_ratio=0) == [1.0] * 6
    assert rates(schedule="constant", warmup_ratio=0.5) == [0.333333, 0.666667, 1.0, 1.0, 1.0, 1.0]
    assert rates(schedule="linear", warmup_ratio=1 / 3) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert rates(schedule="cosine", warmup_ratio=1 / 3) == [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]
    assert rates(schedule="cosine", warmup_ratio=1) == [0.166667, 0.333333, 0.5, 0.666667, 0.833333, 1.0]


def test_only_matrices_decay() -> None:
    still = trained(learning_rate=1e-30, weight_decay=1.0)
    assert not differ(still, dict(build_model("llama").state_dict()))
    loss = LossConfig(instruction_weight=0.0, layer=3)
    plain, decayed = trained(loss=loss), trained(loss=loss, weight_decay=10.0)
    assert all(
        name.endswith("proj.weight") or "embed" in name or "lm_head" in name for name in differ(plain, decayed)[:1]
    )
