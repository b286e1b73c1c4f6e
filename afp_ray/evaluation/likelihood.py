"""Log-probabilities of tokens from hidden states, without ever holding the logits of all states.

The vocabulary is passed over in blocks: each block of the projection is read once for all states, and its logits stay
in a CPU's cache until their exponentials are summed.

Shapes: N states, M (state, token) pairs, D hidden size, V vocabulary.
"""

import torch
from torch import Tensor

from afp_ray.models.head import VocabularyHead

_MAX_LOGITS, _MAX_LOGITS_ELSEWHERE = 1 << 19, 1 << 26
"""Logits held at a time, on a CPU and elsewhere; 2 MB of float32 stay in a CPU's cache."""
_MIN_BLOCK, _MIN_BLOCK_ELSEWHERE = 512, 8192
"""Tokens of the smallest block of the vocabulary, which keeps the products large."""

_IN_ORDER = frozenset({"cpu"})
"""Devices whose results are there at once; of another, nothing is asked that would have to be waited for."""


def log_likelihoods(head: VocabularyHead, states: Tensor, owners: Tensor, targets: Tensor) -> Tensor:
    """Log-probability in nats of chosen tokens, with the softmax in float32.

    Args:
        head: the projection onto the vocabulary.
        states: (N, D).
        owners: (M,) state from which each token is predicted.
        targets: (M,) token ids.

    Returns: (M,) float32.
    """
    on_cpu = states.device.type in _IN_ORDER
    held, least = (_MAX_LOGITS, _MIN_BLOCK) if on_cpu else (_MAX_LOGITS_ELSEWHERE, _MIN_BLOCK_ELSEWHERE)
    vocabulary = len(head.weight)
    least = min(least, vocabulary)
    totals, chosen = [], states.new_zeros(len(targets), dtype=torch.float32)
    rows = max(1, held // least)
    for first in range(0, len(states), rows):
        part = states[first : first + rows]
        mine = (owners >= first) & (owners < first + rows)
        block = max(least, held // len(part))
        total = None
        for begin in range(0, vocabulary, block):
            logits = head.logits(part, begin, begin + block, is_exact=True)  # (rows, block) float32
            found = mine & (targets >= begin) & (targets < begin + block)
            if on_cpu:
                index = found.nonzero()[:, 0]
                chosen[index] = logits[owners[index] - first, targets[index] - begin]
            else:  # the number of indices would have to be waited for: all pairs look, and those of other blocks forget
                own = logits[(owners - first).clamp(0, len(part) - 1), (targets - begin).clamp(0, logits.shape[1] - 1)]
                chosen = torch.where(found, own, chosen)
            total = _logaddexp_of_rows(logits, total)
        assert total is not None
        totals.append(total)
    return chosen - torch.cat(totals)[owners]


def _logaddexp_of_rows(logits: Tensor, total: Tensor | None) -> Tensor:
    """(rows,) log of the sum of exponentials of a block, which it overwrites, and of those before."""
    largest = logits.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
    block = logits.sub_(largest).exp_().sum(dim=-1).log_() + largest[:, 0]
    return block if total is None else torch.logaddexp(total, block)
