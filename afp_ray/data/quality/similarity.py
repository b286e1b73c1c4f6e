"""Similarity of the two sides of a row by a model's states, against their nearest other sentences.

Source: margin of a pair's cosine over those of the neighbours of both sides, Artetxe and Schwenk, arXiv:1811.01136.
Each side's states are centred first: those of a language lie together in a decoder, far from the other language's.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from afp_ray.data.quality.lexicon import Floats

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""(R, D) a state of each text."""
NEIGHBOURS = 4
MAX_REFERENCE = 4000
"""Rows among which neighbours are looked for, so that the time stays linear in the rows."""
_BLOCK = 1024


class MarginSimilarity:
    """Cosine of two sides less the mean cosine of each with its nearest sentences of the other side.

    Args:
        embed: gives a state of each text; called once a distinct text of the reference rows.
        sources, targets: reference rows of one language pair, aligned; at least two.
    """

    def __init__(self, embed: Embed, sources: Sequence[str], targets: Sequence[str]) -> None:
        self._embed = embed
        self._states_of: tuple[dict[str, NDArray[np.float32]], ...] = ({}, {})
        sides = (list(sources), list(targets))
        self._centers = [np.zeros(1, np.float32), np.zeros(1, np.float32)]
        self._reference = []
        for side in (0, 1):
            states = np.asarray(embed(sides[side]), np.float32)
            self._centers[side] = states.mean(axis=0)
            self._states_of[side].update(zip(sides[side], states, strict=True))
            self._reference.append(_unit(states[:MAX_REFERENCE] - self._centers[side]))

    def __call__(self, sources: Sequence[str], targets: Sequence[str]) -> Floats:
        """(R,) margin of each row, in [-2, 2]; higher is more alike."""
        left, right = self._states(0, sources), self._states(1, targets)
        margin = np.einsum("rd,rd->r", left, right).astype(np.float64)
        for vectors, reference in ((left, self._reference[1]), (right, self._reference[0])):
            for begin in range(0, len(vectors), _BLOCK):
                margin[begin : begin + _BLOCK] -= _nearest(vectors[begin : begin + _BLOCK] @ reference.T) / 2
        return np.asarray(margin, np.float64)

    def _states(self, side: int, texts: Sequence[str]) -> NDArray[np.float32]:
        stored = self._states_of[side]
        missing = list(dict.fromkeys(text for text in texts if text not in stored))
        new = dict(zip(missing, np.asarray(self._embed(missing), np.float32), strict=True)) if missing else {}
        rows = [stored[text] if text in stored else new[text] for text in texts]
        return _unit(np.stack(rows) - self._centers[side])


def _nearest(cosines: NDArray[np.float32]) -> Floats:
    """Mean of the highest cosines of each row."""
    count = min(NEIGHBOURS, cosines.shape[1])
    return np.asarray(np.partition(cosines, -count, axis=1)[:, -count:].mean(axis=1), np.float64)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-9), np.float32)
