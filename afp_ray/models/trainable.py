"""Trains a part of a model: the attention of its blocks, or some of the blocks; everything else is frozen."""

import contextlib
import re
from collections.abc import Iterator
from typing import Literal

from afp_ray.config.training import LayerRange
from afp_ray.errors import ModelError
from afp_ray.models.hidden_states import CausalModel, decoder_blocks

ATTENTION = re.compile(r"attn|attention")
"""In the name of whatever belongs to the attention of a block, in every family."""


def freeze_but(model: CausalModel, trainable: Literal["attention"] | LayerRange) -> None:
    """Let no weight but these have a gradient.

    Args:
        model: any family; changed in place. Embeddings, the norm after the blocks and the head are frozen.
        trainable: the projections of attention in every block with their norms, or all weights of a range of blocks.
    Raises: ModelError where the model has none of them.
    """
    blocks = decoder_blocks(model)
    model.requires_grad_(False)
    if isinstance(trainable, LayerRange):
        first, last = trainable.layers
        if last > len(blocks):
            raise ModelError(
                f"training.trainable names block {last} of a model that has {len(blocks)}",
                where="training.trainable",
                allowed=f"1 to {len(blocks)}",
                fix=f"set training.trainable: {{layers: [{min(first, len(blocks))}, {len(blocks)}]}}",
            )
        for block in blocks[first - 1 : last]:
            block.requires_grad_(True)
        return
    weights = [weight for name, weight in blocks.named_parameters() if ATTENTION.search(name)]
    if not weights:
        raise ModelError(
            f"the blocks of {type(model).__name__} have no part that is called attention",
            where="training.trainable",
            allowed="all, {layers: [first, last]}",
            fix="set training.trainable: all",
        )
    for weight in weights:
        weight.requires_grad_(True)


@contextlib.contextmanager
def partly_trained(model: CausalModel, trainable: Literal["all", "attention"] | LayerRange) -> Iterator[None]:
    """Freeze the rest in the block; afterwards every weight may be trained again, with no gradient left.

    Args:
        model: without adapters, all weights trainable.
        trainable: `all` freezes nothing.
    Raises: ModelError as `freeze_but` does.
    """
    if trainable == "all":
        yield
        return
    freeze_but(model, trainable)
    try:
        yield
    finally:
        model.requires_grad_(True)
