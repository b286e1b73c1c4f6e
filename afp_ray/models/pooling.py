"""From token states to one vector per sentence.

Shapes: B sentences, T tokens with padding on either side, D width.
"""

import torch
from torch import Tensor

from afp_ray.config.loss import Pooling


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Pool the real tokens of every row; padding never has a part in it, on whichever side it stands.

    Args:
        states: (B, T, D) token states.
        mask: (B, T) 1 or true for real tokens; every row has at least one.
        pooling: `last` real token, `mean` or `max` over the real tokens.
    Returns: (B, D) in the dtype of `states`.
    Raises: ValueError when the shapes differ or a row has no real token.
    """
    if states.shape[:2] != mask.shape:
        raise ValueError(f"states {tuple(states.shape)} and mask {tuple(mask.shape)} differ")
    real = mask.bool()
    if mask.device.type == "cpu" and not bool(real.any(dim=1).all()):
        raise ValueError("a row has no real token; an empty sentence has no embedding")
    if pooling == "last":
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = (positions * real).argmax(dim=1)
        return states[torch.arange(len(states), device=states.device), last.to(states.device)]
    if pooling == "mean":
        weights = real.to(states.dtype).unsqueeze(-1)
        return (states * weights).sum(dim=1) / weights.sum(dim=1)
    return states.masked_fill(~real.unsqueeze(-1), float("-inf")).amax(dim=1)
