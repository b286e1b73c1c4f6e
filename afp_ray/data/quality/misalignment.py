"""Tells rows whose sides do not say the same (swapped lines, cut-off targets) from the rows themselves.

The corpus makes its own examples of noise: targets moved to other rows and sides cut off. A logistic regression learns
to tell them from the rows as they are, by how well the words of each side foretell the other's (`lexicon`), by length,
numbers and closing marks, and by the similarity of a model's states where there is one. Rows that look like noise are
then taken out of the examples of good rows and it is fitted again. So every language pair gets its own weights and no
limit has to be set by hand.

Source: classifying real rows against noise made from them, Bicleaner (Sánchez-Cartagena et al. 2018, WMT, W18-6488);
length, Gale and Church 1993 (Computational Linguistics 19(1)). Learning words and weights from the filtered rows alone,
each row left out of what it taught, is this project's own.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from afp_ray.data.quality.lexicon import Floats, Lexicon
from afp_ray.data.quality.words import is_closed, numbers, stems

MIN_ROWS = 200
"""Fewer rows of a language pair teach too few words; they are not judged."""
NUM_FOLDS = 4
"""Parts of the rows; the words of each are learned from the other parts, so that no row vouches for itself."""
MAX_ROWS = 8000
"""Rows that are learned from; what lies beyond is judged by them."""
_SHARES_LEFT = (0.1, 0.65)
"""Part of a side that is left when it is cut off to make noise."""
_RIDGE = 1e-3
SHARES = (0.5, 0.5, 0.1)
"""Share of noise in each fit. The first ones are even, so that noise among the rows cannot hide behind its number; the
last one is what is believed of a row before it is looked at."""
# Columns of the evidence that are also taken by how few words the row has.
_GAINS, _RATIO, _FEW = [0, 2], 4, 6

Texts = Sequence[str]
Similarity = Callable[[Texts, Texts], Floats]
"""(R,) similarity of each row's sides; used as further evidence."""


class NoiseModel:
    """Probability that the sides of a row do not translate each other.

    Args:
        sources, targets: R rows of one language pair, at least `MIN_ROWS`, most of them good.
        similarity: further evidence of a row, or None.
        seed: of the noise that is made.

    Attributes:
        own_probability: (R,) of the rows themselves, each judged by a lexicon that was learned without it.
    """

    def __init__(self, sources: Texts, targets: Texts, *, similarity: Similarity | None = None, seed: int = 0) -> None:
        assert len(sources) == len(targets) >= MIN_ROWS
        self._similarity = similarity
        rng = np.random.default_rng(seed)
        self._ratio = float(np.median(_log_ratio(sources, targets)))
        self._folds = rng.permutation(len(sources)) % NUM_FOLDS
        from_words, to_words = [stems(text) for text in sources], [stems(text) for text in targets]
        self._lexicons = []
        for fold in range(NUM_FOLDS):
            others = np.flatnonzero(self._folds != fold)
            left, right = [from_words[row] for row in others], [to_words[row] for row in others]
            self._lexicons.append((Lexicon(left, right), Lexicon(right, left)))
        good, noise = self._evidence(sources, targets, self._folds), self._noise(sources, targets, rng)
        self._fit(good, noise)
        self.own_probability = self._apply(good)

    def probability(self, sources: Texts, targets: Texts) -> Floats:
        """(R,) probability of noise of other rows of the same language pair."""
        return self._apply(self._evidence(sources, targets, np.zeros(len(sources), np.int64)))

    def _apply(self, evidence: Floats) -> Floats:
        values = np.clip((evidence - self._center) / self._scale, -8, 8)
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-_terms(values) @ self._weights))

    def _fit(self, good: Floats, noise: Floats) -> None:
        self._center = np.median(good, axis=0)
        self._scale = good.std(axis=0) + 1e-6
        examples = np.concatenate([good, noise])
        terms = _terms(np.clip((examples - self._center) / self._scale, -8, 8))
        is_noise = np.arange(len(examples)) >= len(good)
        trusted = np.ones(len(examples), bool)
        # Not all rows are good: what looks like noise after a fit is left out of the good ones of the next.
        for share in SHARES:
            weight = np.where(is_noise, share / len(noise), (1 - share) / trusted[~is_noise].sum())
            self._weights = _logistic(terms[trusted], is_noise[trusted], (weight * len(good))[trusted])
            trusted = is_noise | (self._apply(examples) < 0.5)

    def _noise(self, sources: Texts, targets: Texts, rng: np.random.Generator) -> Floats:
        """Evidence of rows made wrong: targets of other rows, targets cut off, sources cut off."""
        count = len(sources)
        # A turn by a random distance in a random order gives every row the target of another one.
        order = rng.permutation(count)
        moved = np.empty(count, np.int64)
        moved[order] = np.roll(order, 1)
        shares = rng.uniform(*_SHARES_LEFT, size=count)
        short = [cut(text, share) for text, share in zip(targets, shares, strict=True)]
        half = range(0, count, 2)
        return np.concatenate(
            [
                self._evidence(sources, [targets[row] for row in moved.tolist()], self._folds),
                self._evidence(sources, short, self._folds),
                self._evidence(
                    [cut(sources[row], shares[row]) for row in half],
                    [targets[row] for row in half],
                    self._folds[::2],
                ),
            ]
        )

    def _evidence(self, sources: Texts, targets: Texts, folds: NDArray[np.int64]) -> Floats:
        """(R, features)."""
        from_words, to_words = [stems(text) for text in sources], [stems(text) for text in targets]
        forward, backward = np.zeros((2, len(sources))), np.zeros((2, len(sources)))
        for number, lexicons in enumerate(self._lexicons):
            rows = np.flatnonzero(folds == number)
            left, right = [from_words[row] for row in rows], [to_words[row] for row in rows]
            forward[:, rows] = lexicons[0].gains(left, right)
            backward[:, rows] = lexicons[1].gains(right, left)
        ratio = _log_ratio(sources, targets) - self._ratio
        length = np.array([len(text) for text in sources], np.float64)
        columns = [
            *forward,
            *backward,
            ratio,
            ratio * np.sqrt(length),
            1 / np.sqrt([1 + len(words) for words in from_words]),
            *_marks(sources, targets),
        ]
        if self._similarity is not None:
            columns.append(self._similarity(sources, targets))
        return np.stack(columns, axis=1)


