"""Runs a float32 model in bf16 for a while, and gives its float32 weights back as they were, bit for bit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from afp_ray.models.hidden_states import CausalModel

Precision = Literal["fp32", "bf16"]
_FLOAT32_BUFFERS = ("inv_freq",)
"""Endings of the names of rotary frequencies, from which the families make float32 angles."""


@contextmanager
def weights_in(model: CausalModel, precision: Precision) -> Iterator[None]:
    """Let `model` compute in `precision` until the end of the block; nothing may train it there.

    The float32 weights stay where they are, beside a copy of half their size, and are put back in the end: rounding
    them and widening them again would lose what training added last. Weights that are not float32 stay as they are, and
    so does what the family itself loads in float32 whatever is asked for.

    Args:
        model: its parameters stay the same objects, tied ones tied.
        precision: `fp32` leaves the model as it is.
    """
    if precision == "fp32":
        yield
        return
    whole: list[tuple[Tensor, Tensor]] = []
    buffers: list[tuple[Any, str, Tensor]] = []
    stays = _stays_float32(model)
    try:
        for name, parameter in model.named_parameters():
            if parameter.dtype == torch.float32 and not stays(name):
                whole.append((parameter, parameter.data))
                parameter.data = parameter.data.to(torch.bfloat16)
        for path, module in model.named_modules():
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.dtype == torch.float32 and not stays(f"{path}.{name}"):
                    buffers.append((module, name, buffer))
                    setattr(module, name, buffer.to(torch.bfloat16))
        yield
    finally:
        for parameter, values in whole:
            parameter.data = values
        for module, name, values in buffers:
            setattr(module, name, values)


def _stays_float32(model: CausalModel) -> Callable[[str], bool]:
    """Whether a parameter or buffer of this name is float32 in any case."""
    parts = tuple(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    return lambda name: name.endswith(_FLOAT32_BUFFERS) or any(part in name for part in parts)
