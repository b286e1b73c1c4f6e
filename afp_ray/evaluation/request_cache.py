"""Keeps the tokens of the last prompts that a process scored: the trials of a study ask every model the same."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

from afp_ray.evaluation.trie import Request

MAX_TOKENS = 1 << 20
"""Tokens that a process keeps, which take 40 MB at most."""


class KeptRequests:
    """What was tokenised, by whatever decides it; what was used longest ago goes first.

    Args:
        max_tokens: tokens kept; what has more by itself is never kept.
    """

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        self.max_tokens = max_tokens
        self._kept: OrderedDict[Hashable, tuple[tuple[Request, ...], int]] = OrderedDict()
        self._num_tokens = 0

    def get(self, key: Hashable, make: Callable[[], Sequence[Request]]) -> Sequence[Request]:
        """The requests of `key`; `make` is called when they are not kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        requests = tuple(make())
        size = sum(len(request.ids) for request in requests)
        if size > self.max_tokens:
            return requests
        self._kept[key] = requests, size
        self._num_tokens += size
        while self._num_tokens > self.max_tokens:
            self._num_tokens -= self._kept.popitem(last=False)[1][1]
        return requests


KEPT = KeptRequests()
"""What this process keeps."""
