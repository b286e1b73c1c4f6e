"""Asynchronous successive halving of one arm: which paused trial goes on, to which rung, and which never will.

The rungs of an arm are the amounts `min`, `min * factor`, ... below its longest training; the last rung is the end of
the training itself. Whenever a worker is free, a trial among the best 1 / factor of those that reached a rung goes on
to the next one, the highest rung first; only where there is none does a new configuration start (ASHA,
arXiv:1810.05934). With 9 trials, `min` 100, `factor` 3 and a training of 900 steps:

    end     900   o                      trained whole
    rung 1  300   o o o                  2 of them stop here
    rung 0  100   o o o o o o o o o      6 of them stop here

Plain halving fills a rung before it promotes, so that workers wait for the slowest trial; here nobody waits. The price
is a trial too many now and then: the best of the first three need not be among the best three of nine.

Everything is read from the records of the trials, so nothing here has to be stored. A decision sorts the trials of
an arm anew, which is nothing beside a training.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from afp_ray.config import PrunerConfig, StudyConfig, TrialConfig
from afp_ray.errors import ConfigError
from afp_ray.records import Job, TrialRecord, TrialStatus, Until
from afp_ray.search.arms import Arm, check_points, resolve
from afp_ray.search.jobs import is_running
from afp_ray.search.objectives import violations
from afp_ray.search.promotions import expected_at_rungs

Excess = Callable[[TrialRecord], float]


def whole_amount(config: TrialConfig, unit: str) -> int:
    """The whole training of a trial.

    Args:
        config: the trial.
        unit: `steps`, `rows` (instructions and pairs of terms that are on) or `tokens`.
    Returns: an amount of `unit`; of tokens an upper bound, every text of every row at `max_length`.
    """
    return _largest([config], unit)


def _largest(configs: Sequence[TrialConfig], unit: str) -> int:
    """Upper bound of a whole training: every field at the largest of its values among `configs`."""
    steps = max(config.training.max_steps for config in configs)
    if unit == "steps":
        return steps
    instructions = max(config.training.batch_size * (config.loss.instruction_weight > 0) for config in configs)
    pairs = max(config.training.num_pairs_per_step * (config.loss.contrastive_weight > 0) for config in configs)
    if unit == "rows":
        return steps * (instructions + pairs)
    return steps * (instructions + 2 * pairs) * max(config.training.max_length for config in configs)


def _none(_: TrialRecord) -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Ladder:
    """The rungs of an arm, and what the trials on them ask for.

    Attributes:
        unit: of the amounts.
        amounts: of the rungs below the end, rising; empty where every trial trains whole at once.
        factor: one in so many trials goes on from each rung.
        sign: 1 where the objective is maximized, else -1.
    """

    unit: str
    amounts: tuple[int, ...]
    factor: int
    sign: float

    def until(self, config: Mapping[str, object] | TrialConfig, *, num_reached: int, done: int = 0) -> Until | None:
        """Where a trial is to train next.

        Args:
            config: its resolved configuration.
            num_reached: rungs that it has reached.
            done: the amount that it has trained.
        Returns: None where that is the end of its training.
        """
        if num_reached >= len(self.amounts):
            return None
        amount = self.amounts[num_reached]
        whole = whole_amount(TrialConfig.model_validate(config), self.unit)
        if not done < amount < whole:
            return None
        return Until.model_validate({"rung": num_reached, "unit": self.unit, "amount": amount})

    def value(self, trial: TrialRecord, rung: int) -> float | None:
        """The value of a trial at a rung, higher being better; None where it has none there.

        A trial that failed on the way to the rung counts as the worst. A finished trial that never stood at the rung
        counts with its final objective: at the end, or where its whole training is shorter. A trial that was adopted
        from another study has no value at the rungs below its end, since none of that study's is known there.
        """
        if rung < len(trial.rungs):
            return self.sign * trial.rungs[rung]
        if trial.status is TrialStatus.FAILED:
            # Still one of those of which one in `factor` goes on: else a search with failures would promote too few.
            return -math.inf if rung == len(trial.rungs) else None
        if trial.status is not TrialStatus.DONE or trial.objective is None:
            return None
        if rung < len(self.amounts) and trial.adopted_from is not None:
            whole = whole_amount(TrialConfig.model_validate(trial.config), self.unit)
            if whole > self.amounts[rung]:
                return None
        return self.sign * trial.objective

    def begun(self, job: Job) -> Job:
        """A new trial's job, on its way to the first rung."""
        return job.model_copy(update={"until": self.until(job.config, num_reached=0)}) if self.amounts else job

    def next_up(
        self, trials: Sequence[TrialRecord], excess: Excess = _none, *, is_drawn: bool
    ) -> tuple[TrialRecord, Until | None] | None:
        """The paused trial that goes on next, and where to.

        An arm of few trials can end without one that was trained whole and keeps the limits: its best one then goes on
        to the end, so that every arm has a configuration to confirm. Without rungs, where an earlier driver had some,
        all trials go on.

        Args:
            trials: of the arm's search, in the order in which they were planned.
            excess: by how much a trial passes the limits of the study.
            is_drawn: whether no new trial will begin.
        Returns: None where nothing goes on, now or (with `is_drawn` and nothing running) ever.
        """
        trial = self._promotable(trials, excess) if self.amounts else self._favourite(trials)
        if trial is not None:
            done = trial.until.amount if trial.until is not None else 0
            return trial, self.until(trial.config, num_reached=len(trial.rungs), done=done)
        if not is_drawn or any(is_running(trial) for trial in trials):
            return None
        ended = [trial for trial in trials if trial.status is TrialStatus.DONE]
        if any(excess(trial) <= 0 for trial in ended):
            return None
        # Nobody who keeps the limits was trained whole: the best of those who do now, else of all where none ended.
        within = [trial for trial in trials if _height(trial) and excess(trial) <= 0]
        trial = self._favourite(within if within or ended else trials)
        return None if trial is None else (trial, None)

    def _promotable(self, trials: Sequence[TrialRecord], excess: Excess) -> TrialRecord | None:
        """The best paused trial of the highest rung at which one is among the best 1 / factor; the earliest of equals.

        Trials that keep the limits come before those that pass them, and these by how much they do. With `factor` 3:

            rung 1   .81                         1 // 3 = 0, so nobody goes on from here
            rung 0   .80 .79 .75 .71 .66 .60     6 // 3 = 2, and .80 has gone on already, so .79 does now
        """
        for rung in range(max(map(_height, trials), default=0) - 1, -1, -1):
            reached = [(value, trial) for trial in trials if (value := self.value(trial, rung)) is not None]
            reached.sort(key=lambda item: (excess(item[1]), -item[0]))  # stable: earliest first
            # Trials that went on earlier still count among the best; only one that is paused right here can go on.
            for _, trial in reached[: len(reached) // self.factor]:
                if _height(trial) == rung + 1:
                    return trial
        return None

    def _favourite(self, trials: Sequence[TrialRecord]) -> TrialRecord | None:
        """The paused trial that came furthest, the best of those."""
        paused = [trial for trial in trials if _height(trial)]
        return max(paused, key=lambda trial: (len(trial.rungs), self.sign * trial.rungs[-1]), default=None)

    def level(self, trials: Sequence[TrialRecord], *, need: int) -> int:
        """The highest rung at which `need` trials have a value, for a sampler to learn from; else the lowest.

        Source: BOHB models the largest budget that has enough observations, arXiv:1807.01774, section 3.1.
        """
        for rung in range(len(self.amounts), 0, -1):
            values = (self.value(trial, rung) for trial in trials)
            if sum(value is not None and math.isfinite(value) for value in values) >= need:
                return rung
        return 0

    def seen_at(self, trials: Sequence[TrialRecord], level: int) -> list[TrialRecord]:
        """The trials as shown to a sampler that learns from one rung alone.

        A trial that reached the rung is shown as DONE with its value there. One that was pruned below it is shown as
        PAUSED, so as still open, for which TPE assumes a poor value (its constant liar). One that another study trained
        whole is shown as CANCELLED, since it has no value there.
        """
        return [self._seen(trial, level) for trial in trials]

    def _seen(self, trial: TrialRecord, level: int) -> TrialRecord:
        value = self.value(trial, level)
        if trial.status is TrialStatus.FAILED:
            return trial
        if value is not None:
            return trial.model_copy(update={"status": TrialStatus.DONE, "objective": self.sign * value})
        if trial.status is TrialStatus.PRUNED:
            return trial.model_copy(update={"status": TrialStatus.PAUSED})
        if trial.status is TrialStatus.DONE:
            return trial.model_copy(update={"status": TrialStatus.CANCELLED, "objective": None})
        return trial

    def cost(self, num_trials: int, whole: int) -> float:
        """Whole trainings that a search costs about.

        Args:
            num_trials: trials that it begins.
            whole: amount of a whole training.
        """
        ends = (*self.amounts, whole)
        parts = [(end - start) / max(1, whole) for start, end in pairwise((0, *ends))]
        return sum(count * part for count, part in zip(self.expected(num_trials), parts, strict=True))

    def expected(self, num_trials: int) -> tuple[float, ...]:
        """How many of the trials that begin are scored at each rung and at the end, about."""
        return expected_at_rungs(num_trials, self.factor, len(self.amounts))


def _height(trial: TrialRecord) -> int:
    """Rungs that a paused trial has reached; 0 for every other."""
    return len(trial.rungs) if trial.status is TrialStatus.PAUSED else 0


def make_ladder(study: StudyConfig, arm: Arm) -> Ladder:
    """The rungs of an arm; none without a pruner or a search.

    Args:
        study: gives the pruner and the direction.
        arm: the arm; where a field that its training grows with is searched, its longest training counts.
    Raises: ConfigError for tokens without `min`, since how many a training has is not known before.
    """
    pruner = study.pruner
    sign = 1.0 if study.objective.direction == "maximize" else -1.0
    if pruner.name == "none" or not arm.is_searched:
        return Ladder(pruner.unit, (), pruner.factor, sign)
    _require_one_objective(study)
    if pruner.unit == "tokens" and pruner.min is None:
        raise ConfigError(
            "rungs in tokens have no default: the tokens of a training are not known before it",
            where="pruner.min",
            allowed="a whole number of tokens",
            fix="set pruner.min, or count in steps or rows",
        )
    whole = longest(arm, study)
    amount = pruner.min or max(1, whole // pruner.factor**2)
    amounts = []
    while amount < whole:
        amounts.append(amount)
        amount *= pruner.factor
    return Ladder(pruner.unit, tuple(amounts), pruner.factor, sign)


def longest(arm: Arm, study: StudyConfig) -> int:
    """The largest whole training that a trial of the arm can have, in the pruner's unit."""
    return _largest([resolve(arm, point, study.seeds[0]) for point in check_points(arm)], study.pruner.unit)


def excess(study: StudyConfig, trial: TrialRecord, base: TrialRecord | None) -> float:
    """By how much a trial passes the limits of the study where it stands, summed; 0 keeps all of them.

    Args:
        study: gives the limits.
        trial: paused or finished; a paused one is judged by what it scored at its last rung.
        base: the finished trial of the arm's base.
    Returns: infinity where a limit cannot be judged.
    """
    if not study.constraints:
        return 0.0
    if trial.objective is None and trial.rungs:
        trial = trial.model_copy(update={"objective": trial.rungs[-1]})
    amounts = violations(study, trial, base)
    return math.inf if amounts is None else sum(max(0.0, over) for over in amounts.values())


def _require_one_objective(study: StudyConfig) -> None:
    if study.objective.also:
        raise ConfigError(
            f"asha ranks trials by one objective, and this study has {len(study.objective.goals)}",
            where="pruner",
            fix="leave pruner out, or objective.also",
        )


def require_rungs(pruner: PrunerConfig, wholes: Mapping[str, int]) -> None:
    """Refuse a first rung that lies beyond every training.

    Args:
        pruner: of the study.
        wholes: longest training of each searched arm, by name.
    Raises: ConfigError naming the longest.
    """
    if pruner.name == "none" or not wholes or pruner.min is None:
        return
    if pruner.min >= max(wholes.values()):
        raise ConfigError(
            f"the first rung at {pruner.min:,} {pruner.unit} lies at or beyond the end of every training",
            where="pruner.min",
            allowed=f"less than {max(wholes.values()):,}",
            fix="lower it, or set pruner: none",
        )


def describe_rungs(arm: Arm, study: StudyConfig, *, num_trials: int) -> list[str]:
    """What a plan says of the rungs of an arm; nothing without a pruner."""
    if study.pruner.name == "none":
        return []
    ladder = make_ladder(study, arm)
    if not ladder.amounts:
        return [f"{arm.name}: its longest training is too short for a rung, so every trial is trained to its end"]
    amounts = ", ".join(f"{amount:,}" for amount in ladder.amounts)
    num_whole = round(ladder.expected(num_trials)[-1])
    share = ladder.cost(num_trials, longest(arm, study)) / num_trials
    return [
        f"{arm.name}: rungs at {amounts} {ladder.unit}; of {num_trials} trials about {num_whole} are trained to their "
        f"end, and all together cost about {share:.0%} of whole trainings"
    ]
