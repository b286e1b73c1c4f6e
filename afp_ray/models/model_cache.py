"""Keeps the last models that a process read, so that its next trial need not read them again; gives out copies alone.

A warm actor runs many trials of one checkpoint. The weights stay in its own memory on the CPU, as they were read, and
nobody trains them: every trial gets a copy. Only small models are kept, `MAX_MODELS` of them, and none that takes more
than a share of the memory that the process may use: `AFP_KEEP_MODELS_GB` names another limit, 0 keeps none.
"""

import copy
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cache
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from afp_ray.cache import bytes_from
from afp_ray.models.hidden_states import CausalModel

MAX_MODELS = 2
"""Of a study: the model that is trained, and one more that an arm may compare it with."""
MEMORY_SHARE = 1 / 16
"""Of the machine's or container's memory, for all kept models of one process: several trials share a machine."""
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class WarmModels:
    """The last models that were read, as they were read.

    Args:
        max_bytes: weights kept in memory; the model used longest ago goes first, one above the limit is never kept.
            None asks the environment and the memory there is, when the first model comes.
        max_models: models kept.
    """

    def __init__(self, max_bytes: int | None = None, max_models: int = MAX_MODELS) -> None:
        self._max_bytes, self.max_models = max_bytes, max_models
        self._kept: OrderedDict[Hashable, tuple[CausalModel, PreTrainedTokenizerBase, int]] = OrderedDict()

    @property
    def max_bytes(self) -> int:
        """Bytes of weights that may be kept.

        Raises: ConfigError for a bad `$AFP_KEEP_MODELS_GB`.
        """
        return max_model_bytes() if self._max_bytes is None else self._max_bytes

    def get(
        self, key: Hashable, read: Callable[[], tuple[CausalModel, PreTrainedTokenizerBase]]
    ) -> tuple[CausalModel, PreTrainedTokenizerBase]:
        """A fresh model and tokenizer for `key`; `read` is called when none is kept.

        Args:
            key: names the content; equal keys mean equal weights.
            read: gives a model on the CPU.
        Returns: copies whose parameters share no memory with the kept ones; tied weights stay tied. Tokenizers share
            the vocabulary alone, to which nobody adds; their special tokens and settings are their own.
        """
        if key not in self._kept:
            model, tokenizer = read()
            size = _num_bytes(model)
            if size > self.max_bytes:
                return model, tokenizer
            self._kept[key] = model, tokenizer, size
        self._kept.move_to_end(key)
        while len(self._kept) > self.max_models or sum(size for _, _, size in self._kept.values()) > self.max_bytes:
            self._kept.popitem(last=False)
        model, tokenizer, _ = self._kept[key]
        return copy.deepcopy(model), _own_tokenizer(tokenizer)

    def clear(self) -> None:
        """Forget every model."""
        self._kept.clear()


WARM = WarmModels()
"""What this process keeps."""


def max_model_bytes() -> int:
    """Bytes of weights that a process keeps: `$AFP_KEEP_MODELS_GB`, else a share of the memory there is.

    Raises: ConfigError when the variable is no number from 0 up.
    """
    fix = "unset it to keep small models in memory, or set it to 0 to keep none"
    return int(bytes_from("AFP_KEEP_MODELS_GB", otherwise=_memory() * MEMORY_SHARE, fix=fix))


@cache
def _memory() -> int:
    """Bytes of memory of the machine, or of the container where that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in _CGROUP_LIMITS:
        try:
            limits.append(int(Path(name).read_text()))
        except (OSError, ValueError):
            continue  # no such file, or no limit ("max")
    return min(limits)


def _own_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer with settings of its own; copying a vocabulary of 250,000 tokens too would take seconds."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return copy.deepcopy(tokenizer)
    own = copy.copy(tokenizer)
    for name, value in vars(tokenizer).items():
        if isinstance(value, dict | list | set):
            vars(own)[name] = copy.deepcopy(value)
    return own


def _num_bytes(model: CausalModel) -> int:
    return sum(tensor.nbytes for tensor in {*model.parameters(), *model.buffers()})
