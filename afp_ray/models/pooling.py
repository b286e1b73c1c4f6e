"""From token states to one vector per sentence.

Shapes: B sentences, T tokens with padding on either side, N tokens of all sentences end to end, D width.
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


def pool_samples(states: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """Pool sentences that lie end to end; equal to `pool` over rows of their own.

    Args:
        states: (1, N, D) token states.
        lengths: (B,) tokens of each sentence, in order, each at least 1; they sum to N.
        pooling: `last` token, `mean` or `max` over the tokens of a sentence.
    Returns: (B, D), at least in float32.
    """
    wide = states[0].float() if states.dtype in (torch.bfloat16, torch.float16) else states[0]
    lengths = lengths.to(states.device)
    if pooling == "last":
        return wide.index_select(0, lengths.cumsum(0) - 1)
    # Not checked: the check would wait for the device.
    return torch.segment_reduce(wide, pooling, lengths=lengths, axis=0, unsafe=True)
