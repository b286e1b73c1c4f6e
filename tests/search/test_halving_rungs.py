"""Where rungs lie, what they cost, what a limit or another study's trial means on them, and what the sampler sees."""

from typing import Any

import pytest
from halving_cases import STEPS, TUNE, Runner, make_study, searched

from afp_ray.errors import ConfigError
from afp_ray.records import Job, TrialRecord, TrialStatus, Until
from afp_ray.search import StudySearch
from afp_ray.search.halving import make_ladder


@pytest.mark.parametrize(
    ("pruner", "amounts"),
    [
        ({"name": "asha"}, (10, 30)),
        ({"name": "asha", "min": 7, "factor": 2}, (7, 14, 28, 56)),
        ({"name": "asha", "min": 30}, (30,)),
        ({"name": "asha", "unit": "rows"}, (10 * (4 + 6), 30 * (4 + 6))),
        ({"name": "asha", "unit": "tokens", "min": 3000, "factor": 4}, (3000, 12000)),
        ("none", ()),
    ],
)
def test_rungs_lie_below_the_end(pruner: Any, amounts: tuple[int, ...]) -> None:
    fixed = {"training": {"max_steps": STEPS, "batch_size": 4, "pair_batch_size": 6, "max_length": 32}}
    study = make_study(fixed=fixed, pruner=pruner)
    search = StudySearch(study, lambda _: {})
    assert make_ladder(study, search.arms[0]).amounts == amounts


def test_a_term_that_is_off_reads_no_rows() -> None:
    fixed = {"training": {"max_steps": STEPS, "batch_size": 4, "pair_batch_size": 6, "max_length": 32}}
    study = make_study(fixed=fixed, pruner={"name": "asha", "unit": "rows"}, compare={"method": ["mcl"]})
    assert make_ladder(study, StudySearch(study, lambda _: {}).arms[0]).amounts == (10 * 6, 30 * 6)


