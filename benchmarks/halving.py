"""Successive halving against whole trainings at an equal budget of steps, on learning curves whose ends are known.

Every problem has four fields of a real search space and a best point somewhere in it; a configuration loses quality
with its distance from there. Its curve rises towards that quality, `value(t) = quality - gap * ((T / t) ** 0.5 - 1)`,
and each scoring adds noise. The families differ in the gap: `parallel` gives every configuration the same, so that
curves never cross; `spread` draws one for each, so that some do; `crossing` makes the best the slowest, so that the
first rung ranks them the wrong way round. The search is the study's own: jobs come from `StudySearch`, trials are
simulated. `python -m benchmarks.halving` runs every family; `--seeds N`, `--budget N` and `--family` change the size.
"""

import argparse
import json
import math
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from afp_ray.comparison.rungs import rung_correlations, rung_warnings
from afp_ray.config import StudyConfig
from afp_ray.records import Job, TrialRecord, TrialStatus
from afp_ray.search import StudySearch
from afp_ray.statistics import mean_interval

FAMILIES = ("parallel", "spread", "crossing")
STEPS = 81
"""Steps of a whole training."""
BUDGET = 16
"""Whole trainings' worth of steps that a search may take."""
NOISE = 0.01
"""Standard deviation of a score around its curve, with qualities in [0, 1]."""
ASHA = {"name": "asha", "unit": "steps", "min": 3, "factor": 3}
RULES: dict[str, tuple[str, Any]] = {
    "random": ("random", "none"),
    "tpe": ("tpe", "none"),
    "asha_random": ("random", ASHA),
    "asha_tpe": ("tpe", ASHA),
}
"""Ways to search, by name: sampler and pruner."""
TUNE: dict[str, dict[str, Any]] = {
    "training.learning_rate": {"low": 1e-6, "high": 1e-3, "log": True},
    "loss.temperature": {"low": 0.01, "high": 0.5, "log": True},
    "loss.instruction_weight": {"low": 0.0, "high": 3.0},
    "data.cross_probability": {"low": 0.0, "high": 1.0},
}


@dataclass(frozen=True)
class Outcome:
    """What one search found.

    Attributes:
        regret: quality of the best point of the space minus the true end of the chosen trial; 1 where it chose none.
        steps: simulated training steps of all trials together.
        num_begun, num_whole: trials that were begun, and those that were trained to their end.
        rho: rank correlation of the first rung with the end; None where none was told.
        of_all: the same estimated for all trials that were scored at the first rung.
        is_doubted: whether the study's table warns that a rung says little.
    """

    regret: float
    steps: int
    num_begun: int
    num_whole: int
    rho: float | None
    of_all: float | None
    is_doubted: bool


class Problem:
    """Learning curves over the search space; equal seeds give equal ones.

    Args:
        family: one of `FAMILIES`.
        seed: of the best point, of the gaps and of the noise.
    """

    def __init__(self, family: str, seed: int) -> None:
        self._family, self._seed = family, seed
        draw = _random("best", seed)
        self._best = {name: draw.uniform(0.1, 0.9) for name in TUNE}

    def quality(self, params: dict[str, Any]) -> float:
        """Value at the end of the training, without noise; 1 at the best point."""
        distances = [(_place(name, params[name]) - best) ** 2 for name, best in self._best.items()]
        return max(0.0, 1.0 - 2 * sum(distances) / len(distances))

    def value(self, params: dict[str, Any], steps: int) -> float:
        """What a scoring after `steps` steps gives."""
        quality = self.quality(params)
        noise = _random("noise", self._seed, sorted(params.items()), steps).gauss(0, NOISE)
        return quality - self._gap(params, quality) * (math.sqrt(STEPS / steps) - 1) + noise

    def _gap(self, params: dict[str, Any], quality: float) -> float:
        if self._family == "parallel":
            return 0.1
        if self._family == "spread":
            return _random("gap", self._seed, sorted(params.items())).uniform(0.0, 0.2)
        return 0.4 * quality


def _random(*parts: object) -> random.Random:
    return random.Random("|".join(map(str, parts)))  # noqa: S311 - no secret


def _place(name: str, value: float) -> float:
    """A value's place in its range, in [0, 1]."""
    low, high = TUNE[name]["low"], TUNE[name]["high"]
    if TUNE[name].get("log"):
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return float((value - low) / (high - low))


