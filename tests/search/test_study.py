"""The search of a study: fair, confirmed at every seed, and rebuilt from its trials exactly as it was."""

from collections import Counter
from typing import Any

import pytest

from afp_ray.config import StudyConfig, TrialConfig
from afp_ray.errors import ConfigError
from afp_ray.records import Failure, FailureClass, Job, StudyState, TrialRecord, TrialStatus
from afp_ray.search import WAIT, StudySearch

TUNE = {
    "loss.temperature": {"low": 0.01, "high": 0.5, "log": True},
    "loss.layer": {"low": 0, "high": 6, "int": True},
    "loss.pooling": {"choices": ["last", "mean"]},
}


def make_study(**fields: Any) -> StudyConfig:
    whole = {"name": "s", "compare": {"method": ["base", "afp", "cit"]}, "seeds": [1, 2, 3], "tune": TUNE}
    return StudyConfig.model_validate({**whole, "budget": {"trials": 6}, **fields})


def make_search(study: StudyConfig, **options: Any) -> StudySearch:
    return StudySearch(study, lambda _: {}, **options)


def quality(job: Job) -> float:
    """Best at layer 3 and temperature 0.1."""
    config = TrialConfig.model_validate(job.config)
    return -abs(config.loss.layer - 3) - abs(config.loss.temperature - 0.1)


class Runner:
    """Plays executor and ledger in memory."""

    def __init__(self, search: StudySearch) -> None:
        self.search = search
        self.records: dict[str, TrialRecord] = {}
        self.jobs: list[Job] = []

    def state(self) -> StudyState:
        return StudyState(name="s", trials=tuple(self.records.values()))

    def take(self) -> Job | None:
        job = self.search.next_job()
        if not isinstance(job, Job):
            return None
        self.jobs.append(job)
        earlier = self.records.get(job.trial_id)
        if job.role == "test" and earlier is not None:
            record = earlier.model_copy(update={"test_pending": True})
        else:
            fields = job.model_dump()
            record = TrialRecord(**fields, status=TrialStatus.RUNNING, planned_at=len(self.records))
        self.put(record)
        return job

    def put(self, record: TrialRecord) -> None:
        self.records[record.trial_id] = record
        self.search.observe(record)

    def finish(self, job: Job, objective: float | None = None, **fields: Any) -> None:
        value = quality(job) if objective is None else objective
        done = {"status": TrialStatus.DONE, "objective": value, "splits": job.splits, "test_pending": False}
        self.put(self.records[job.trial_id].model_copy(update={**done, **fields}))

    def fail(self, job: Job, failure_class: FailureClass = FailureClass.BUG) -> None:
        failure = Failure(failure_class=failure_class, message="x")
        self.put(self.records[job.trial_id].model_copy(update={"status": TrialStatus.FAILED, "failure": failure}))

    def run(self) -> list[Job]:
        while job := self.take():
            self.finish(job)
        return self.jobs


def test_every_arm_gets_the_same_budget_and_pinned_arms_none() -> None:
    jobs = Runner(make_search(make_study(compare={"method": ["base", "afp", "mcl", "cit"]}))).run()
    assert Counter(job.arm for job in jobs if job.role == "search") == {"afp": 6, "mcl": 6}
    order = [job.arm for job in jobs if job.role == "search"]
    assert all(abs(order[:n].count("afp") - order[:n].count("mcl")) <= 1 for n in range(len(order)))


def test_the_best_configuration_is_confirmed_at_every_seed_and_base_runs_once() -> None:
    runner = Runner(make_search(make_study()))
    jobs = runner.run()
    assert [job.role for job in jobs if job.arm == "base"] == ["confirm"]
    assert [job.seed for job in jobs if job.arm == "cit"] == [1, 2, 3]
    best = max((job for job in jobs if job.role == "search"), key=quality)
    tested = [job for job in jobs if job.arm == "afp" and job.role != "search"]
    assert [(job.role, job.seed) for job in tested] == [("test", 1), ("confirm", 2), ("confirm", 3)]
    assert tested[0].trial_id == best.trial_id
    assert {str(job.params) for job in tested} == {str(best.params)}
    assert runner.search.decided("afp") == {job.trial_id for job in tested}
    assert runner.search.next_job() is None
    assert not runner.search.has_more()


