"""The learning rate as a function of the step."""

import math

from afp_ray.config.training import TrainingConfig


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
