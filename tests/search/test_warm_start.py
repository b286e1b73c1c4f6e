"""What a search learns of the studies before it: which trials fit, what is said of the others, and that it helps."""

from typing import Any

import pytest
from search_cases import TUNE, TWO_GOALS, Played, make_search, make_study

from afp_ray.config import StudyConfig, TrialConfig
from afp_ray.errors import ConfigError
from afp_ray.search import PriorStudy, make_arms
from afp_ray.search.warm_start import prior_of


def before(**fields: Any) -> Played:
    return Played(make_study(name="before", **{"budget": {"trials": 10}, **fields})).run()


def as_prior(played: Played) -> PriorStudy:
    return PriorStudy(played.study, tuple(played.records.values()))


def learnt(study: StudyConfig, *priors: PriorStudy, arm: str = "afp") -> Any:
    return prior_of(study, next(one for one in make_arms(study) if one.name == arm), priors)


def test_finished_search_trials_are_learnt_from_and_count_for_nothing() -> None:
    earlier = before()
    study = make_study(warm_start=["before"], budget={"trials": 5})
    learned = learnt(study, as_prior(earlier))
    assert [trial.params for trial in learned.trials] == [job.params for job in earlier.of("search")]
    assert learned.notes == ("afp learns from 10 search trials of before",)
    played = Played(study, prior=(as_prior(earlier),)).run()
    assert len(played.of("search")) == 5
    assert played.search.plan().notes == learned.notes
    assert played.search.plan().arms[1].num_search == 5


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_search_rebuilt_before_every_trial_learns_the_same(sampler: str) -> None:
    prior = (as_prior(before(objective=TWO_GOALS)),)
    study = make_study(
        warm_start=["before"], objective=TWO_GOALS, sampler={"name": sampler, "population": 4}, budget={"trials": 8}
    )
    whole, again = Played(study, prior=prior).run(), Played(study, prior=prior).run(rebuild=True)
    assert [job.trial_id for job in again.jobs] == [job.trial_id for job in whole.jobs]
    cold = Played(make_study(**{**study.model_dump(), "warm_start": []})).run()
    assert [job.trial_id for job in cold.of("search")] != [job.trial_id for job in whole.of("search")]


def test_a_warm_search_begins_where_a_cold_one_ends() -> None:
    def first_draws(*priors: PriorStudy) -> float:
        scores = []
        for seed in range(4):
            study = make_study(sampler={"name": "tpe", "seed": seed}, budget={"trials": 4})
            jobs = Played(study, prior=priors).run().of("search")
            scores += [TrialConfig.model_validate(job.config).loss.layer for job in jobs]
        return sum(scores) / len(scores)

    assert first_draws(as_prior(before(budget={"trials": 25}))) > first_draws() + 1.0  # the layer is what pays


def test_an_arm_of_the_same_name_comes_before_one_of_the_same_method() -> None:
    named = before()
    other = Played(make_study(name="other", compare={"method": ["base", "afp"], "loss.symmetric": [True, False]})).run()
    study = make_study()
    assert len(learnt(study, as_prior(named)).trials) == 10
    default = TrialConfig().loss.symmetric
    learnt_trials = learnt(study, as_prior(other)).trials  # no arm `afp` there, but the method
    assert len(learnt_trials) == 24
    assert {trial.arm for trial in learnt_trials} == {
        "method=afp,loss.symmetric=true",
        "method=afp,loss.symmetric=false",
    }
    assert isinstance(default, bool)
    assert learnt(make_study(compare={"method": ["base", "mcl"]}), as_prior(named), arm="mcl").trials == ()


def test_what_does_not_fit_the_space_is_counted() -> None:
    earlier = before()
    narrow = {**TUNE, "loss.layer": {"low": 0, "high": 2, "int": True}}
    learned = learnt(make_study(tune=narrow), as_prior(earlier))
    inside = [job for job in earlier.of("search") if job.params["loss.layer"] <= 2]
    assert 0 < len(learned.trials) == len(inside) < 10
    assert learned.notes == (
        f"afp learns from {len(inside)} search trials of before; {10 - len(inside)} more lie outside its space or lack "
        "a metric that is asked",
    )


def test_a_field_that_is_fixed_here_has_to_have_that_value_there() -> None:
    earlier = before()
    fewer = {name: spec for name, spec in TUNE.items() if name != "loss.pooling"}
    learned = learnt(make_study(tune=fewer, fixed={"loss.pooling": "mean"}), as_prior(earlier))
    same = [job for job in earlier.of("search") if job.params["loss.pooling"] == "mean"]
    assert 0 < len(learned.trials) == len(same) < 10
    assert all("loss.pooling" not in trial.params for trial in learned.trials)


def test_a_field_that_is_searched_here_alone_has_the_value_that_it_had() -> None:
    fewer = {name: spec for name, spec in TUNE.items() if name != "loss.layer"}
    earlier = before(tune=fewer, fixed={"loss.layer": 4})
    learned = learnt(make_study(), as_prior(earlier))
    assert len(learned.trials) == 10
    assert {trial.params["loss.layer"] for trial in learned.trials} == {4}


def test_a_trial_without_a_metric_that_is_asked_teaches_nothing() -> None:
    bare = as_prior(before())
    without = PriorStudy(bare.config, [trial.model_copy(update={"values": {}}) for trial in bare.trials])
    assert learnt(make_study(objective=TWO_GOALS), without).trials == ()
    assert learnt(make_study(constraints=[{"metric": "pivot_mean", "min": 0.1}]), without).trials == ()
    assert len(learnt(make_study(objective=TWO_GOALS), bare).trials) == 10


def test_another_evaluation_is_said_to_be_another() -> None:
    earlier = before(fixed={"evaluation.limit": 7})
    notes = learnt(make_study(fixed={"evaluation.limit": 9}), as_prior(earlier)).notes
    assert notes[-1] == "before was scored otherwise: evaluation.limit; its scores may not compare"
    same = learnt(
        make_study(fixed={"evaluation.limit": 7, "evaluation.tasks": ["xcopa"]}),
        as_prior(before(fixed={"evaluation.limit": 7, "evaluation.tasks": ["xcopa"]})),
    )
    assert same.notes == ("afp learns from 10 search trials of before",)


@pytest.mark.parametrize(
    "objective", [{"metric": "pivot_mean"}, {"metric": "mean", "direction": "minimize"}], ids=["metric", "direction"]
)
def test_a_study_that_sought_something_else_is_refused(objective: dict[str, Any]) -> None:
    other = PriorStudy(make_study(name="before", objective=objective), ())
    with pytest.raises(ConfigError) as caught:
        make_search(make_study(warm_start=["before"]), (other,))
    assert f"maximize {objective['metric']}" in caught.value.problem or "minimize mean" in caught.value.problem
    assert caught.value.where == "warm_start"
    assert "take before out of warm_start" in caught.value.fix


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"warm_start": ["s"]}, "names 's' itself"),
        ({"warm_start": ["a", "a"]}, "repeats"),
        ({"warm_start": ["a"], "sampler": {"name": "random"}}, "learns nothing"),
        ({"warm_start": ["a"], "sampler": {"name": "grid"}}, "learns nothing"),
    ],
)
def test_a_warm_start_that_cannot_be_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_study(**fields)