def cut(text: str, part: float) -> str:
    """The first `part` of the words of `text`, or of its characters where it has hardly any spaces."""
    words = text.split()
    if len(words) * 12 < len(text):
        return text[: max(1, int(len(text) * part))]
    return " ".join(words[: max(1, int(len(words) * part))])


def _log_ratio(sources: Texts, targets: Texts) -> Floats:
    return np.log([(len(target) + 3) / (len(source) + 3) for source, target in zip(sources, targets, strict=True)])


def _marks(sources: Texts, targets: Texts) -> list[Floats]:
    """Numbers and closing marks that one side has and the other lacks."""
    missing, added, open_target, open_source = [], [], [], []
    for source, target in zip(sources, targets, strict=True):
        left, right = set(numbers(source)), set(numbers(target))
        missing.append(len(left - right) / (1 + len(left)))
        added.append(len(right - left) / (1 + len(right)))
        closed = is_closed(source), is_closed(target)
        open_target.append(closed == (True, False))
        open_source.append(closed == (False, True))
    return [np.array(column, np.float64) for column in (missing, added, open_target, open_source)]


def _terms(values: Floats) -> Floats:
    """Evidence, the squares of both length columns, and gains and length by how few words there are, after ones."""
    few = values[:, [_FEW]]
    products = values[:, [*_GAINS, _RATIO]] * few
    return np.concatenate([np.ones((len(values), 1)), values, values[:, [_RATIO, _RATIO + 1]] ** 2, products], axis=1)


def _logistic(terms: Floats, is_noise: NDArray[np.bool_], weight: Floats) -> Floats:
    """Weights of a logistic regression on terms whose first column is ones; that one is not held small."""
    # Imported here, since it takes 1.5 s and 150 MB: what filters nothing must not wait for it.
    from sklearn.linear_model import LogisticRegression

    strength = 1 / (_RIDGE * weight.sum())
    model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-8, max_iter=100)
    model.fit(terms[:, 1:], is_noise, sample_weight=weight)
    return np.concatenate([model.intercept_, model.coef_[0]])
