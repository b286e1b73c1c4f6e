"""How a trial's weights are updated."""

from typing import Literal

from pydantic import Field

from afp_ray.config.base import StrictModel


class TrainingConfig(StrictModel):
    """Optimizer, schedule, batch, precision. One step takes `batch_size` instructions and `pair_batch_size` pairs."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up; cosine and linear end at 0."""
    warmup_ratio: float = Field(default=0.03, ge=0, le=1)
    """Share of `max_steps` in which the learning rate rises linearly from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    batch_size: int = Field(default=16, ge=1)
    """Instructions per step, and pairs unless `pair_batch_size` says otherwise, over all workers together."""
    pair_batch_size: int | None = Field(default=None, ge=2)
    """Pairs per step over all workers together; null takes `batch_size`. Pairs are short and their forward stops at
    `loss.layer`, so many of them cost little and each is a negative of all others."""
    max_steps: int = Field(default=5000, ge=0)
    """Optimizer steps; 0 evaluates the model as it is."""
    max_length: int = Field(default=256, ge=2)
    """Longest sample in tokens; longer ones are cut on the right."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is autocast with fp32 master weights."""

    @property
    def num_pairs_per_step(self) -> int:
        """Pairs of one step over all workers together."""
        return self.pair_batch_size or self.batch_size