def test_where_lengths_are_searched_the_longest_training_sets_the_rungs() -> None:
    tune = {**TUNE, "training.max_steps": {"choices": [20, 90]}}
    study = make_study(fixed={}, tune=tune, budget={"trials": 12})
    runner = Runner(study)
    assert make_ladder(study, runner.search.arms[0]).amounts == (10, 30)
    runner.run()
    short = [trial for trial in searched(runner) if trial.config["training"]["max_steps"] == 20]
    assert any(trial.status is TrialStatus.DONE and len(trial.rungs) == 1 for trial in short)
    asked = {job.until.amount for job in runner.jobs if job.until and job.config["training"]["max_steps"] == 20}
    assert asked == {10}  # the rung at 30 lies beyond the end of these


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"pruner": {"name": "asha", "unit": "tokens"}}, "pruner.min"),
        ({"pruner": {"name": "asha", "min": STEPS}}, "pruner.min"),
        ({"objective": {"also": [{"metric": "alignment", "direction": "minimize"}]}}, "pruner"),
    ],
)
def test_a_pruner_that_cannot_be_is_refused(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        StudySearch(make_study(**fields), lambda _: {})
    assert caught.value.where == where
    assert caught.value.fix


def test_the_expected_cost_is_that_of_searches_on_average() -> None:
    expected, spent = 0.0, []
    for seed in range(12):
        runner = Runner(make_study(sampler={"name": "random", "seed": seed}, budget={"trials": 20}))
        runner.run()
        spent.append(sum(trial.gpu_hours for trial in searched(runner)))
        expected = make_ladder(runner.study, runner.search.arms[0]).cost(20, STEPS)
    assert sum(spent) / len(spent) == pytest.approx(expected, rel=0.15)
    assert expected < 20 / 2


def test_without_rungs_the_cost_is_every_training() -> None:
    study = make_study(pruner="none")
    assert make_ladder(study, StudySearch(study, lambda _: {}).arms[0]).cost(7, STEPS) == pytest.approx(7)


def test_a_plan_tells_where_the_rungs_are_and_what_they_save() -> None:
    (note,) = StudySearch(make_study(budget={"trials": 27}), lambda _: {}).plan().notes
    assert note.startswith("afp: rungs at 10, 30 steps; of 27 trials about 4 are trained to their end, and")
    short = make_study(pruner="asha", fixed={"training.max_steps": 1})
    (note,) = StudySearch(short, lambda _: {}).plan().notes
    assert note == "afp: its longest training is too short for a rung, so every trial is trained to its end"
    assert StudySearch(make_study(pruner="none"), lambda _: {}).plan().notes == ()


def test_limits_decide_who_goes_on_before_the_objective_does() -> None:
    study = make_study(constraints=[{"metric": "pivot_mean", "min": 0.5}], budget={"trials": 6})
    runner = Runner(study)
    for objective, pivot in ((0.9, 0.1), (0.2, 0.6), (0.5, 0.3)):
        job = runner.take()
        assert job
        runner.write(
            TrialStatus.PAUSED, job, objective=objective, until=job.until, values={"pivot_mean": pivot}, gpu_hours=0.1
        )
        runner.search.observe(runner.record(job.trial_id))
    following = runner.take()
    assert following
    assert following.trial_id == searched(runner)[1].trial_id  # the only one that keeps the limit


def test_an_arm_whose_whole_trials_pass_a_limit_tries_the_paused_ones_that_keep_it() -> None:
    study = make_study(constraints=[{"metric": "pivot_mean", "min": 0.5}], budget={"trials": 2})
    runner = Runner(study)
    pivots = [0.6, 0.7]
    for pivot in pivots:
        job = runner.take()
        assert job
        runner.write(TrialStatus.PAUSED, job, objective=pivot, until=job.until, values={"pivot_mean": pivot})
        runner.search.observe(runner.record(job.trial_id))
    whole = runner.take()
    assert whole
    runner.write(TrialStatus.DONE, whole, objective=0.9, splits=("validation",), values={"pivot_mean": 0.4})
    runner.search.observe(runner.record(whole.trial_id))
    following = runner.take()
    assert following
    assert (following.trial_id != whole.trial_id, following.until, following.role) == (True, None, "search")


def test_a_paused_trial_that_another_arm_confirms_is_not_run_twice() -> None:
    study = make_study(
        compare={"loss.layer": [3, 4]},
        tune={"loss.temperature": {"choices": [0.05, 0.1]}},
        fixed={"training.max_steps": STEPS, "method": "afp"},
        seeds=[1],
    )
    search = StudySearch(study, lambda _: {})
    job = search.next_job()
    assert isinstance(job, Job)
    other = next(arm.name for arm in search.arms if arm.name != job.arm)
    paused = TrialRecord(**job.model_dump(), status=TrialStatus.PAUSED, rungs=(0.5,), planned_at=0.0)
    search.observe(paused)
    search.observe(paused.model_copy(update={"arm": other, "status": TrialStatus.RUNNING, "until": None}))
    rest = [search.next_job() for _ in range(6)]
    assert job.trial_id not in [one.trial_id for one in rest if isinstance(one, Job)]


def test_what_another_study_trained_whole_is_known_at_the_end_alone() -> None:
    runner = Runner(make_study(budget={"trials": 9}))
    first = runner.take()
    assert first
    runner.write(TrialStatus.DONE, first, objective=0.99, splits=("validation",), note="adopted from other")
    runner.search.observe(runner.record(first.trial_id))
    ladder = make_ladder(runner.study, runner.search.arms[0])
    assert [ladder.value(runner.record(first.trial_id), rung) for rung in range(3)] == [None, None, 0.99]
    for _ in range(3):
        job = runner.take()
        assert job
        assert job.until == Until(rung=0, unit="steps", amount=10)
        runner.finish(job)
    following = runner.take()  # the best of the three that were scored there: the adopted one takes no place
    best = max(searched(runner)[1:], key=lambda trial: trial.rungs[0])
    assert following
    assert (following.trial_id, following.until) == (best.trial_id, Until(rung=1, unit="steps", amount=30))


def test_the_sampler_learns_from_the_highest_rung_that_enough_have_reached() -> None:
    runner = Runner(make_study(budget={"trials": 16}))
    runner.run()
    ladder, trials = make_ladder(runner.study, runner.search.arms[0]), searched(runner)
    at_second = sum(len(trial.rungs) >= 2 for trial in trials)
    assert ladder.level(trials, need=at_second) == 1
    assert ladder.level(trials, need=at_second + 1) == 0
    seen = ladder.seen_at(trials, 1)
    assert [trial.objective for trial in seen if trial.status is TrialStatus.DONE] == [
        trial.rungs[1] for trial in trials if len(trial.rungs) >= 2
    ]
    assert {trial.status for trial in seen if len(trial.rungs) < 2} == {TrialStatus.PAUSED}
