"""Scores of a trial: one number of a task, language and number of shots, and of a layer's representations."""

from typing import Literal

from afp_ray.config.base import StrictModel

MAIN_METRICS = ("accuracy", "bleu", "rouge1", "target_language_rate", "exact_match", "f1")
"""The metric of each kind of task that means, objectives and comparisons read; a task has one of them."""


class Score(StrictModel):
    """One number: a task (or representation metric) in one language at one number of shots on one split."""

    task: str
    """Name of the task; `retrieval` for the representation metrics."""
    language: str
    shots: int = 0
    split: Literal["validation", "test"]
    metric: str
    """`accuracy`; of generated text `bleu`, `chrf++`, `spbleu`, `rouge1`, `rouge2`, `rougeL`, `target_language_rate`,
    `unknown_language_rate`, `exact_match`, `f1`, `em`; of representations `retrieval@1`, `alignment`, `uniformity`."""
    value: float
    """In [0, 1], BLEU and chrF++ too; alignment and uniformity as arXiv:2005.10242 defines them."""
    n: int
    """Examples behind the value."""
    standard_error: float | None = None
    """Of the value over examples; null where none is defined."""
    demo_deviation: float | None = None
    """Sample standard deviation of the values of single demonstration seeds; null where there is one seed."""
    majority: float | None = None
    """Accuracy of always giving the most frequent right answer of these examples; null but for choice tasks."""
    signature: str = ""
    """How a metric of generated text was computed: sacreBLEU's signature, or tokenizer and limits; "" elsewhere."""

    @property
    def is_main(self) -> bool:
        """Whether means, objectives and comparisons read it."""
        return self.metric in MAIN_METRICS


class MissingScore(StrictModel):
    """A task that could not be scored in one language on one split, at any number of shots."""

    task: str
    language: str
    split: Literal["validation", "test"]
    problem: str
    """Kind and first line of the error."""


class IncompleteScores(StrictModel):
    """What a trial scored that could not score everything; `incomplete.json` of a trial that failed for it."""

    scores: tuple[Score, ...]
    missing: tuple[MissingScore, ...]


class LayerMetrics(StrictModel):
    """Representation metrics of one layer and pooling for one language and split."""

    split: Literal["validation", "test"]
    language: str
    layer: int
    """Index into `hidden_states`; 0 is the embedding output."""
    pooling: Literal["last", "mean"]
    retrieval_at_1: float
    """Share of pairs whose translation is the nearest neighbour, mean of both directions, in [0, 1]."""
    alignment: float
    """Mean squared distance of the unit vectors of a pair; lower is better."""
    uniformity: float
    """Log of the mean Gaussian potential over both sides; lower is better."""
    n: int
    retrieval_from_pivot: float | None = None
    """Share of the pivot's sentences whose translation is the nearest one; null in results of before it was kept, as
    the fields below."""
    retrieval_to_pivot: float | None = None
    """Likewise, from the language to the pivot."""
    anisotropy: float | None = None
    """Mean cosine of two sentences of a side, mean of both sides; 1 where all states point the same way."""
    language_probe: float | None = None
    """Share of the language's sentences whose language a linear probe tells, among the pivot and all languages."""
    language_probe_chance: float | None = None
    """What a probe that knows nothing reaches: one in the number of languages."""
