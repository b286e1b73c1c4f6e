"""Lays trees of tokens end to end in a row of numbers, on the host, before the device is ready for them.

Shapes: n trees, N tokens of all of them, T of the largest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ONE_BY_ONE = frozenset({"cpu"})
"""Devices on which the trees attend in a call each; elsewhere they stand side by side, padded for the attention."""
_GRID = 16
"""Tokens to a multiple of which the largest tree is padded, where the row is padded at all."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Texts that share their first tokens, each shared token once.

    Attributes:
        ids: token ids in depth-first order.
        depths: position of each token in its text, counted from the end of the trunk.
        ends: one past the index of the last token below each token, counted within the tree.
    """

    ids: tuple[int, ...]
    depths: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def is_chain(self) -> bool:
        """Whether it holds one text."""
        return self.depths[-1] == len(self.ids) - 1


@dataclass(frozen=True, slots=True)
class TreeRow:
    """Trees end to end in one row, as numbers on the host; made while a device is still busy with the row before.

    Attributes:
        trees: in their order, those that only pad the row behind the others.
        num_tokens: of the row without padding; the row has a multiple of its granularity.
        ids: (1, N) token ids.
        depths: (N,) as in the trees.
        grid: where the trees stand side by side; None where each attends in a call of its own.
    """

    trees: tuple[Tree, ...]
    num_tokens: int
    ids: Tensor
    depths: Tensor
    grid: "Grid | None"

    @property
    def sizes(self) -> list[int]:
        """Tokens of each tree."""
        return [len(tree.ids) for tree in self.trees]


@dataclass(frozen=True, slots=True)
class Grid:
    """Trees side by side, one a line, padded on the right for the length of the attention.

    Attributes:
        places: (N,) place of each token of the row among n * T.
        depths, ends: (n, T) as in the trees; padding sees itself.
    """

    places: Tensor
    depths: Tensor
    ends: Tensor


def lay_out(trees: Sequence[Tree], device: torch.device, *, granularity: int = 1) -> TreeRow:
    """Trees as a row for `branch_states`; runs on the host alone, in any thread.

    Rows of like size have one shape where the granularity is above 1. What is added changes no state: padding is texts
    of its own, no longer than the longest of the trees.

    Args:
        trees: one or more.
        device: that of the model; pinned memory is taken for a CUDA device, so that copies to it wait for nothing.
        granularity: the row is padded to a multiple of so many tokens, the largest tree to a multiple of 16 at most.
    """
    num_tokens = sum(len(tree.ids) for tree in trees)
    whole = (*trees, *_padding(trees, -num_tokens % granularity))
    sizes = [len(tree.ids) for tree in whole]
    depths = np.fromiter((depth for tree in whole for depth in tree.depths), np.int64, sum(sizes))
    ids = np.fromiter((token for tree in whole for token in tree.ids), np.int64, sum(sizes))
    grid = None
    if device.type not in ONE_BY_ONE and len(whole) > 1:
        step = min(granularity, _GRID)
        longest = -(-max(sizes) // step) * step
        firsts = np.arange(len(sizes)) * longest - np.cumsum([0, *sizes[:-1]])
        places = np.arange(sum(sizes)) + np.repeat(firsts, sizes)
        beneath = np.fromiter((end for tree in whole for end in tree.ends), np.int64, sum(sizes))
        rows = np.zeros(len(sizes) * longest, np.int64), np.tile(np.arange(1, longest + 1), len(sizes))
        rows[0][places], rows[1][places] = depths, beneath
        grid = Grid(on_host(places, device), *(on_host(row.reshape(-1, longest), device) for row in rows))
    return TreeRow(whole, num_tokens, on_host(ids[None], device), on_host(depths, device), grid)


def _padding(trees: Sequence[Tree], number: int) -> Iterator[Tree]:
    """Texts of so many tokens together, none with a position that the trees have not."""
    deepest = max(max(tree.depths) for tree in trees) + 1
    while number > 0:
        length = min(deepest, number)
        yield Tree((0,) * length, tuple(range(length)), (length,) * length)
        number -= length


def on_host(numbers: NDArray[np.int64], device: torch.device) -> Tensor:
    """Numbers as a tensor of the host, which `sent` copies to that device without waiting for it."""
    tensor = torch.from_numpy(numbers)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of `on_host` on its device, queued behind what the device still has to do."""
    return tensor.to(device, non_blocking=True)
