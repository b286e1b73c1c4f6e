"""Which translations an arm finds, pair by pair: its share, and its difference to base over the same pairs and seeds.

Shapes: S seeds, P pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from afp_ray.comparison.confirmed import ConfirmedArm
from afp_ray.evaluation.projection import PairRetrieval, read_retrieval
from afp_ray.statistics import MIN_CONTENTS, Floats, Interval, PairedDifference, paired_difference, score_interval
from afp_ray.store import TrialPaths


@dataclass(frozen=True, slots=True)
class FoundPairs:
    """What the seeds of an arm found at one layer and pooling.

    Attributes:
        shares: (S, P) share of both directions in which the translation is the nearest sentence.
        languages, contents: of the P pairs.
    """

    shares: Floats
    languages: tuple[str, ...]
    contents: tuple[str, ...]

    def interval(self) -> Interval | None:
        """95 % interval of the mean over languages; None with too few contents."""
        if len(set(self.contents)) < MIN_CONTENTS:
            return None
        return score_interval(self.shares, self.contents, languages=self.languages, is_share=True)

    def minus(self, base: "FoundPairs", *, resamples: int) -> PairedDifference | None:
        """The difference over the same pairs; None where they are not the same, or too few."""
        same = (self.languages, self.contents) == (base.languages, base.contents)
        if not same or len(set(self.contents)) < MIN_CONTENTS:
            return None
        return paired_difference(
            self.shares, base.shares, self.contents, languages=self.languages, is_share=True, resamples=resamples
        )


def found_pairs(arm: ConfirmedArm, reported: tuple[int, str], split: str) -> FoundPairs | None:
    """What each seed of an arm found; None where a trial did not keep it, as those of before it was kept."""
    trials = [TrialPaths(arm.folder.parent / record.trial_id) for record in arm.records]
    by_seed = [read_retrieval(trial.representation_of(split)) for trial in trials]
    kept = [retrieval for retrieval in by_seed if retrieval is not None and reported in retrieval.found]
    if not kept or len(kept) < len(by_seed) or not _are_alike(kept):
        return None
    shares = np.stack([retrieval.found[reported] for retrieval in kept]) / 2
    return FoundPairs(shares, kept[0].languages, kept[0].contents)


def _are_alike(kept: Sequence[PairRetrieval]) -> bool:
    first = kept[0]
    return all((other.languages, other.contents) == (first.languages, first.contents) for other in kept[1:])
