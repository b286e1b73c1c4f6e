"""Draws the next configuration of one arm from an in-memory Optuna study that mirrors the arm's trials."""

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from afp_ray.config import StudyConfig
from afp_ray.records import TrialRecord
from afp_ray.search.arms import Arm
from afp_ray.search.conditions import is_searched, ordered
from afp_ray.search.generations import Elites, RebuiltNSGAII
from afp_ray.search.optuna_trials import Seen, frozen_trial, seen
from afp_ray.search.space import distributions, from_optuna, grid_point, grid_size, require_grid

STUBBORN_AFTER = 32
"""Draws in a row that name known trials before the next ones are random: a model can love a part of the space that is
used up, for instance the few points of one branch of a condition."""
MAX_LISTED = 100_000
"""Largest grid that is walked to find a configuration that no trial has had."""


class Asker:
    """The sampler of one arm; what it draws depends on the seed, the arm and the arm's trials alone.

    Args:
        study: gives sampler, budget, objectives and constraints.
        arm: an arm with a search space.
        prior: finished trials of other studies that the sampler learns from, as trials of this arm.
    Raises: ConfigError when the grid sampler meets a continuous range.
    """

    def __init__(self, study: StudyConfig, arm: Arm, prior: Sequence[TrialRecord] = ()) -> None:
        self._config, self._sampler, self._arm = study, study.sampler, arm
        if study.sampler.name == "grid":
            require_grid(arm.tune)
        self._space = distributions(arm.tune)
        self._grid_size = grid_size(arm.tune)
        self.num_trials = min(study.budget.trials, self._grid_size or study.budget.trials)
        """Search trials of the arm: the budget, or the size of a space that is smaller."""
        self._storage = InMemoryStorage()
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            storage=self._storage, directions=[goal.direction for goal in study.objective.goals]
        )
        optuna.logging.set_verbosity(verbosity)
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._prior = tuple(prior)
        self._mirrored: dict[str, int] = {}
        self._ended: set[str] = set()
        self._elites: Elites = {}

    def ask(
        self, trials: Sequence[TrialRecord], repeat: int, *, base: TrialRecord | None = None
    ) -> dict[str, Any] | None:
        """Values for the arm's next search trial.

        Args:
            trials: the arm's search trials in the order in which they were planned.
            repeat: how many draws in a row named a configuration that is known.
            base: the finished trial of the arm's base, where a constraint is against it.
        Returns: values by dotted name; None when the grid has no further point.
        """
        if self._sampler.name == "grid":
            index = len(trials) + repeat
            return grid_point(self._arm.tune, index) if index < (self._grid_size or 0) else None
        if self._sampler.name != "random":  # which looks at no trial
            self._mirror(trials, base)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = self._seeded(len(trials), repeat)
            drawn = self._study.ask({name: self._space[name] for name in self._space if not self._arm.tune[name].when})
            params = self._completed(drawn)
            # A draw is no trial yet: the planned one comes back in `trials`, after a restart just as well.
            self._study.tell(drawn, state=TrialState.FAIL)
        return params

    def unseen(self, trials: Sequence[TrialRecord]) -> Iterable[dict[str, Any]]:
        """Points of a small finite space that none of `trials` has, in grid order; none for any other space."""
        if self._grid_size is None or self._grid_size > MAX_LISTED:
            return
        taken = [trial.params for trial in trials]
        for index in range(self._grid_size):
            point = grid_point(self._arm.tune, index)
            if point not in taken:
                yield point

    def _completed(self, drawn: Trial) -> dict[str, Any]:
        """The draw with those conditional fields whose condition holds in it."""
        tune = self._arm.tune
        for name in ordered(tune):
            if tune[name].when and is_searched(tune[name], from_optuna(tune, drawn.params)):
                _suggest(drawn, name, self._space[name])
        return from_optuna(tune, drawn.params)

    def _seeded(self, number: int, repeat: int) -> BaseSampler:
        """The sampler of one draw, every option of it pinned; docs/search.md lists them."""
        text = f"{self._sampler.seed}|{self._arm.recipe}|{number}|{repeat}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        if self._sampler.name == "random" or repeat >= STUBBORN_AFTER:
            return RandomSampler(seed=seed)
        if self._sampler.name == "nsga2":
            return RebuiltNSGAII(population=population_of(self._config), seed=seed, elites=self._elites)
        is_single = not self._config.objective.also
        return TPESampler(
            seed=seed,
            n_startup_trials=self._sampler.startup_trials,
            n_ei_candidates=24,
            multivariate=is_single,
            group=is_single and any(spec.when for spec in self._arm.tune.values()),
            constant_liar=True,
        )

    def _mirror(self, trials: Sequence[TrialRecord], base: TrialRecord | None) -> None:
        """Bring the Optuna study up to date; trials that still run act as pessimistic points."""
        for trial in (*self._prior, *trials):
            if trial.trial_id in self._ended:
                continue
            shown = seen(self._config, trial, base)
            if trial.trial_id in self._mirrored:
                update_trial(self._storage, self._mirrored[trial.trial_id], shown)
            else:
                self._add(trial, shown)
            if shown.state.is_finished():
                self._ended.add(trial.trial_id)

    def _add(self, trial: TrialRecord, shown: Seen) -> None:
        frozen = frozen_trial(shown, trial, self._arm.tune, self._space)
        if frozen is None:
            self._ended.add(trial.trial_id)
        else:
            self._mirrored[trial.trial_id] = self._storage.create_new_trial(self._study_id, template_trial=frozen)


def update_trial(storage: BaseStorage, number: int, shown: Seen | FrozenTrial) -> None:
    """Bring an unfinished trial of an Optuna storage up to date, its state last.

    Args:
        storage: that holds it.
        number: the storage's own id of the trial.
        shown: what it is now.
    """
    rungs = shown.rungs if isinstance(shown, Seen) else shown.intermediate_values
    stored = storage.get_trial(number).intermediate_values
    for rung, value in rungs.items():
        if stored.get(rung) != value:
            storage.set_trial_intermediate_value(number, rung, value)
    # Optuna keeps each limit under a name of its own making.
    limits = optuna.create_trial(state=TrialState.RUNNING, constraints=dict(shown.constraints)).system_attrs
    for name, amount in limits.items():
        storage.set_trial_system_attr(number, name, amount)
    if shown.state.is_finished():
        storage.set_trial_state_values(number, shown.state, shown.values)


def population_of(study: StudyConfig) -> int:
    """Trials of one generation of NSGA-II."""
    return study.sampler.population or min(50, max(4, study.budget.trials // 8))


def _suggest(drawn: Trial, name: str, kind: BaseDistribution) -> None:
    if isinstance(kind, CategoricalDistribution):
        drawn.suggest_categorical(name, kind.choices)
    elif isinstance(kind, optuna.distributions.IntDistribution):
        drawn.suggest_int(name, kind.low, kind.high, step=kind.step, log=kind.log)
    else:
        drawn.suggest_float(name, kind.low, kind.high, step=kind.step, log=kind.log)
