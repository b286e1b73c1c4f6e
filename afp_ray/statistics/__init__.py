"""Intervals, tests and choices over scores: paired, clustered by content, over seeds.

Every comparison here is paired: both sides were scored on the same N examples. Rows made from the same facts are not
independent, so whatever varies, is redrawn or flipped is a content, never a row; a content takes its rows in every task
and language with it. The quantity is always the macro mean: over tasks, of the mean over languages, of the mean over
rows.
"""

from afp_ray.statistics.estimate import MIN_CONTENTS, Contents, Estimate, Interval, PairedDifference
from afp_ray.statistics.importance import Importance, SearchedField, importances
from afp_ray.statistics.intervals import (
    mean_interval,
    moved_by,
    paired_difference,
    paired_interval,
    probability_best,
    score_interval,
    seeds_interval,
    shares_difference,
)
from afp_ray.statistics.layout import (
    Floats,
    clustered_standard_error,
    content_strata,
    redrawn_contents,
    redrawn_seeds,
)
from afp_ray.statistics.pareto import non_dominated, pareto_front
from afp_ray.statistics.power import smallest_effect
from afp_ray.statistics.rank_correlation import MIN_PAIRS, RankCorrelation, rank_correlation, unrestricted_correlation
from afp_ray.statistics.spread import Side, Spread, measure_spread, t_quantile
from afp_ray.statistics.testing import holm, holm_levels, permutation_test

__all__ = [
    "MIN_CONTENTS",
    "MIN_PAIRS",
    "Contents",
    "Estimate",
    "Floats",
    "Importance",
    "Interval",
    "PairedDifference",
    "RankCorrelation",
    "SearchedField",
    "Side",
    "Spread",
    "clustered_standard_error",
    "content_strata",
    "holm",
    "holm_levels",
    "importances",
    "mean_interval",
    "measure_spread",
    "moved_by",
    "non_dominated",
    "paired_difference",
    "paired_interval",
    "pareto_front",
    "permutation_test",
    "probability_best",
    "rank_correlation",
    "redrawn_contents",
    "redrawn_seeds",
    "score_interval",
    "seeds_interval",
    "shares_difference",
    "smallest_effect",
    "t_quantile",
    "unrestricted_correlation",
]
