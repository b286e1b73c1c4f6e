"""The arithmetic of AdamW on bf16 weights: one step in float32, and how its results become bf16 again.

In plain operations it passes about 35 times over memory. Compiled it is one kernel, which reads and writes each number
once. Both draw from the same bits and round alike; a float32 on the way may be off by its last place, where the
compiler fuses another product into a sum, or fuses none. That turns one of some ten thousand roundings at random.

Shapes: n elements of one or several parameters, end to end.
"""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from afp_ray.models.compiling import keep_compiled
from afp_ray.training.gather import sum_over_workers, world_size
from afp_ray.training.oom_retry import is_out_of_memory

Update: TypeAlias = Callable[[Tensor, Tensor, dict[str, Tensor], Tensor, Mapping[str, Any], int], None]
"""One step, stored in place; arguments are those of `update_plainly`."""
_COMPILING_S = 20.0
"""What compiling takes at most, with the start of the compiler, on one core."""
_SAVED_S = 8e-11
"""Seconds that a weight saves in a step: 50 ms for 564 million weights on an H200, by what bf16_resident took more than
bf16 (docs/experiments.md). A card of less bandwidth saves more."""
_LEAST = 1024
"""Fewer elements are not worth a kernel of their own, and one alone would be compiled once more."""


def choose_update(
    device: torch.device,
    rounding: Literal["stochastic", "compensated"],
    *,
    num_weights: int,
    num_steps: int,
    is_compiled: bool | None = None,
) -> tuple[Update, str]:
    """The form of the update for one training, and in words which it is and why.

    Args:
        device: of the weights.
        rounding: of the updated weights.
        num_weights: that are trained on this device.
        num_steps: of the training.
        is_compiled: whether to compile where that works; None compiles on CUDA alone, where it pays back.
    Returns: the plain form also where compiling fails, or where what it made does not give what the plain form gives.
    """
    saved_s = _SAVED_S * num_weights * num_steps
    if is_compiled is None:
        if device.type != "cuda":
            return update_plainly, "by plain operations"
        if saved_s < _COMPILING_S:
            judged = f"one kernel would save about {saved_s:.0f} s and takes up to {_COMPILING_S:.0f} s to compile"
            return update_plainly, f"by plain operations: {judged}"
    elif not is_compiled:
        return update_plainly, "by plain operations"
    because = _obstacle(device, rounding == "compensated")
    # Workers whose weights are equal stay so only in one form.
    if world_size() > 1:
        num_ready = int(sum_over_workers(torch.tensor(int(because is None), device=device)))
        if num_ready < world_size():
            because = because or "it does not compile on another worker"
    if because is not None:
        return update_plainly, f"by plain operations: {because}"
    return _update_in_one_kernel, f"by one compiled kernel, which saves about {saved_s:.0f} s on a card"


def update_plainly(
    weight: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    bits: Tensor,
    group: Mapping[str, Any],
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


def _update_in_one_kernel(
    weight: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    bits: Tensor,
    group: Mapping[str, Any],
    step: int,
) -> None:
    """As `update_plainly`."""
    if len(weight) < _LEAST:
        return update_plainly(weight, gradient, state, bits, group, step)
    rate, (of_first, of_second) = group["lr"], group["betas"]
    # What differs by step is read from memory: a number in the code would be compiled anew in every step.
    numbers = torch.tensor(
        [1 - rate * group["weight_decay"], 1 - of_second**step, -rate / (1 - of_first**step)], dtype=torch.float32
    ).to(weight.device, non_blocking=True)
    moments, lost = (state["exp_avg"], state["exp_avg_sq"]), state.get("lost")
    _compiled()(weight, gradient, moments, lost, bits, numbers, (of_first, of_second, group["eps"]))


@functools.cache
def _compiled() -> Callable[..., None]:
    keep_compiled()
    return torch.compile(_formula, dynamic=True, fullgraph=True)


def _formula(
    weight: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    lost: Tensor | None,
    bits: Tensor,
    numbers: Tensor,
    constants: tuple[float, float, float],
) -> None:
    """What `update_plainly` computes, in the same order and without storing anything on the way.

    Args:
        weight, gradient, bits, lost: as there; `moments` are those of its `state`.
        numbers: (3,) float32 factor of decay, correction of the second moment, corrected negative rate.
        constants: both betas and epsilon.
    """
    of_first, of_second, epsilon = constants
    wide = gradient.float()
    first = moments[0].float().lerp(wide, 1 - of_first)
    second = (moments[1].float() * of_second).addcmul(wide, wide, value=1 - of_second)
    whole = (weight.float() if lost is None else joined(weight, lost)) * numbers[0]
    whole = whole + numbers[2] * first / ((second / numbers[1]).sqrt() + epsilon)
    upper, lower = (bits >> 16) & 0xFFFF, bits & 0xFFFF
    moments[0].copy_(round_at_random(first, upper ^ lower))
    moments[1].copy_(round_at_random(second, upper))
    if lost is None:
        weight.copy_(round_at_random(whole, lower))
        return
    nearest, rest = split(whole)
    weight.copy_(nearest)
    lost.copy_(rest)


@functools.cache
def _obstacle(device: torch.device, is_compensated: bool) -> str | None:
    """Why the compiled form cannot serve on a device, found out by compiling it; None where its values are right."""
    plain, compiled = (_trial_update(device, is_compensated) for _ in range(2))
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the compiler imports what torch itself gives up
            update_plainly(*plain, group, 3)
            _update_in_one_kernel(*compiled, group, 3)
    except RuntimeError as error:  # all that the compiler raises is one
        if is_out_of_memory(error):
            raise
        first_lines = " ".join(str(error).split("\n\n")[0].split())  # what follows is advice to who debugs the compiler
        return f"the compiler failed, {type(error).__name__}: {first_lines}"
    return None if _are_alike(plain, compiled) else "the compiled kernel gives other values"


_Arguments: TypeAlias = tuple[Tensor, Tensor, dict[str, Tensor], Tensor]


def _trial_update(device: torch.device, is_compensated: bool) -> _Arguments:
    """Random arguments of an update, the same at every call."""
    generator, size = torch.Generator().manual_seed(0), 4 * _LEAST

    def draw(scale: float) -> Tensor:
        return (scale * torch.randn(size, generator=generator)).to(device, torch.bfloat16)

    state = {"exp_avg": draw(0.01), "exp_avg_sq": draw(0.01).square()}
    if is_compensated:
        lost = torch.randint(-(2**15), 2**15, (size,), generator=generator)
        state["lost"] = lost.to(device, torch.int16)
    bits = torch.randint(-(2**31), 2**31, (size,), generator=generator).to(device, torch.int32)
    return draw(1.0), draw(0.01), state, bits


def _are_alike(plain: _Arguments, compiled: _Arguments) -> bool:
    """Whether few roundings at random differ, by one place of bf16, and nothing else."""
    first, second = ({"weight": weight, **state} for weight, _, state, _ in (plain, compiled))
    if "lost" in first:
        wholes = [joined(values.pop("weight"), values.pop("lost")) for values in (first, second)]
        if not torch.allclose(wholes[1], wholes[0], rtol=1e-5, atol=1e-6):
            return False
    return all(
        torch.allclose(second[name].float(), first[name].float(), rtol=2**-7, atol=0)
        and float((second[name] != first[name]).float().mean()) < 0.01
        for name in first
    )


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
