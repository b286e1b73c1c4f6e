"""From a study to its next trials: arms, search spaces, and one Optuna study per arm rebuilt from the ledger."""

from afp_ray.search.arms import Arm, make_arms, resolve
from afp_ray.search.plan import ArmPlan, Plan
from afp_ray.search.study_search import ADOPTED_FROM, WAIT, StudySearch, Wait

__all__ = ["ADOPTED_FROM", "WAIT", "Arm", "ArmPlan", "Plan", "StudySearch", "Wait", "make_arms", "resolve"]
