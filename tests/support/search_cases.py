"""What the tests of the search share: a study over three fields, and a stand-in for executor and ledger."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from afp_ray.config import StudyConfig, TrialConfig
from afp_ray.records import Failure, FailureClass, Job, StudyState, TrialRecord, TrialStatus
from afp_ray.search import PriorStudy, StudySearch

TUNE = {
    "loss.temperature": {"low": 0.01, "high": 0.5, "log": True},
    "loss.layer": {"low": 0, "high": 6, "int": True},
    "loss.pooling": {"choices": ["last", "mean"]},
}
TWO_GOALS = {"metric": "mean", "also": [{"metric": "pivot_mean"}]}
Measure = Callable[[TrialConfig], tuple[float, dict[str, float]]]


def make_study(**fields: Any) -> StudyConfig:
    whole = {"name": "s", "compare": {"method": ["base", "afp"]}, "seeds": [1, 2], "tune": TUNE}
    return StudyConfig.model_validate({**whole, "budget": {"trials": 12}, **fields})


def make_search(study: StudyConfig, prior: tuple[PriorStudy, ...] = ()) -> StudySearch:
    return StudySearch(study, lambda _: {}, prior=prior)


def trade_off(config: TrialConfig) -> tuple[float, dict[str, float]]:
    """`mean` rises with the layer, `pivot_mean` falls with it; both are best at temperature 0.1."""
    distance = abs(math.log10(config.loss.temperature / 0.1)) if config.training.max_steps else 0.0
    layer = config.loss.layer if config.training.max_steps else 0
    return 0.1 * layer - distance, {"pivot_mean": 1.0 - 0.05 * layer - distance}


class Played:
    """A study that is searched and scored in memory, `at_once` trials at a time.

    Args:
        study: the study.
        measure: first objective and further values of a configuration.
        prior: studies to learn from.
    """

    def __init__(self, study: StudyConfig, measure: Measure = trade_off, prior: tuple[PriorStudy, ...] = ()) -> None:
        self.study, self.measure, self.prior = study, measure, prior
        self.search = make_search(study, prior)
        self.records: dict[str, TrialRecord] = {}
        self.jobs: list[Job] = []

    def rebuild(self) -> None:
        """Forget the search, and start one from the records as a new driver does."""
        self.search = make_search(self.study, self.prior)
        self.search.replay(StudyState(name=self.study.name, trials=tuple(self.records.values())))

    def take(self) -> Job | None:
        job = self.search.next_job()
        if not isinstance(job, Job):
            return None
        self.jobs.append(job)
        known = self.records.get(job.trial_id)
        if job.role == "test" and known is not None:
            self.put(known.model_copy(update={"test_pending": True}))
        else:
            fields = job.model_dump()
            self.put(TrialRecord(**fields, status=TrialStatus.RUNNING, planned_at=float(len(self.records))))
        return job

    def put(self, record: TrialRecord) -> None:
        self.records[record.trial_id] = record
        self.search.observe(record)

    def finish(self, job: Job, **fields: Any) -> None:
        objective, values = self.measure(TrialConfig.model_validate(job.config))
        kept = {name: value for name, value in values.items() if math.isfinite(value)}
        done = {"status": TrialStatus.DONE, "objective": objective, "values": kept, "splits": job.splits}
        self.put(self.records[job.trial_id].model_copy(update={**done, "test_pending": False, **fields}))

    def fail(self, job: Job) -> None:
        failure = Failure(failure_class=FailureClass.DIVERGED, message="x")
        self.put(self.records[job.trial_id].model_copy(update={"status": TrialStatus.FAILED, "failure": failure}))

    def run(self, *, at_once: int = 1, rebuild: bool = False) -> "Played":
        """To the end; with `rebuild` by a new search before every job."""
        waiting: list[Job] = []
        while True:
            while len(waiting) < at_once:
                if rebuild:
                    self.rebuild()
                if (job := self.take()) is None:
                    break
                waiting.append(job)
            if not waiting:
                return self
            self.finish(waiting.pop(len(self.jobs) % len(waiting)))

    def of(self, role: str, arm: str = "afp") -> list[Job]:
        return [job for job in self.jobs if job.role == role and job.arm == arm]


def points(jobs: list[Job]) -> list[Mapping[str, Any]]:
    return [job.params for job in jobs]


def finished(records: Mapping[str, TrialRecord]) -> Iterator[TrialRecord]:
    return (record for record in records.values() if record.status is TrialStatus.DONE)
