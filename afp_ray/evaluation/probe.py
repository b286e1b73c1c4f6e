"""How well a straight line through the states tells which language a sentence is in.

Shapes: S sentences, D width, C languages.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUM_FOLDS = 5
_RIDGE = 1e-2
"""Penalty of the squared weights, in mean variances of a direction."""
Floats = NDArray[np.float64]


class LanguageProbe:
    """Tells the language of each sentence by ridge regression on the sentences of other contents.

    One column per language, 1 for its own sentences and 0 elsewhere, is fitted in closed form; the highest one is what
    the probe says. Languages weigh alike however many sentences they have. Contents are dealt into folds by a hash, so
    that each sentence is judged by a probe that has seen none of its translations.

    Args:
        languages: S codes, two or more different ones.
        contents: S names; sentences that share one are translations of each other.
    Source: language identification as a linear probe of multilingual states, arXiv:1911.03310; ridge regression stands
        for its logistic one, since it has a closed form.
    """

    def __init__(self, languages: Sequence[str], contents: Sequence[str]) -> None:
        self.languages = sorted(set(languages))
        column = {language: index for index, language in enumerate(self.languages)}
        self._own = np.array([column[language] for language in languages])
        counts = np.bincount(self._own)
        self._weights = len(self._own) / (len(counts) * counts[self._own])
        self._targets = np.eye(len(self.languages))[self._own]
        self._folds = _deal(contents)

    @property
    def chance(self) -> float:
        """What a probe reaches that knows nothing: one in the number of languages."""
        return 1 / len(self.languages)

    def accuracy(self, states: Floats) -> dict[str, float]:
        """Share of the sentences of each language whose language the probe tells, in [0, 1].

        Args:
            states: (S, D) of any scale.
        Returns: by language; their mean is the balanced accuracy, which is `chance` where nothing can be told.
        """
        centred = states.astype(np.float64) - states.mean(axis=0, dtype=np.float64)
        # The dual form of ridge regression: a system of S unknowns for each fold, however wide the states are.
        kernel = centred @ centred.T  # (S, S)
        scale = float(np.trace(kernel)) / min(states.shape) or 1.0  # states that are all equal tell nothing
        kernel += scale  # a constant feature: the probe needs no line through the origin
        penalty = np.diag(_RIDGE * scale / self._weights)
        values = np.zeros_like(self._targets)
        for fold in np.unique(self._folds):
            seen, unseen = np.flatnonzero(self._folds != fold), np.flatnonzero(self._folds == fold)
            system = kernel[np.ix_(seen, seen)] + penalty[np.ix_(seen, seen)]
            fitted = np.linalg.solve(system, self._targets[seen])
            values[unseen] = kernel[np.ix_(unseen, seen)] @ fitted
        top = values.max(axis=1, keepdims=True)
        ties = values >= top - 1e-9 * max(1.0, float(np.abs(values).max()))
        # Languages that are equally likely share the sentence: no order of names may decide.
        right = ties[np.arange(len(ties)), self._own] / ties.sum(axis=1)
        return {name: float(right[self._own == index].mean()) for index, name in enumerate(self.languages)}


def _deal(contents: Sequence[str]) -> NDArray[np.int64]:
    """(S,) fold of each sentence; folds have equally many contents, give or take one."""
    order = sorted(set(contents), key=lambda name: hashlib.sha256(name.encode()).digest())
    fold = {name: index % NUM_FOLDS for index, name in enumerate(order)}
    return np.array([fold[name] for name in contents])


def content_groups(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """Names of what belongs together: rows that share any key, directly or through others, have one name.

    Args:
        keys: of each row, for instance its text and the name of its content.
    Returns: the smallest key of each row's group.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for row in keys:
        first, *others = sorted({root(key) for key in row})
        for other in others:
            parent[other] = first
    return [root(row[0]) for row in keys]
