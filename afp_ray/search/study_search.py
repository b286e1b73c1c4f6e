"""From the state of a study to its next job: search each arm, confirm its best configuration at every seed.

Everything is derived from the trials of the ledger, so a search rebuilt after a kill asks what the first would have.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from afp_ray.config import StudyConfig, TrialConfig, canonical_json, trial_id
from afp_ray.errors import UserError
from afp_ray.ledger.snapshot import Sections
from afp_ray.records import Failure, Job, Role, StudyState, TrialRecord, TrialStatus, Until
from afp_ray.search.arms import Arm, check_points, describe_merges, make_arms, resolve
from afp_ray.search.halving import describe_rungs, excess, longest, make_ladder, require_rungs
from afp_ray.search.jobs import continued, had_no_model, is_open, is_running, job_again, opened
from afp_ray.search.objectives import base_of_arm, chosen, needs_base, require_base
from afp_ray.search.plan import ArmPlan, Plan
from afp_ray.search.sampling import Asker
from afp_ray.search.space import grid_size
from afp_ray.search.warm_start import PriorStudy, prior_of, require_same_objective

Fingerprint = Callable[[TrialConfig], Mapping[str, str]]
_MAX_REPEATS = 64  # asks in a row that may name known trials before a space counts as used up


class Wait:
    """`next_job` has nothing now, and will once a running trial ends."""


WAIT: Final = Wait()


class StudySearch:
    """Decides which trial comes next; holds no file, starts nothing.

    Args:
        study: the validated study.
        fingerprint: content hashes of what a trial's names and paths point to.
        prior: the studies of `warm_start`, which the samplers learn from.
        refused: by arm, why none of its trials can run: they fail with it, and one of a search tells enough.
        clock: seconds, monotonic; the wall-time budget counts from now.
    Raises: ConfigError when an arm, the search space or a limit cannot be, or a prior study sought something else.
    """

    def __init__(
        self,
        study: StudyConfig,
        fingerprint: Fingerprint,
        *,
        prior: Sequence[PriorStudy] = (),
        refused: Mapping[str, Failure] = MappingProxyType({}),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.study = study
        self.arms = make_arms(study)
        require_base(study, self.arms)
        for other in prior:
            require_same_objective(study, other.config)
        self._bases = {arm.name: base_of_arm(arm, self.arms) for arm in self.arms}
        self._prior = {arm.name: prior_of(study, arm, prior) for arm in self.arms if arm.is_searched}
        self._fingerprint = fingerprint
        self.refused = refused
        self._clock = clock
        self._started_at = clock()
        self._trials: dict[str, TrialRecord] = {}
        self._by_arm: dict[str, dict[str, TrialRecord]] = {arm.name: {} for arm in self.arms}
        self._search_trials: dict[str, dict[str, TrialRecord]] = {arm.name: {} for arm in self.arms}
        self._open: set[str] = set()
        self._paused: set[str] = set()
        self._resolved: dict[tuple[str, str, int], Job] = {}
        self._sections = Sections()
        self._reopened: list[Job] = []
        self._given_up: set[str] = set()
        self._used_up: set[str] = set()
        self.stale: tuple[str, ...] = ()
        """Trials of the ledger that will not run: open ones whose model, data or rows are no longer what they were, and
        failed ones whose model can be loaded now, which others take the place of."""
        self._askers = {arm.name: self._asker(arm) for arm in self.arms if arm.is_searched}
        self._ladders = {arm.name: make_ladder(study, arm) for arm in self.arms}
        self._levels: dict[str, tuple[int, Asker]] = {}
        require_rungs(study.pruner, {arm.name: longest(arm, study) for arm in self.arms if arm.is_searched})

    def replay(self, state: StudyState) -> None:
        """Start from what the ledger holds; trials that an earlier driver left open come first."""
        for record in state.trials:
            job = job_again(record)
            goes_on = job is not None or record.status is TrialStatus.PAUSED or had_no_model(record)
            if goes_on and not self._is_current(record):
                self.stale += (record.trial_id,)
                cancelled = {"status": TrialStatus.CANCELLED, "test_pending": False, "failure": None}
                record = record.model_copy(update=cancelled)
            elif job is not None:
                self._reopened.append(job)
                record = opened(record, job)
            elif record.failure is not None:
                self._given_up.add(record.trial_id)
            self._keep(record)

    def plans(self, record: TrialRecord) -> bool:
        """Whether the arm of that name would plan this very trial: the same configuration on the same files."""
        arm = next((arm for arm in self.arms if arm.name == record.arm), None)
        if arm is None:
            return False
        try:
            return self._job(arm, record.params, record.seed, record.role).trial_id == record.trial_id
        except UserError:  # a value that was searched then and may not be now
            return False

    def observe(self, record: TrialRecord) -> None:
        """Take note of a trial whose record changed; one that ended with a failure is not planned again."""
        self._keep(record)
        if not is_open(record) and record.failure is not None:
            self._given_up.add(record.trial_id)

    def _keep(self, record: TrialRecord) -> None:
        before = self._trials.get(record.trial_id)
        if before is not None and before.arm != record.arm:  # planned again by another arm of the same recipe
            del self._by_arm[before.arm][record.trial_id]
            self._search_trials[before.arm].pop(record.trial_id, None)
        self._trials[record.trial_id] = record
        self._by_arm.setdefault(record.arm, {})[record.trial_id] = record
        searched = self._search_trials.setdefault(record.arm, {})
        if record.role == "search" and record.status is not TrialStatus.CANCELLED:
            searched[record.trial_id] = record
        else:
            searched.pop(record.trial_id, None)
        (self._open.add if is_open(record) else self._open.discard)(record.trial_id)
        (self._paused.add if record.status is TrialStatus.PAUSED else self._paused.discard)(record.trial_id)

    def next_job(self) -> Job | Wait | None:
        """The next job; WAIT while running trials decide what follows; None when the study has nothing left."""
        if self.stopped_by() is not None:
            return WAIT if self._open - {job.trial_id for job in self._reopened} else None
        if self._reopened:
            return self._reopened.pop(0)
        job = self._confirm_job() or self._search_job()
        if job is None:
            return WAIT if self._open else None
        self._keep(self._planned(job))
        return job

    def stopped_by(self) -> str | None:
        """The budget that is used up, with its figures; None while there is some left."""
        budget = self.study.budget
        elapsed = self._clock() - self._started_at
        if budget.wall_s is not None and elapsed >= budget.wall_s:
            return f"wall_s: {elapsed:.0f} of {budget.wall_s:g} are over"
        if budget.gpu_hours is None:
            return None
        spent = sum(trial.gpu_hours for trial in self._trials.values() if trial.adopted_from is None)
        return f"gpu_hours: {spent:.3g} of {budget.gpu_hours:g} are spent" if spent >= budget.gpu_hours else None

    def _is_current(self, record: TrialRecord) -> bool:
        """Whether the trial would get the same id today."""
        try:
            config = TrialConfig.model_validate(record.config)
        except ValidationError:
            return False
        return trial_id(config, self._fingerprint(config)) == record.trial_id

    # --- search: every arm gets the same number of trials, at the first seed ------------------------------------

    def _search_job(self) -> Job | None:
        """A paused trial that goes on, else a new one for the arm that has had the fewest, so that a stop is fair."""
        job = self._continued_job()
        if job is not None:
            return job
        waiting = [arm for arm in self.arms if self._num_left(arm) > 0 and not self._awaits_base(arm)]
        for arm in sorted(waiting, key=lambda arm: len(self._searched(arm))):
            job = next((job for job in self._draws(arm) if job.trial_id not in self._trials), None)
            if job is not None:
                return job
            self._used_up.add(arm.name)
        return self._continued_job() if waiting else None

    def _continued_job(self) -> Job | None:
        """The paused trial that goes on next: of the highest rung, then of the arm that has had the fewest such."""
        candidates: list[tuple[int, int, Job]] = []
        for arm in self._paused_arms():
            trials = self._searched(arm)
            going_on = self._next_up(arm, trials, is_drawn=self._num_left(arm) <= 0)
            if going_on is not None:
                rung = len(going_on[0].rungs)
                candidates.append((-rung, sum(len(trial.rungs) >= rung for trial in trials), continued(*going_on)))
        return min(candidates, key=lambda item: item[:2])[2] if candidates else None

    def _paused_arms(self) -> list[Arm]:
        names = {self._trials[trial_id].arm for trial_id in self._paused}
        return [arm for arm in self.arms if arm.name in names]

    def _next_up(
        self, arm: Arm, trials: Sequence[TrialRecord], *, is_drawn: bool
    ) -> tuple[TrialRecord, Until | None] | None:
        base = self._base(arm.name)
        return self._ladders[arm.name].next_up(trials, lambda trial: excess(self.study, trial, base), is_drawn=is_drawn)

    def _draws(self, arm: Arm) -> Iterator[Job]:
        """Configurations for the arm's next trial: the sampler's, then whatever a small space has left."""
        searched, asker = self._modelled(arm)
        ladder = self._ladders[arm.name]
        for repeat in range(_MAX_REPEATS):
            params = asker.ask(searched, repeat, base=self._base(arm.name))
            if params is None:
                break
            yield ladder.begun(self._job(arm, params, self.study.seeds[0], "search"))
        for params in asker.unseen(searched):
            yield ladder.begun(self._job(arm, params, self.study.seeds[0], "search"))

    def _modelled(self, arm: Arm) -> tuple[list[TrialRecord], Asker]:
        """The arm's search trials as its sampler sees them, and that sampler; each rung has one of its own."""
        searched, ladder, first = self._searched(arm), self._ladders[arm.name], self._askers[arm.name]
        if not ladder.amounts:
            return searched, first
        level = ladder.level(searched, need=max(self.study.sampler.startup_trials, len(arm.tune) + 3))
        if self._levels.get(arm.name, (0, first))[0] != level:
            self._levels[arm.name] = level, self._asker(arm)
        return ladder.seen_at(searched, level), self._levels.get(arm.name, (0, first))[1]

    def _asker(self, arm: Arm) -> Asker:
        return Asker(self.study, arm, self._prior[arm.name].trials)

    def _base(self, arm: str) -> TrialRecord | None:
        """The finished trial of the arm's base; None before there is one."""
        base = self._bases.get(arm)
        trials = self._by_arm[base.name].values() if base is not None else ()
        return next((trial for trial in trials if trial.status is TrialStatus.DONE), None)

    def _awaits_base(self, arm: Arm) -> bool:
        """Whether a limit is against base, which has not been scored yet: until then no trial can be judged."""
        return needs_base(self.study) and self._base(arm.name) is None

    def _searched(self, arm: Arm) -> list[TrialRecord]:
        """Trials of the arm's search in the order in which they were planned."""
        return list(self._search_trials[arm.name].values())

    def _num_left(self, arm: Arm) -> int:
        """Search trials that the arm may still plan."""
        if not arm.is_searched or arm.name in self._used_up:
            return 0
        return self._num_search(arm) - len(self._search_trials[arm.name])

    def _num_search(self, arm: Arm) -> int:
        return 1 if arm.name in self.refused else self._askers[arm.name].num_trials

    # --- confirmation: the arm's best configuration, at every seed ----------------------------------------------

    def _confirm_job(self) -> Job | None:
        return next((job for arm in self.arms for job in self._confirmation(arm) if self._is_needed(job)), None)

    def _confirmation(self, arm: Arm) -> Iterator[Job]:
        """One job per distinct trial of the confirmation; none before the search has decided it."""
        params = self._decided_params(arm)
        if params is None:
            return
        seen: set[str] = set()
        for seed in self.study.seeds:
            job = self._job(arm, params, seed, "confirm")
            if job.trial_id not in seen:  # base pins its seed: one trial counts for all
                seen.add(job.trial_id)
                planned = self._trials.get(job.trial_id)
                is_scored = planned is not None and planned.status is TrialStatus.DONE
                yield job.model_copy(update={"role": "test"}) if is_scored else job

    def _is_needed(self, job: Job) -> bool:
        planned = self._trials.get(job.trial_id)
        if planned is None:
            return True
        if planned.trial_id in self._open or planned.trial_id in self._given_up:
            return False
        return planned.status is not TrialStatus.FAILED and "test" not in planned.splits

    def _decided_params(self, arm: Arm) -> Mapping[str, Any] | None:
        """Values of the arm's chosen search trial; {} without a space, None before the end of the search or of none."""
        if not arm.is_searched:
            return {}
        if not self._is_searched_out(arm):
            return None
        best = self.best(arm.name)
        return None if best is None else best.params

    def _is_searched_out(self, arm: Arm) -> bool:
        """Whether the arm has no trial left to begin, at work, or to go on with."""
        trials = self._searched(arm)
        if self._num_left(arm) > 0 or any(is_running(trial) for trial in trials):
            return False
        return self._next_up(arm, trials, is_drawn=True) is None

    def best(self, arm: str) -> TrialRecord | None:
        """The arm's search trial that is chosen so far; None while none is feasible."""
        return chosen(self.study, self._by_arm[arm].values(), self._base(arm))

    def decided(self, arm: str) -> frozenset[str] | None:
        """Trials that confirm `arm`; None before all of them have ended, or when the study has no such arm."""
        jobs = [job for known in self.arms if known.name == arm for job in self._confirmation(known)]
        ids = frozenset(job.trial_id for job in jobs)
        return None if not jobs or ids & self._open or any(map(self._is_needed, jobs)) else ids

    def pruned(self) -> tuple[str, ...]:
        """Paused trials that nothing can promote any more and that no PRUNED event has ended yet."""
        return tuple(
            trial.trial_id
            for arm in self._paused_arms()
            if self._is_searched_out(arm)
            for trial in self._searched(arm)
            if trial.status is TrialStatus.PAUSED
        )

    def has_more(self) -> bool:
        """Whether a job would follow if the budget allowed it."""
        return bool(self._open or self._confirm_job() or self._search_job())

    # --- both ---------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """What the study asks for, and what of it is finished; call `replay` first when there is a ledger."""
        notes = [*describe_merges(self.arms), *self._same_recipes()]
        notes += dict.fromkeys(note for prior in self._prior.values() for note in prior.notes)
        for arm in self.arms:
            size = grid_size(arm.tune) if arm.is_searched else None
            if self.study.sampler.name == "grid" and size and size > self.study.budget.trials:
                notes.append(f"{arm.name}: budget.trials = {self.study.budget.trials} cuts a grid of {size:,} points")
        for arm in filter(lambda arm: arm.is_searched, self.arms):
            notes += describe_rungs(arm, self.study, num_trials=self._askers[arm.name].num_trials)
        return Plan(tuple(self._arm_plan(arm) for arm in self.arms), tuple(notes))

    def twins(self) -> dict[str, str]:
        """By the name of an arm that searches nothing, the arm before it whose trials are its own: they run once."""
        arms = [arm for arm in self.arms if not arm.is_searched and arm.name not in self.refused]
        first: dict[tuple[str, ...], str] = {}
        found = {}
        for arm in arms:
            known = first.setdefault(self._arm_plan(arm).known_ids, arm.name)
            if known != arm.name:
                found[arm.name] = known
        return found

    def _same_recipes(self) -> Iterator[str]:
        """One sentence for each arm that is another one by content: equal files of models or data under two names."""
        for name, other in self.twins().items():
            yield f"{name} is the same trial as {other}: it runs once, and stands in the table as {other} alone"
        first: dict[str, str] = {}
        for arm in self.arms:
            if arm.is_searched and arm.name not in self.refused:
                point = self._job(arm, check_points(arm)[0], self.study.seeds[0], "search").trial_id
                space = {field: spec.model_dump(mode="json") for field, spec in arm.tune.items()}
                other = first.setdefault(canonical_json([point, space]), arm.name)
                if other != arm.name:
                    yield (
                        f"{arm.name} searches the same trials as {other}: what differs between them is chance alone, "
                        "and no evidence; take one of them out"
                    )

    def _arm_plan(self, arm: Arm) -> ArmPlan:
        seeds = self.study.seeds
        trials = self._by_arm[arm.name].values()
        finished = tuple(trial.trial_id for trial in trials if trial.status is TrialStatus.DONE)
        if arm.is_searched:
            is_lost = arm.name in self.refused
            num_confirm, num_test = (0, 0) if is_lost else (len(seeds) - 1, 1)
            return ArmPlan(arm, self._num_search(arm), num_confirm, num_test, known_ids=(), finished_ids=finished)
        known = tuple(dict.fromkeys(self._job(arm, {}, seed, "confirm").trial_id for seed in seeds))
        return ArmPlan(arm, 0, num_confirm=len(known), num_test=0, known_ids=known, finished_ids=finished)

    def _job(self, arm: Arm, params: Mapping[str, Any], seed: int, role: Role) -> Job:
        key = arm.name, canonical_json(params), seed
        if key not in self._resolved:
            config = resolve(arm, params, seed)
            self._resolved[key] = Job(
                trial_id=trial_id(config, self._fingerprint(config)),
                arm=arm.name,
                seed=config.seed,
                role=role,
                config=self._sections.share(config.model_dump(mode="json")),
                params=dict(params),
            )
        return self._resolved[key].model_copy(update={"role": role})

    def _planned(self, job: Job) -> TrialRecord:
        """The record that the ledger will hold once the job is planned."""
        known = self._trials.get(job.trial_id)
        if known is not None and known.status is TrialStatus.DONE:
            return known.model_copy(update={"test_pending": True})
        if known is not None:  # it goes on, or is trained again: what it has reached and cost stays
            return opened(known, job).model_copy(update={"arm": job.arm, "seed": job.seed})
        return TrialRecord(
            **job.model_dump(exclude={"role"}), role=job.role, status=TrialStatus.PLANNED, planned_at=time.time()
        )
