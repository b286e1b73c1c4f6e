"""Answers from finished studies: the ablation table and the best configuration; reads, never runs anything."""

from afp_ray.comparison.best_arm import best
from afp_ray.comparison.requirements import check_requirements
from afp_ray.comparison.table import compare

__all__ = ["best", "check_requirements", "compare"]
