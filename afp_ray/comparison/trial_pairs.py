"""Two finished trials beside each other: the paired differences of their scores."""

from collections.abc import Sequence

import numpy as np

from afp_ray.comparison.confirmed import ConfirmedArm
from afp_ray.comparison.metric import measure_under
from afp_ray.comparison.wording import Measured, adjust
from afp_ray.records import Difference, Score


def paired_differences(trial: ConfirmedArm, other: ConfirmedArm, scores: Sequence[Score]) -> list[Difference | None]:
    """Of each main score of `trial` to `other`'s, paired over examples, with p-values adjusted (Holm) over `scores`.

    Args:
        trial, other: as `arm_of_result` reads them, on one split.
        scores: of that split.
    Returns: one for each score; None for a metric that is no main one, and everywhere where both answered other rows.
    """
    examples = trial.examples
    if not examples.same_as(other.examples):
        return [None] * len(scores)

    def measured(score: Score) -> Measured | None:
        if not score.is_main:
            return None
        chosen = (examples.task == score.task) & (examples.language == score.language)
        return measure_under(np.asarray(chosen & (examples.shots == score.shots), dtype=bool), trial, other)

    return adjust([measured(score) for score in scores])
