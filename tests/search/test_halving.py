"""Successive halving: who goes on and when, what ends early, and a rebuilt search that does the same."""

from collections import Counter

import pytest
from halving_cases import STEPS, Runner, make_study, score, searched
from hypothesis import given, settings
from hypothesis import strategies as st

from afp_ray.records import TrialStatus, Until
from afp_ray.search import WAIT, StudySearch


def test_rungs_of_nine_trials_halve_by_three_and_the_rest_is_pruned() -> None:
    runner = Runner(make_study())
    jobs = [job for job in runner.run() if job.role == "search"]
    amounts = Counter(job.until.amount if job.until else STEPS for job in jobs)
    assert amounts[10] == 9
    assert 3 <= amounts[30] <= 5  # the first of the best third may turn out not to have been
    assert 1 <= amounts[STEPS] <= 2
    done = [trial for trial in searched(runner) if trial.status is TrialStatus.DONE]
    assert len(done) == amounts[STEPS]
    assert {trial.status for trial in searched(runner) if trial not in done} == {TrialStatus.PRUNED}
    assert all(trial.rungs == (score(trial.config, 10), score(trial.config, 30)) for trial in done)
    assert all(trial.attempt == 1 for trial in done)  # going on is no new attempt
    best_third = sorted(searched(runner), key=lambda trial: -trial.rungs[0])[:3]
    assert all(len(trial.rungs) == 2 for trial in best_third)
    assert runner.search.next_job() is None
    assert not runner.search.has_more()


def test_the_one_that_was_trained_whole_is_confirmed_at_every_seed() -> None:
    runner = Runner(make_study())
    jobs = [job for job in runner.run() if job.role != "search"]
    done = max((t for t in searched(runner) if t.status is TrialStatus.DONE), key=lambda t: score(t.config))
    assert [(job.role, job.seed, job.until) for job in jobs] == [("test", 1, None), ("confirm", 2, None)]
    assert jobs[0].trial_id == done.trial_id
    assert runner.search.best("afp") == runner.record(done.trial_id)
    assert runner.search.decided("afp") == {job.trial_id for job in jobs}


def test_a_trial_goes_on_as_soon_as_it_is_among_the_best_third() -> None:
    runner = Runner(make_study())
    for _ in range(2):
        job = runner.take()
        assert job
        assert job.until == Until(rung=0, unit="steps", amount=10)
        runner.finish(job)
    third = runner.take()
    assert third
    assert third.until is not None
    assert third.until.rung == 0  # two reached the rung: a third of two is none
    runner.finish(third)
    fourth = runner.take()
    best = max(searched(runner)[:3], key=lambda trial: trial.rungs[0])
    assert fourth
    assert (fourth.trial_id, fourth.until) == (best.trial_id, Until(rung=1, unit="steps", amount=30))
    fifth = runner.take()  # while it runs: nobody else is in the best third
    assert fifth
    assert fifth.until is not None
    assert fifth.until.rung == 0


def test_equals_go_on_in_the_order_in_which_they_were_planned() -> None:
    runner = Runner(make_study())
    jobs = []
    for _ in range(3):
        job = runner.take()
        assert job
        jobs.append(job)
        runner.finish(job, 0.5)
    following = runner.take()
    assert following
    assert following.trial_id == jobs[0].trial_id


def test_minimizing_continues_the_lowest() -> None:
    runner = Runner(make_study(objective={"metric": "alignment", "direction": "minimize"}))
    runner.run()
    lowest = sorted(searched(runner), key=lambda trial: trial.rungs[0])[:3]
    assert all(len(trial.rungs) == 2 for trial in lowest)


def test_a_failed_trial_counts_as_the_worst_of_its_rung() -> None:
    runner = Runner(make_study(), fails=frozenset({0, 1}))
    for _ in range(3):
        job = runner.take()
        assert job
        runner.finish(job)
    following = runner.take()  # three reached the rung, two of them by failing
    assert following
    assert following.trial_id == searched(runner)[2].trial_id
    assert following.until == Until(rung=1, unit="steps", amount=30)


def test_an_arm_of_few_trials_still_gets_one_that_was_trained_whole() -> None:
    runner = Runner(make_study(budget={"trials": 2}))
    jobs = [job for job in runner.run() if job.role == "search"]
    assert [job.until.rung if job.until else None for job in jobs] == [0, 0, None]
    best = max(searched(runner), key=lambda trial: trial.rungs[0])
    assert (jobs[2].trial_id, best.status) == (best.trial_id, TrialStatus.DONE)


def test_when_the_favourite_fails_at_the_end_the_next_one_goes_on() -> None:
    runner = Runner(make_study(budget={"trials": 2}))
    jobs = [runner.take(), runner.take()]
    for job, value in zip(jobs, (0.1, 0.9), strict=True):
        assert job
        runner.finish(job, value)
    last = runner.take()
    assert last
    assert jobs[0]
    assert jobs[1]
    assert last.trial_id == jobs[1].trial_id
    runner.fails = frozenset({1})
    runner.finish(last)
    instead = runner.take()
    assert instead
    assert (instead.trial_id, instead.until) == (jobs[0].trial_id, None)


