"""Tokenised choices, and the tree that some of them make when every shared token stands once."""

from collections.abc import Sequence
from dataclasses import dataclass

from afp_ray.models.tree_rows import Tree

_RUN = 32
"""Tokens that are compared at a time."""


@dataclass(frozen=True, slots=True)
class Request:
    """A tokenised choice.

    Attributes:
        ids: token ids of context and continuation.
        start: index of the first continuation token, at least 1.
    """

    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True)
class Branches:
    """A tree of requests, without the trunk before it.

    Attributes:
        tree: what runs through the model; the last token of a request, which is never an input, has no place in it.
        requests: those whose texts it holds.
        rows: for each request, the tokens of the tree whose states give those from `start` on.
    """

    tree: Tree
    requests: tuple[Request, ...]
    rows: tuple[tuple[int, ...], ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the tree."""
        return len(self.tree.ids)


class TreeBuilder:
    """Makes a tree of requests that come in the order of their token ids.

    Args:
        trunk: tokens that stand before the tree.
    """

    def __init__(self, trunk: int) -> None:
        self._trunk = trunk
        self._ids: list[int] = []
        self._depths: list[int] = []
        self._ends: list[int] = []
        self._path: list[int] = []  # of the last request, from the root
        self._last: tuple[int, ...] = ()  # tokens on that path
        self._requests: list[Request] = []
        self._rows: list[tuple[int, ...]] = []

    @property
    def num_tokens(self) -> int:
        """Tokens so far."""
        return len(self._ids)

    def add(self, request: Request) -> None:
        """Put a request behind those before; its scored states must lie behind the trunk."""
        inputs = request.ids[self._trunk : -1]
        shared = common_prefix(self._last, inputs)
        self._last = inputs
        self._close(shared)
        for depth in range(shared, len(inputs)):
            self._path.append(len(self._ids))
            self._ids.append(inputs[depth])
            self._depths.append(depth)
            self._ends.append(0)
        first = request.start - 1 - self._trunk
        self._requests.append(request)
        self._rows.append(tuple(self._path[first : len(inputs)]))

    def build(self) -> Branches:
        """The tree of all requests."""
        self._close(0)
        tree = Tree(tuple(self._ids), tuple(self._depths), tuple(self._ends))
        return Branches(tree, tuple(self._requests), tuple(self._rows))

    def _close(self, shared: int) -> None:
        """Nothing more comes below the path's tokens from `shared` on."""
        for index in self._path[shared:]:
            self._ends[index] = len(self._ids)
        del self._path[shared:]


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of leading elements that both share; of one kind of sequence, both."""
    shared = 0
    # Equal slices are compared in C; a loop over single tokens took a third of the planning of long prompts.
    while first[shared : shared + _RUN] == second[shared : shared + _RUN]:
        if shared >= len(first):
            return len(first)
        shared += _RUN
    for index in range(shared, min(len(first), len(second), shared + _RUN)):
        if first[index] != second[index]:
            return index
    return min(len(first), len(second))
