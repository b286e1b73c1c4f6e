"""Small batches and a small model for the tests of training."""

from collections.abc import Mapping
from typing import Any

import torch
from tiny_models import build_model

from afp_ray.config.loss import LossConfig
from afp_ray.config.training import TrainingConfig
from afp_ray.data.batches import InstructionBatch, PairBatch, TrainBatch
from afp_ray.training.step import TrainingStep


class RandomBatches:
    """Random rows of random lengths by step, cut into the shares of workers and into micro-batches."""

    def __init__(
        self, *, batch_size: int = 4, rank: int = 0, world_size: int = 1, micro_batch_size: int | None = None
    ) -> None:
        self.batch_size, self.micro = batch_size, micro_batch_size
        share = batch_size // world_size
        self.own = slice(rank * share, (rank + 1) * share)
        self.dropped_tokens = 0

    def batch(self, step: int, *, micro_batch_size: int | None = None) -> TrainBatch:
        generator = torch.Generator().manual_seed(step)
        source, target, text = (self._rows(longest, generator) for longest in (5, 9, 12))
        labels = text[0].masked_fill(text[1] == 0, -100)
        labels[:, :2] = -100
        num_supervised = int((labels != -100).sum())
        pairs = PairBatch(*(tensor[self.own] for tensor in (*source, *target)))
        own = [tensor[self.own] for tensor in (*text, labels)]
        size = micro_batch_size or self.micro or len(own[0])
        micro = [InstructionBatch(*(tensor[at : at + size] for tensor in own)) for at in range(0, len(own[0]), size)]
        return TrainBatch(pairs, tuple(micro), num_supervised)

    def _rows(self, longest: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.randint(3, longest + 1, (self.batch_size,), generator=generator)
        ids = torch.randint(4, 60, (self.batch_size, longest), generator=generator)
        mask = (torch.arange(longest) < lengths[:, None]).long()
        return ids * mask, mask


class Listener:
    """Keeps every report."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.calls: list[tuple[str, int, int]] = []

    def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
        self.calls.append((stage, done, total))
        self.metrics.append(dict(metrics))


def make_training(**fields: Any) -> TrainingConfig:
    """`learning_rate` may be one that no configuration takes, so that a training diverges."""
    rate = {"learning_rate": fields.pop("learning_rate", 1e-3)}
    return TrainingConfig(**{"batch_size": 4, "max_steps": 5, "max_length": 16, **fields}).model_copy(update=rate)


def gradients(
    batch: TrainBatch, loss: LossConfig, *, family: str = "llama", is_bf16: bool = False
) -> dict[str, torch.Tensor]:
    """Gradients of one batch by parameter name; a parameter without one is left out."""
    model = build_model(family)
    TrainingStep(model, loss, device=torch.device("cpu"), is_bf16=is_bf16).backward(batch)
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def relative_error(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """Norm of the difference over the norm of what is expected, all parameters together."""
    assert found.keys() == expected.keys()
    difference = sum(float((found[name] - expected[name]).double().square().sum()) for name in expected)
    return float((difference / sum(float(value.double().square().sum()) for value in expected.values())) ** 0.5)