def test_paused_trials_are_never_chosen_and_nothing_is_waited_for_that_does_not_run() -> None:
    runner = Runner(make_study(budget={"trials": 3}))
    jobs = [runner.take() for _ in range(3)]
    assert runner.search.next_job() is WAIT
    for job in jobs:
        assert job
        runner.finish(job)
    assert runner.search.best("afp") is None
    promoted = runner.take()
    assert promoted
    assert runner.search.next_job() is WAIT  # one trial goes on; the paused ones are not what is waited for
    assert runner.search.pruned() == ()


def test_paused_trials_count_with_their_whole_cost() -> None:
    runner = Runner(make_study(budget={"trials": 9, "gpu_hours": 4 / 9 - 1e-9}))
    jobs = runner.run()
    # three trials to the first rung, the best of them to the second: (10 + 10 + 30) / 90; then new ones
    assert [job.until.amount if job.until else None for job in jobs][:4] == [10, 10, 10, 30]
    assert sum(trial.gpu_hours for trial in runner.state.trials) >= 4 / 9 - 1e-9
    assert runner.search.stopped_by() is not None
    assert runner.search.has_more()
    assert runner.search.pruned() == ()  # a larger budget may still promote them


def test_several_arms_begin_alike_and_each_ends_with_a_whole_trial() -> None:
    runner = Runner(make_study(compare={"method": ["afp", "mcl"]}))
    runner.run()
    for arm in ("afp", "mcl"):
        mine = [trial for trial in searched(runner) if trial.arm == arm]
        assert len(mine) == 9
        assert any(trial.status is TrialStatus.DONE for trial in mine)
    begun = [job.arm for job in runner.jobs if job.until is not None and job.until.rung == 0]
    assert all(abs(begun[:n].count("afp") - begun[:n].count("mcl")) <= 1 for n in range(len(begun)))


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_rebuilt_after_every_event_goes_on_as_the_original(sampler: str) -> None:
    study = make_study(sampler={"name": sampler}, budget={"trials": 12}, compare={"method": ["afp", "mcl"]})
    whole = Runner(study, fails=frozenset({3, 7}))
    whole.run()
    broken = Runner(study, fails=frozenset({3, 7}))
    while True:
        broken.rebuild()
        if not (job := broken.take()):
            break
        broken.rebuild()  # planned, not begun
        planned = broken.take()
        assert planned
        assert (planned.trial_id, planned.role, planned.until) == (job.trial_id, job.role, job.until)
        broken.start(planned)
        broken.rebuild()  # killed at work: the same rung again
        again = broken.take()
        assert again
        assert (again.trial_id, again.role, again.until) == (job.trial_id, job.role, job.until)
        assert again.attempt == planned.attempt + (job.role != "test")
        broken.finish(again)
    ended = ("PAUSED", "DONE", "FAILED", "PRUNED")
    assert [kind for kind in broken.kinds if kind[0] in ended] == [kind for kind in whole.kinds if kind[0] in ended]
    assert [trial.rungs for trial in broken.state.trials] == [trial.rungs for trial in whole.state.trials]


@settings(max_examples=40, deadline=None)
@given(
    order=st.lists(st.integers(0, 7), max_size=80),
    trials=st.integers(1, 14),
    factor=st.integers(2, 4),
    fails=st.frozensets(st.integers(0, 13), max_size=6),
)
def test_whatever_ends_first_every_trial_ends_once_and_every_kill_is_survived(
    order: list[int], trials: int, factor: int, fails: frozenset[int]
) -> None:
    """Up to four workers whose jobs end in any order; 7 kills the driver in the middle of whatever runs."""
    study = make_study(budget={"trials": trials}, pruner={"name": "asha", "min": 5, "factor": factor})
    runner, running, plan = Runner(study, fails=fails), [], iter(order)
    while True:
        while len(running) < 4 and (job := runner.take()):
            runner.start(job)
            running.append(job)
        if not running:
            break
        what = next(plan, 0)
        if what == 7:
            runner.rebuild()
            running.clear()
        else:
            runner.finish(running.pop(what % len(running)))
    assert all(trial.status.is_terminal for trial in runner.state.trials)
    ends = [trial_id for kind, trial_id in runner.kinds if kind in ("FAILED", "PRUNED")]
    assert len(ends) == len(set(ends))
    for trial in searched(runner):
        paused = [kind for kind in runner.kinds if kind == ("PAUSED", trial.trial_id)]
        assert len(paused) == len(trial.rungs)  # no rung is trained twice
    mine = searched(runner)
    assert len(mine) == trials
    assert any(trial.status is TrialStatus.DONE for trial in mine) or all(
        trial.status is TrialStatus.FAILED for trial in mine
    )
    assert not runner.search.has_more()


def test_paused_trials_whose_data_changed_end() -> None:
    runner = Runner(make_study())
    job = runner.take()
    assert job
    runner.finish(job)
    again = StudySearch(runner.study, lambda _: {"data": "changed"})
    again.replay(runner.state)
    assert again.stale == (job.trial_id,)


def test_trials_that_an_earlier_study_file_paused_go_on_to_the_end_without_a_pruner() -> None:
    runner = Runner(make_study(budget={"trials": 2}))
    job = runner.take()
    assert job
    runner.finish(job)
    runner.study = make_study(budget={"trials": 2}, pruner="none")
    runner.rebuild()
    following = runner.take()
    assert following
    assert (following.trial_id, following.until) == (job.trial_id, None)