def search(problem: Problem, rule: str, *, seed: int, budget: int) -> Outcome:
    """Search a problem within a budget of whole trainings; a search that halves stops one whole training earlier.

    A study's budget ends the beginning of jobs, not a running one, so that margin keeps it within the budget.
    """
    sampler, pruner = RULES[rule]
    limits: dict[str, Any] = {"trials": budget} if pruner == "none" else {"trials": 100_000, "gpu_hours": budget - 1.0}
    study = StudyConfig.model_validate(
        {
            "name": "simulated",
            "fixed": {"training.max_steps": STEPS, "method": "afp"},
            "tune": TUNE,
            "sampler": {"name": sampler, "seed": seed},
            "pruner": pruner,
            "budget": limits,
        }
    )
    source = StudySearch(study, lambda _: {})
    records: dict[str, TrialRecord] = {}
    while isinstance(job := source.next_job(), Job) and job.role == "search":
        records[job.trial_id] = _played(problem, job, records.get(job.trial_id))
        source.observe(records[job.trial_id])
    chosen = source.best("afp")
    begun = list(records.values())
    rows = rung_correlations(begun, study.pruner)
    return Outcome(
        regret=1.0 if chosen is None else 1.0 - problem.quality(dict(chosen.params)),
        steps=round(sum(record.gpu_hours for record in begun) * STEPS),
        num_begun=len(begun),
        num_whole=sum(record.status is TrialStatus.DONE for record in begun),
        rho=next((row.rho for row in rows if row.later is None), None),
        of_all=next((row.of_all for row in rows if row.later is None), None),
        is_doubted=any("says little" in warning for warning in rung_warnings(rows)),
    )


def _played(problem: Problem, job: Job, before: TrialRecord | None) -> TrialRecord:
    """The trial after a job: paused at its rung, or done; a step costs a part of one hour, so that a whole one is 1."""
    steps = STEPS if job.until is None else job.until.amount
    value = problem.value(job.params, steps)
    rungs = before.rungs if before is not None else ()
    ended: dict[str, Any] = {"status": TrialStatus.DONE, "objective": value, "splits": job.splits}
    if job.until is not None:
        ended, rungs = {"status": TrialStatus.PAUSED}, (*rungs, value)
    return TrialRecord(**job.model_dump(), **ended, rungs=rungs, gpu_hours=steps / STEPS, planned_at=0.0)


def compare(family: str, *, seeds: int, budget: int, rules: Sequence[str] = tuple(RULES)) -> dict[str, Any]:
    """Every rule on the same problems.

    Args:
        family: of the curves.
        seeds: problems, each searched once by each rule.
        budget: whole trainings.
        rules: names in `RULES`, `random` among them.
    Returns: by rule the mean regret and what it took; paired over problems, how much less regret than `random` it has,
        with its 95 % interval (Student's t); the median rank correlation of the first rung with the end, as it is and
        for all trials, and in what share of the searches the table says that a rung says little.
    """
    outcomes = {
        rule: [search(Problem(family, seed), rule, seed=seed, budget=budget) for seed in range(seeds)] for rule in rules
    }
    found: dict[str, Any] = {"family": family, "seeds": seeds, "budget_steps": budget * STEPS}
    plain = [outcome.regret for outcome in outcomes["random"]]
    for rule, mine in outcomes.items():
        gain = mean_interval([other - outcome.regret for other, outcome in zip(plain, mine, strict=True)])
        found[rule] = {
            "regret": sum(outcome.regret for outcome in mine) / seeds,
            "less_than_random": (gain.mean, gain.low, gain.high),
            "most_steps": max(outcome.steps for outcome in mine),
            "begun": sum(outcome.num_begun for outcome in mine) / seeds,
            "whole": sum(outcome.num_whole for outcome in mine) / seeds,
            "doubted": sum(outcome.is_doubted for outcome in mine) / seeds,
            "rho": _median([outcome.rho for outcome in mine]),
            "rho_of_all": _median([outcome.of_all for outcome in mine]),
        }
    return found


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the families and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--family", choices=FAMILIES, action="append")
    given = parser.parse_args(arguments)
    for family in given.family or FAMILIES:
        sys.stdout.write(json.dumps(compare(family, seeds=given.seeds, budget=given.budget)) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
