"""What depends on the step: the learning rate, and the terms of the loss."""

import math
from dataclasses import replace

from afp_ray.config.loss import LossConfig
from afp_ray.config.training import TrainingConfig
from afp_ray.data.batches import TrainBatch


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Learning rate of one optimizer step.

    It rises linearly over the first `warmup_ratio * max_steps` steps (rounded up), whose last takes the peak, so that
    no step is spent at 0; then it stays, or falls to 0 at `max_steps` along a line or half a cosine.

    Args:
        config: peak, shape and number of steps.
        step: 0-based, below `max_steps`.
    Returns: the rate, > 0.
    """
    warmup = math.ceil(config.warmup_ratio * config.max_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - warmup) / (config.max_steps - warmup)
    share = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * share


def terms_of_step(batch: TrainBatch, loss: LossConfig, step: int) -> TrainBatch:
    """The rows that a step trains on: all of them, or with terms in turns those of its term alone.

    The order of the rows is that of the joint schedule: what a step leaves out is passed over, not kept for the next.

    Args:
        batch: rows of both terms.
        loss: `alternate` takes instructions in even steps and pairs in odd ones, where both terms are on.
        step: 0-based.
    """
    if not alternates(loss):
        return batch
    return replace(batch, pairs=None) if step % 2 == 0 else replace(batch, instructions=(), num_supervised=0)


def alternates(loss: LossConfig) -> bool:
    """Whether steps take the two terms in turns."""
    return loss.schedule == "alternate" and loss.contrastive_weight > 0 and loss.instruction_weight > 0
