"""Importance of searched fields: agreement with another implementation, planted and absent effects."""

import numpy as np
import pytest

from afp_ray.statistics import SearchedField, importances
from afp_ray.statistics.importance import divergence


def make_trials(random: np.random.Generator, number: int = 60) -> dict[str, np.ndarray]:
    return {
        "rate": np.exp(random.uniform(np.log(1e-5), np.log(1e-2), number)),
        "layer": random.integers(0, 7, number),
        "pooling": random.integers(0, 2, number),
    }


def make_fields(trials: dict[str, np.ndarray]) -> list[SearchedField]:
    return [
        SearchedField.of_numbers("rate", trials["rate"], low=1e-5, high=1e-2, log=True),
        SearchedField.of_numbers("layer", trials["layer"], low=0, high=6, is_int=True),
        SearchedField.of_choices("pooling", [("last", "mean")[i] for i in trials["pooling"]], ("last", "mean")),
    ]


def test_it_agrees_with_optuna() -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = make_trials(np.random.default_rng(0))
    values = -np.abs(np.log(trials["rate"] / 1e-3)) + 0.3 * trials["layer"] + 0.5 * trials["pooling"]
    study = optuna.create_study(direction="maximize")
    space = {
        "rate": optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True),
        "layer": optuna.distributions.IntDistribution(0, 6),
        "pooling": optuna.distributions.CategoricalDistribution(("last", "mean")),
    }
    for rate, layer, pooling, value in zip(*trials.values(), values, strict=True):
        params = {"rate": float(rate), "layer": int(layer), "pooling": ("last", "mean")[int(pooling)]}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=float(value)))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    theirs = optuna.importance.get_param_importances(study, evaluator=evaluator)
    ours = {row.name: row.share.mean for row in importances(make_fields(trials), list(values), resamples=2)}
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_a_planted_field_is_found_and_the_others_are_not() -> None:
    trials = make_trials(np.random.default_rng(1))
    noise = np.random.default_rng(2).normal(0, 0.3, 60)
    values = -((np.log(trials["rate"] / 3e-4)) ** 2) + noise
    by_field = {row.name: row for row in importances(make_fields(trials), list(values), resamples=300)}
    assert by_field["rate"].p < 0.02 and by_field["rate"].share.mean > 0.5
    assert by_field["layer"].p > 0.05 and by_field["pooling"].p > 0.05
    assert sum(row.share.mean for row in by_field.values()) == pytest.approx(1)
    for row in by_field.values():
        assert 0 <= row.share.low <= row.share.mean <= row.share.high <= 1


def test_fields_without_effect_are_claimed_as_seldom_as_said() -> None:
    random = np.random.default_rng(3)
    smallest = []
    for number in range(60):
        fields = make_fields(make_trials(random, 30))
        rows = importances(fields, list(random.normal(size=30)), resamples=40, seed=number)
        smallest += [row.p for row in rows]
    assert np.mean(np.array(smallest) < 0.05) <= 0.09


def test_all_trials_alike_have_no_divergence_and_few_are_refused() -> None:
    trials = make_trials(np.random.default_rng(4), 20)
    fields, every = make_fields(trials), np.arange(20)
    assert [divergence(field, every, every) for field in fields] == [0, 0, 0]
    fixed = SearchedField.of_numbers("fixed", [2.0] * 20, low=2, high=2)
    assert divergence(fixed, every[:3], every) == 0
    with pytest.raises(ValueError, match="at least 10"):
        importances(fields, [0.0] * 9)


def test_true_and_one_are_different_choices() -> None:
    field = SearchedField.of_choices("mixed", [True, 1, False, 0], (True, 1, False, 0))
    assert field.grid_index.tolist() == [0, 1, 2, 3]
