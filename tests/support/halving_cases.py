"""A search that halves, with driver and ledger in memory."""

import math
from typing import Any

from afp_ray.config import StudyConfig, TrialConfig
from afp_ray.ledger.state import Replayer
from afp_ray.records import Failure, FailureClass, Job, LedgerEvent, StudyState, TrialRecord, TrialStatus
from afp_ray.search import StudySearch
from afp_ray.search.halving import whole_amount

TUNE = {"loss.temperature": {"low": 0.01, "high": 0.5, "log": True}, "loss.layer": {"low": 0, "high": 6, "int": True}}
STEPS = 90


def make_study(**fields: Any) -> StudyConfig:
    whole = {
        "name": "s",
        "fixed": {"training.max_steps": STEPS},
        "compare": {"method": ["afp"]},
        "seeds": [1, 2],
        "tune": TUNE,
        "pruner": {"name": "asha", "min": 10},
        "budget": {"trials": 9},
    }
    whole["sampler"] = {"name": "random"}
    return StudyConfig.model_validate({**whole, **fields})


def score(config: dict[str, Any], amount: float = math.inf) -> float:
    """Higher the nearer to layer 3 and temperature 0.1, and the longer it was trained: no curves cross."""
    trial = TrialConfig.model_validate(config)
    quality = -abs(trial.loss.layer - 3) - abs(trial.loss.temperature - 0.1)
    return quality - 10 / (1 + amount)


class Runner:
    """Driver and ledger in memory: the records are what the ledger's own replay makes of the events."""

    def __init__(self, study: StudyConfig, *, fails: frozenset[int] = frozenset()) -> None:
        self.study, self.fails = study, fails
        self.replayer = Replayer(study.name)
        self.search = StudySearch(study, lambda _: {})
        self.jobs: list[Job] = []
        self.kinds: list[tuple[str, str]] = []

    @property
    def state(self) -> StudyState:
        return self.replayer.state()

    def record(self, trial_id: str) -> TrialRecord:
        record = self.replayer.trial(trial_id)
        assert record is not None
        return record

    def write(self, state: TrialStatus, job: Job | TrialRecord, **fields: Any) -> None:
        event = LedgerEvent(
            time=float(len(self.kinds)),
            trial_id=job.trial_id,
            state=state,
            attempt=job.attempt,
            role=job.role,
            arm=job.arm,
            seed=job.seed,
            **fields,
        )
        self.kinds.append((str(state), job.trial_id))
        self.replayer.apply(event.model_dump(mode="json", exclude_none=True))

    def rebuild(self) -> None:
        """As a driver that was killed here and started again."""
        self.search = StudySearch(self.study, lambda _: {})
        self.search.replay(self.state)
        self.prune()

    def take(self) -> Job | None:
        job = self.search.next_job()
        if not isinstance(job, Job):
            return None
        known = self.replayer.trial(job.trial_id)
        planned = (TrialStatus.PLANNED, job.attempt, job.until)
        if known is None or (known.status, known.attempt, known.until) != planned:
            whole = {} if job.role == "test" else {"config": job.config, "params": job.params, "until": job.until}
            self.write(TrialStatus.PLANNED, job, **whole)
        return job

    def start(self, job: Job) -> None:
        self.jobs.append(job)
        self.write(TrialStatus.RUNNING, job)

    def finish(self, job: Job, value: float | None = None) -> None:
        """End a job as the trial would: PAUSED at its rung, FAILED where it was asked to, else DONE."""
        whole = whole_amount(TrialConfig.model_validate(job.config), self.study.pruner.unit)
        number = [trial.trial_id for trial in self.state.trials].index(job.trial_id)
        if number in self.fails and job.role == "search":
            failure = Failure(failure_class=FailureClass.BUG, message="x")
            self.write(TrialStatus.FAILED, job, failure=failure)
        elif job.until is not None and job.until.amount < whole:
            objective = score(job.config, job.until.amount) if value is None else value
            self.write(
                TrialStatus.PAUSED, job, objective=objective, until=job.until, gpu_hours=job.until.amount / STEPS
            )
        else:
            objective = score(job.config) if value is None else value
            self.write(TrialStatus.DONE, job, objective=objective, splits=job.splits, gpu_hours=1.0)
        self.search.observe(self.record(job.trial_id))
        self.prune()

    def prune(self) -> None:
        for trial_id in self.search.pruned():
            self.write(TrialStatus.PRUNED, self.record(trial_id))
            self.search.observe(self.record(trial_id))

    def run(self) -> list[Job]:
        while job := self.take():
            self.start(job)
            self.finish(job)
        return self.jobs


def searched(runner: Runner) -> list[TrialRecord]:
    return [trial for trial in runner.state.trials if trial.role == "search"]
