"""What the host knows of a row of trees before the device runs it: tokens, scored states, and whose they are.

Shapes: N tokens, S scored states, M (state, token) pairs, K terms of all requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from afp_ray.evaluation.trie import Branches, Request
from afp_ray.models.tree_rows import TreeRow, lay_out, on_host


@dataclass(frozen=True, slots=True)
class Pack:
    """Trees that run in one row.

    Attributes:
        branches: the trees and their requests.
        row: their tokens.
        requests: of all trees, R of them.
        states: (S,) places in the row of the states that give tokens, each once.
        pairs: (2, M) a state among those and the token that it gives, each pair once.
        terms: (2, K) a pair, and the request to whose log-likelihood it is added.
    """

    branches: tuple[Branches, ...]
    row: TreeRow
    requests: tuple[Request, ...]
    states: Tensor
    pairs: Tensor
    terms: Tensor


def make_pack(branches: Sequence[Branches], device: torch.device, *, granularity: int = 1) -> Pack:
    """Everything of a row that needs no device; may run in any thread.

    Args:
        branches: trees for one row.
        device, granularity: as in `lay_out`.
    """
    numbers: dict[int, int] = {}  # a place in the row, and its number among the scored ones
    pairs: dict[tuple[int, int], int] = {}  # a state and a token that it predicts, once
    requests: list[Request] = []
    terms: list[int] = []
    owners: list[int] = []
    offset = 0
    # Requests of a tree share states, and often the token that a state predicts: "A" and "A, B" both take p(A).
    # Each pair is computed once; `terms` has the pairs of one request after another, `owners` whose they are.
    for tree in branches:
        for request, places in zip(tree.requests, tree.rows, strict=True):
            for place, target in zip(places, request.ids[request.start :], strict=True):
                number = numbers.setdefault(offset + place, len(numbers))
                terms.append(pairs.setdefault((number, target), len(pairs)))
            owners += [len(requests)] * len(places)
            requests.append(request)
        offset += tree.num_tokens
    indices = (np.array(list(numbers)), np.array(list(pairs)).T.copy(), np.array([terms, owners]))
    row = lay_out([tree.tree for tree in branches], device, granularity=granularity)
    return Pack(tuple(branches), row, tuple(requests), *(on_host(index, device) for index in indices))
