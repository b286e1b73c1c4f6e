"""Draws the next configuration of one arm from an in-memory Optuna study that mirrors the arm's trials."""

import hashlib
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from afp_ray.config import StudyConfig
from afp_ray.records import TrialRecord, TrialStatus
from afp_ray.search.arms import Arm
from afp_ray.search.space import distributions, from_optuna, grid_point, grid_size, require_grid, to_optuna

MAX_LISTED = 100_000
"""Largest grid that is walked to find a configuration that no trial has had."""


class Asker:
    """The sampler of one arm; what it draws depends on the seed, the arm and the arm's trials alone.

    Args:
        study: gives sampler, budget and direction.
        arm: an arm with a search space.
    Raises: ConfigError when the grid sampler meets a continuous range.
    """

    def __init__(self, study: StudyConfig, arm: Arm) -> None:
        self._sampler, self._arm = study.sampler, arm
        if study.sampler.name == "grid":
            require_grid(arm.tune)
        self._space = distributions(arm.tune)
        self._grid_size = grid_size(arm.tune)
        self.num_trials = min(study.budget.trials, self._grid_size or study.budget.trials)
        """Search trials of the arm: the budget, or the size of a space that is smaller."""
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(direction=study.objective.direction)
        optuna.logging.set_verbosity(verbosity)
        self._mirrored: dict[str, int] = {}
        self._ended: set[str] = set()

    def ask(self, trials: Sequence[TrialRecord], repeat: int) -> dict[str, Any] | None:
        """Values for the arm's next search trial.

        Args:
            trials: the arm's search trials in the order in which they were planned.
            repeat: how many draws in a row named a configuration that is known.
        Returns: values by dotted name; None when the grid has no further point.
        """
        if self._sampler.name == "grid":
            index = len(trials) + repeat
            return grid_point(self._arm.tune, index) if index < (self._grid_size or 0) else None
        self._mirror(trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = self._seeded(len(trials), repeat)
            drawn = self._study.ask(self._space)
            params = from_optuna(self._arm.tune, drawn.params)
            # A draw is no trial yet: the planned one comes back in `trials`, after a restart just as well.
            self._study.tell(drawn, state=TrialState.FAIL)
        return params

    def unseen(self, trials: Sequence[TrialRecord]) -> Iterable[dict[str, Any]]:
        """Points of a small finite space that none of `trials` has, in grid order; none for any other space."""
        if self._grid_size is None or self._grid_size > MAX_LISTED:
            return
        seen = [trial.params for trial in trials]
        for index in range(self._grid_size):
            point = grid_point(self._arm.tune, index)
            if point not in seen:
                yield point

    def _seeded(self, number: int, repeat: int) -> BaseSampler:
        text = f"{self._sampler.seed}|{self._arm.name}|{number}|{repeat}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        if self._sampler.name == "random":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, n_startup_trials=self._sampler.startup_trials, constant_liar=True)

    def _mirror(self, trials: Sequence[TrialRecord]) -> None:
        """Bring the Optuna study up to date; trials that still run act as pessimistic points."""
        for trial in trials:
            if trial.trial_id in self._ended:
                continue
            state, value = _optuna_state(trial)
            if trial.trial_id in self._mirrored and state is not TrialState.RUNNING:
                self._study.tell(self._mirrored[trial.trial_id], value, state=state)
            elif trial.trial_id not in self._mirrored:
                self._add(trial, state, value)
            if state is not TrialState.RUNNING:
                self._ended.add(trial.trial_id)

    def _add(self, trial: TrialRecord, state: TrialState, value: float | None) -> None:
        try:
            frozen: FrozenTrial = optuna.create_trial(
                params=to_optuna(self._arm.tune, trial.params), distributions=self._space, state=state, value=value
            )
        except ValueError:  # sampled from another space, before a drift that was allowed
            self._ended.add(trial.trial_id)
            return
        self._mirrored[trial.trial_id] = len(self._study.get_trials(deepcopy=False))
        self._study.add_trial(frozen)


def _optuna_state(trial: TrialRecord) -> tuple[TrialState, float | None]:
    """A trial as Optuna sees it; one without a finite objective is FAIL, so that it cannot linger or poison."""
    if not trial.status.is_terminal:
        return TrialState.RUNNING, None
    if trial.status is TrialStatus.DONE and trial.objective is not None and math.isfinite(trial.objective):
        return TrialState.COMPLETE, trial.objective
    return TrialState.FAIL, None
