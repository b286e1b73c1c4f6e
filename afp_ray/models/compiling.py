"""Regional compilation: the blocks of a model share one compiled code, so that the compiler sees one block."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from afp_ray.cache import cache_folder
from afp_ray.errors import ConfigError
from afp_ray.models.hidden_states import CausalModel, decoder_blocks

_COMPILING_S = 60.0
"""What compiling the blocks takes at most, in a process that finds none of it in the cache."""
_SAVED_S = 1.2e-10
"""Seconds that a token saves in each block for each unit of its width: of 24 blocks of width 1,024 on an H200, captured
steps of 8,192 tokens took 95 ms, and 70 ms with compiled blocks. A slower card saves more."""


@dataclass(frozen=True, slots=True)
class Compiling:
    """Whether the blocks of a model are compiled.

    Attributes:
        is_on: whether they are.
        because: what was judged, in words; None where the study said it.
    """

    is_on: bool
    because: str | None = None


def judge_compiling(model: CausalModel, step: str, device: torch.device, num_tokens: int) -> "Compiling":
    """Whether the blocks are compiled for a training.

    Args:
        model: a causal LM.
        step: `runtime.step`; `compile` always compiles, `graph` on a CUDA device where that pays back, others never.
        device: of the model.
        num_tokens: that the whole training passes through the model.
    """
    if step != "graph" or device.type != "cuda":
        return Compiling(step == "compile")
    shape = model.config.get_text_config()
    saved_s = _SAVED_S * shape.num_hidden_layers * shape.hidden_size * num_tokens
    if saved_s > _COMPILING_S:
        return Compiling(True, f"blocks compiled, which saves about {saved_s:.0f} s")
    why = f"compiling takes up to {_COMPILING_S:.0f} s and would save about {saved_s:.0f} s"
    return Compiling(False, f"blocks not compiled: {why}")


@contextlib.contextmanager
def compiled_blocks(model: CausalModel, *, is_asked: bool = True) -> Iterator[None]:
    """Run the compiled forward of every block until the end of the block; afterwards the stock model is back.

    The first steps take the time to compile, 10 to 60 s; another process finds most of it in `$AFP_CACHE`. Attention of
    samples that share a row stays outside of what is compiled. States are equal to rounding.

    Args:
        model: a causal LM.
        is_asked: false does nothing.
    Raises: ConfigError where what the compiler needs is not installed.
    """
    if not is_asked:
        yield
        return
    _require_compiler(model.device)
    keep_compiled()
    blocks = list(decoder_blocks(model))
    for block in blocks:
        # On the instance, so that hooks of the block, which stop a forward at a layer, stay outside.
        block.forward = torch.compile(block.forward)
    try:
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def keep_compiled() -> None:
    """Let every process of a user find what one of them has compiled; call it before the compiler starts."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder("compiled")))


def _require_compiler(device: torch.device) -> None:
    on_cuda = device.type == "cuda"
    is_there = find_spec("triton") if on_cuda else any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))
    if not is_there:
        raise ConfigError(
            "the blocks of a model are compiled with "
            + ("triton" if on_cuda else "a C++ compiler")
            + ", and it is not "
            "installed",
            where="runtime.step",
            fix=("pip install triton" if on_cuda else "install g++ or clang++") + ", or set runtime.step: eager",
        )
