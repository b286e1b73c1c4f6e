"""Intervals, tests and choices over scores: paired, clustered by content, over seeds.

Every comparison here is paired: both sides were scored on the same N examples. Rows made from the same facts are not
independent, so whatever is redrawn or flipped is a content, never a row; a content takes its rows in every task and
language with it. The quantity is always the macro mean: over tasks, of the mean over languages, of the mean over rows.
"""

from afp_ray.statistics.importance import Importance, SearchedField, importances
from afp_ray.statistics.intervals import (
    Interval,
    PairedDifference,
    interval_of,
    mean_interval,
    paired_bootstrap,
    paired_difference,
    probability_best,
)
from afp_ray.statistics.layout import (
    Floats,
    clustered_standard_error,
    content_strata,
    macro_mean,
    redrawn_contents,
    redrawn_seeds,
)
from afp_ray.statistics.pareto import non_dominated, pareto_front
from afp_ray.statistics.rank_correlation import MIN_PAIRS, RankCorrelation, rank_correlation, unrestricted_correlation
from afp_ray.statistics.spread import Side, Spread, measure_spread
from afp_ray.statistics.student import t_quantile
from afp_ray.statistics.testing import holm, permutation_test

__all__ = [
    "MIN_PAIRS",
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
    "importances",
    "interval_of",
    "macro_mean",
    "mean_interval",
    "measure_spread",
    "non_dominated",
    "paired_bootstrap",
    "paired_difference",
    "pareto_front",
    "permutation_test",
    "probability_best",
    "rank_correlation",
    "redrawn_contents",
    "redrawn_seeds",
    "t_quantile",
    "unrestricted_correlation",
]
