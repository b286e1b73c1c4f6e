"""From a study to its next trials: arms, search spaces, and one Optuna study per arm rebuilt from the ledger."""

from afp_ray.search.arms import Arm, make_arms, resolve
from afp_ray.search.objectives import asked_metrics, measure_of, search_fronts
from afp_ray.search.plan import ArmPlan, Plan
from afp_ray.search.study_search import WAIT, StudySearch, Wait
from afp_ray.search.warm_start import PriorStudy, prior_studies

__all__ = [
    "WAIT",
    "Arm",
    "ArmPlan",
    "Plan",
    "PriorStudy",
    "StudySearch",
    "Wait",
    "asked_metrics",
    "make_arms",
    "measure_of",
    "prior_studies",
    "resolve",
    "search_fronts",
]