def test_minimizing_confirms_the_lowest() -> None:
    jobs = Runner(make_search(make_study(objective={"metric": "alignment", "direction": "minimize"}))).run()
    worst = min((job for job in jobs if job.role == "search"), key=quality)
    assert next(job for job in jobs if job.role == "test").trial_id == worst.trial_id


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_search_rebuilt_at_any_point_goes_on_as_the_original(sampler: str) -> None:
    tune = {**TUNE, "loss.temperature": {"choices": [0.05, 0.1, 0.2]}} if sampler == "grid" else TUNE
    study = make_study(sampler={"name": sampler, "startup_trials": 3}, budget={"trials": 10}, tune=tune)
    whole = [(job.trial_id, job.role) for job in Runner(make_search(study)).run()]
    runner, taken = Runner(make_search(study)), 0
    while True:
        runner.search = make_search(study)
        runner.search.replay(runner.state())
        if not (job := runner.take()):
            break
        assert (job.trial_id, job.role) == whole[taken]
        runner.finish(job)
        taken += 1
    assert taken == len(whole)


def test_concurrent_trials_differ_and_the_search_waits_for_them() -> None:
    runner = Runner(make_search(make_study(compare={"method": ["afp"]})))
    jobs = [runner.take() for _ in range(6)]
    assert len({job.trial_id for job in jobs if job}) == 6
    assert runner.search.next_job() is WAIT
    for job in jobs[:5]:
        assert job
        runner.finish(job)
    assert runner.search.next_job() is WAIT  # the best is not known before the last
    assert jobs[5]
    runner.finish(jobs[5])
    following = runner.search.next_job()
    assert isinstance(following, Job)
    assert following.role == "test"


def test_a_small_space_is_searched_once_over_and_no_point_twice() -> None:
    tune = {"loss.layer": {"low": 0, "high": 2, "int": True}, "loss.pooling": {"choices": ["last", "mean"]}}
    for sampler in ("tpe", "random", "grid"):
        study = make_study(compare={"method": ["afp"]}, tune=tune, budget={"trials": 50}, sampler={"name": sampler})
        searched = [job for job in Runner(make_search(study)).run() if job.role == "search"]
        assert len(searched) == 6
        assert len({job.trial_id for job in searched}) == 6


def test_tpe_finds_better_than_random() -> None:
    gains = []
    for seed in range(5):
        scores = {}
        for sampler in ("tpe", "random"):
            study = make_study(
                compare={"method": ["afp"]}, budget={"trials": 30}, sampler={"name": sampler, "seed": seed}
            )
            jobs = Runner(make_search(study)).run()
            scores[sampler] = sum(quality(job) for job in jobs if job.role == "search") / 30
        gains.append(scores["tpe"] - scores["random"])
    assert sum(gains) / len(gains) > 0.3


def test_a_failed_trial_is_not_chosen_and_not_run_again() -> None:
    runner = Runner(make_search(make_study(compare={"method": ["afp"]})))
    for _ in range(6):
        job = runner.take()
        assert job
        runner.fail(job) if quality(job) > -2 else runner.finish(job)
    left = [record for record in runner.records.values() if record.status is TrialStatus.DONE]
    jobs = runner.run()[6:]
    assert jobs[0].trial_id == max(left, key=lambda record: record.objective or 0).trial_id
    assert {job.role for job in jobs} == {"test", "confirm"}


