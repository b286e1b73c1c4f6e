"""The arithmetic of AdamW on bf16 weights: one step in float32, and how its results become bf16 again.

Shapes: n elements of one or several parameters, end to end.
"""

from typing import Any

import torch
from torch import Tensor


def update_plainly(
    weight: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    bits: Tensor,
    group: dict[str, Any],
    step: int,
) -> None:
    """One AdamW step in float32, stored in place.

    Args:
        weight, gradient: (n,) bf16.
        state: (n,) moments, bf16, and with compensated rounding the lost bits.
        bits: (n,) uniform int32.
        group: of the optimizer.
        step: from 1.
    """
    gradient = gradient.float()
    of_first, of_second = group["betas"]
    first = state["exp_avg"].float().lerp_(gradient, 1 - of_first)
    second = state["exp_avg_sq"].float().mul_(of_second).addcmul_(gradient, gradient, value=1 - of_second)
    whole = joined(weight, state["lost"]) if "lost" in state else weight.float()
    whole.mul_(1 - group["lr"] * group["weight_decay"])
    divisor = (second / (1 - of_second**step)).sqrt_().add_(group["eps"])
    whole.addcdiv_(first, divisor, value=-group["lr"] / (1 - of_first**step))
    upper, lower = (bits >> 16) & 0xFFFF, bits & 0xFFFF
    state["exp_avg"].copy_(round_at_random(first, upper ^ lower))  # independent of either half alone
    state["exp_avg_sq"].copy_(round_at_random(second, upper))
    if "lost" not in state:
        weight.copy_(round_at_random(whole, lower))
        return
    nearest, lost = split(whole)
    weight.copy_(nearest)
    state["lost"].copy_(lost)


def split(values: Tensor) -> tuple[Tensor, Tensor]:
    """Cut float32 into the nearest bf16 and the bits by which it is off.

    Args:
        values: float32.
    Returns: bf16 (halves go away from zero) and int16; `joined` makes the same float32 of them.
    """
    bits = values.view(torch.int32)
    nearest = (bits + 0x8000) & -0x10000  # bf16 is the upper half of float32; half of its last place is added first
    return nearest.view(torch.float32).to(torch.bfloat16), (bits - nearest).to(torch.int16)


def joined(nearest: Tensor, lost: Tensor) -> Tensor:
    """The float32 numbers that `split` has cut."""
    return (nearest.float().view(torch.int32) + lost.to(torch.int32)).view(torch.float32)


def round_at_random(values: Tensor, bits: Tensor) -> Tensor:
    """Round to one of the two bf16 neighbours, to the upper one with a probability that makes it right on average.

    Args:
        values: float32.
        bits: int32 of the same shape, uniform in 0..65535.
    Returns: bf16; infinities stay.
    Source: arXiv:2010.06192.
    """
    raised = values.view(torch.int32) + bits  # the lower half of the bits decides about the upper one
    return (raised & -0x10000).view(torch.float32).to(torch.bfloat16)
