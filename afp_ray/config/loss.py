"""Weights and shape of the training loss."""

from typing import Annotated, Literal

from pydantic import Field

from afp_ray.config.base import StrictModel

Pooling = Literal["last", "mean", "max"]


class LossConfig(StrictModel):
    """Contrastive term plus instruction term; a weight of 0 removes its term."""

    contrastive_weight: float = Field(default=1.0, ge=0, le=1e6)
    """Multiplies the contrastive term."""
    instruction_weight: float = Field(default=1.5, ge=0, le=1e6)
    """lambda: multiplies the instruction (next-token) term."""
    temperature: float = Field(default=0.05, gt=0, le=1e6)
    """Softmax temperature of the contrastive term, unitless."""
    layer: Annotated[int, Field(ge=0)] | Literal["middle", "all"] = 1
    """Index into `hidden_states`: 0 is the embedding output, 1 the first block. `middle` is half of the blocks, `all`
    the mean of the contrastive losses of every layer."""
    pooling: Pooling = "last"
    """How token states of that layer become one vector per sentence."""
    symmetric: bool = False
    """Average the losses of both directions; false takes pivot to target alone, as published."""
    negatives: Literal["batch", "global", "queue"] = "global"
    """Negatives from the worker's own rows, from the rows of all workers, or from these and a queue of earlier targets
    encoded by a slow copy of the lower layers (XlCo, arXiv:2007.07834), which helps batches of a few pairs."""
    negatives_from: Literal["other", "both"] = "other"
    """Negatives of a sentence: those in the other language alone, as published, or those in its own language as well,
    as AFP's figure draws them."""
    queue_size: int = Field(default=4096, ge=1, le=100_000_000)
    """Targets in the queue; idle unless `negatives` is `queue`."""
    queue_momentum: float = Field(default=0.999, ge=0, lt=1)
    """Share of the slow copy that stays at each step; idle unless `negatives` is `queue`."""
    schedule: Literal["joint", "alternate"] = "joint"
    """Both terms in every step, or the instruction term in even steps and the contrastive term in odd ones."""
