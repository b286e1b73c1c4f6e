"""Gradient checkpointing: the states inside each block are computed again in the backward pass instead of being kept.

What is kept is each block's input. Dropout draws the same again, and samples that share a row stay apart: the packed
attention, which ends with the forward, is entered once more for every block. A forward that stops at a layer, or that
looks at every layer, sees the blocks' inputs from outside of what is computed again.
"""

import contextlib
from collections.abc import Iterator
from functools import partial

from afp_ray.errors import ConfigError
from afp_ray.models.hidden_states import CausalModel
from afp_ray.models.packing import packing_of_now


@contextlib.contextmanager
def recomputed(model: CausalModel) -> Iterator[None]:
    """Recompute the blocks of a model in every backward pass until the end of the block; gradients stay as they are.

    Args:
        model: takes effect in train mode alone.
    Raises: ConfigError for a family that knows no gradient checkpointing.
    """
    if not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"{type(model).__name__} has no gradient checkpointing",
            where="runtime.gradient_checkpointing",
            fix="set runtime.gradient_checkpointing: false",
        )
    options = {"use_reentrant": False, "context_fn": partial(_contexts, model)}
    model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    try:
        yield
    finally:
        model.activation_checkpointing_disable()


def _contexts(
    model: CausalModel,
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """What surrounds a block in the forward, which has it already, and when it runs again."""
    return contextlib.nullcontext(), packing_of_now(model)
