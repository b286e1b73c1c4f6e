"""Regional compilation: the blocks of a model share one compiled code, so that the compiler sees one block."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec

import torch

from afp_ray.cache import cache_folder
from afp_ray.errors import ConfigError
from afp_ray.models.hidden_states import CausalModel, decoder_blocks


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
