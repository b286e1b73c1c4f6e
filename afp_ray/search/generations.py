"""NSGA-II over a study that is rebuilt from the ledger: the generation of a trial follows from its place alone.

Optuna writes the generation of a trial beside it when it is drawn, and a rebuilt study has no such notes. Here the k-th
complete trial, in the order in which trials were planned, is of generation k // population; so a study that was rebuilt
has the generations of one that was not, and nothing has to be kept. Source: NSGA-II, doi:10.1109/4235.996017.
"""

from typing import TypeAlias

from optuna.samplers import NSGAIISampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

Elites: TypeAlias = dict[int, tuple[tuple[int, ...], list[FrozenTrial]]]
"""Parents by generation, with the numbers of the trials that they were selected from."""


class RebuiltNSGAII(NSGAIISampler):  # type: ignore[misc]  # Optuna's classes are untyped here
    """NSGA-II whose generations are read from the trials.

    Args:
        population: trials of one generation, >= 2.
        seed: of this one draw.
        elites: what earlier draws of the same study selected, added to here; it spares time alone.
    """

    def __init__(self, *, population: int, seed: int, elites: Elites) -> None:
        super().__init__(
            population_size=population,
            mutation=None,
            mutation_prob=None,
            crossover=None,
            crossover_prob=0.9,
            swapping_prob=0.5,
            seed=seed,
        )
        self._population, self._elites = population, elites

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        """The generation of the trial that is drawn now."""
        return len(self._complete(study)) // self._population

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """Complete trials of a generation."""
        return self._cut(self._complete(study), generation)

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The best of all generations before one; [] before the first."""
        parents: list[FrozenTrial] = []
        complete = self._complete(study)
        for following in range(1, generation + 1):
            pool = self._cut(complete, following - 1) + parents
            numbers = tuple(trial.number for trial in pool)
            elite = self._elites.get(following)
            if elite is None or elite[0] != numbers:
                elite = self._elites[following] = numbers, self._elite_population_selection_strategy(study, pool)
            parents = list(elite[1])
        return parents

    def _cut(self, complete: list[FrozenTrial], generation: int) -> list[FrozenTrial]:
        return complete[generation * self._population : (generation + 1) * self._population]

    def _complete(self, study: Study) -> list[FrozenTrial]:
        return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
