"""How a trial's weights are updated."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from afp_ray.config.base import StrictModel

MAX_BATCH_SIZE = 1_000_000
"""No machine takes more rows in a step; what is larger is a slip of the keyboard."""


class LoraConfig(StrictModel):
    """Low-rank adapters on the frozen weights (arXiv:2106.09685); the saved checkpoint has them merged."""

    rank: int = Field(default=16, ge=1, le=65_536)
    """Rank of the update of each matrix."""
    alpha: float = Field(default=32.0, gt=0, le=1e6)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapters."""
    targets: Literal["linear", "attention"] = "linear"
    """Every linear layer of the blocks, or the projections of attention alone."""


class LayerRange(StrictModel):
    """Blocks that are trained, the others being frozen."""

    layers: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    """First and last of them; 1 is the block above the embeddings."""

    @model_validator(mode="after")
    def _has_a_block(self) -> Self:
        if self.layers[0] > self.layers[1]:
            raise ValueError(f"the first block {self.layers[0]} is above the last one {self.layers[1]}")
        return self


class TrainingConfig(StrictModel):
    """Optimizer, schedule, batch, precision. One step takes `batch_size` instructions and `pair_batch_size` pairs."""

    learning_rate: float = Field(default=1e-5, gt=0, le=1000)
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up; cosine and linear end at 0."""
    warmup_ratio: float = Field(default=0.03, ge=0, le=1)
    """Share of `max_steps` in which the learning rate rises linearly from 0."""
    weight_decay: float = Field(default=0.0, ge=0, le=1000)
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this global norm; null leaves them."""
    batch_size: int = Field(default=16, ge=1, le=MAX_BATCH_SIZE)
    """Instructions per step, and pairs unless `pair_batch_size` says otherwise, over all workers together."""
    pair_batch_size: int | None = Field(default=None, ge=2, le=MAX_BATCH_SIZE)
    """Pairs per step over all workers together; null takes `batch_size`. Pairs are short and their forward stops at
    `loss.layer`, so many of them cost little and each is a negative of all others."""
    max_steps: int = Field(default=5000, ge=0, le=1_000_000_000)
    """Optimizer steps; 0 evaluates the model as it is."""
    max_length: int = Field(default=256, ge=2, le=10_000_000)
    """Longest sample in tokens; longer ones are cut on the right."""
    precision: Literal["fp32", "bf16", "bf16_resident"] = "fp32"
    """`bf16` is autocast with fp32 master weights; `bf16_resident` keeps weights and gradients in bf16 as well."""
    rounding: Literal["stochastic", "compensated"] = "stochastic"
    """Update of bf16 weights: rounded at random in proportion (arXiv:2010.06192), or with the lost part kept beside
    each weight (Kahan). Idle unless `precision` is `bf16_resident`."""
    optimizer_in_backward: bool = False
    """Update each weight as soon as its gradient is there and free the gradient; needs `max_grad_norm: null`, since
    the norm of all gradients is known at the end only."""
    lora: LoraConfig | None = None
    """Train adapters alone; null trains every weight."""
    trainable: Literal["all", "attention"] | LayerRange = "all"
    """Weights that are trained: all, those of attention in every block, or those of some blocks, `{layers: [first,
    last]}`. Embeddings, the last norm and the head are trained with `all` alone."""

    @model_validator(mode="after")
    def _norm_is_known_in_time(self) -> Self:
        if self.optimizer_in_backward and self.max_grad_norm is not None:
            raise ValueError("optimizer_in_backward frees gradients before their norm is known; set max_grad_norm null")
        return self

    @property
    def num_pairs_per_step(self) -> int:
        """Pairs of one step over all workers together."""
        return self.pair_batch_size or self.batch_size