def test_an_arm_whose_trials_all_fail_is_not_confirmed() -> None:
    runner = Runner(make_search(make_study(compare={"method": ["afp"]})))
    for _ in range(6):
        job = runner.take()
        assert job
        runner.fail(job)
    assert runner.search.next_job() is None
    assert runner.search.decided("afp") is None


def test_a_failed_test_job_ends_the_confirmation_of_its_seed() -> None:
    runner = Runner(make_search(make_study(compare={"method": ["afp"]}, seeds=[1])))
    for _ in range(6):
        job = runner.take()
        assert job
        runner.finish(job)
    test = runner.take()
    assert test
    assert test.role == "test"
    failure = Failure(failure_class=FailureClass.BUG, message="x")
    record = runner.records[test.trial_id]
    runner.put(record.model_copy(update={"failure": failure, "test_pending": False, "splits": ("validation",)}))
    assert runner.search.next_job() is None
    again = make_search(runner.search.study)
    again.replay(runner.state())
    assert again.next_job() is None


def test_what_a_dead_driver_left_open_comes_first() -> None:
    study = make_study(compare={"method": ["afp"]})
    runner = Runner(make_search(study))
    jobs = [runner.take() for _ in range(4)]
    assert all(jobs)
    finished, running, lost, failed = (job for job in jobs if job)
    runner.finish(finished)
    runner.fail(lost, FailureClass.INFRA)
    runner.fail(failed)
    again = make_search(study)
    again.replay(runner.state())
    first, second, third = again.next_job(), again.next_job(), again.next_job()
    assert isinstance(first, Job)
    assert isinstance(second, Job)
    assert isinstance(third, Job)
    assert [(job.trial_id, job.attempt) for job in (first, second)] == [(running.trial_id, 2), (lost.trial_id, 2)]
    assert third.trial_id not in runner.records


def test_an_open_trial_whose_data_changed_is_stale() -> None:
    study = make_study(compare={"method": ["afp"]})
    runner = Runner(make_search(study))
    job = runner.take()
    assert job
    again = StudySearch(study, lambda _: {"data": "changed"})
    again.replay(runner.state())
    assert again.stale == (job.trial_id,)
    following = again.next_job()
    assert isinstance(following, Job)
    assert following.trial_id != job.trial_id


def test_budgets_stop_new_trials_and_say_why() -> None:
    runner = Runner(make_search(make_study(budget={"trials": 6, "gpu_hours": 1.0})))
    for hours in (0.4, 0.7):
        job = runner.take()
        assert job
        runner.finish(job, gpu_hours=hours)
    assert runner.search.next_job() is None
    assert runner.search.has_more()
    assert runner.search.stopped_by() == "gpu_hours: 1.1 of 1 are spent"
    now = iter([0.0, 10.0, 61.0, 61.0])
    timed = make_search(make_study(budget={"wall_s": 60.0}), clock=lambda: next(now))
    assert isinstance(timed.next_job(), Job)
    assert timed.next_job() is WAIT
    assert timed.stopped_by() == "wall_s: 61 of 60 are over"


def test_a_plan_counts_what_will_run() -> None:
    search = make_search(make_study())
    plan = search.plan()
    assert [(arm.arm.name, arm.num_search, arm.num_confirm, arm.num_test) for arm in plan.arms] == [
        ("base", 0, 1, 0),
        ("afp", 6, 2, 1),
        ("cit", 0, 3, 0),
    ]
    runner = Runner(search)
    jobs = runner.run()
    assert plan.num_trials == len({job.trial_id for job in jobs})
    assert set(search.plan().finished_ids) == {job.trial_id for job in jobs}


def test_a_grid_over_a_continuous_range_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        make_search(make_study(sampler={"name": "grid"}))
    assert caught.value.where == "tune.loss.temperature"


def test_many_arms_and_seeds_are_planned_quickly() -> None:
    study = make_study(compare={"loss.layer": list(range(1, 101))}, tune={}, seeds=list(range(3)))
    assert len(Runner(make_search(study)).run()) == 300
