"""Every study that ships: it validates, its arms resolve, and samples of its search space are valid trials."""

import random
from pathlib import Path

import pytest

from afp_ray.config import ChoiceSpec, RangeSpec, StudyConfig, TuneSpec
from afp_ray.config.load import load_study
from afp_ray.search.arms import make_arms, resolve

FILES = sorted((Path(__file__).parent.parent / "search_spaces").glob("**/*.yaml"))


def draw(spec: TuneSpec, chance: random.Random) -> bool | int | float | str:
    if isinstance(spec, ChoiceSpec):
        return chance.choice(spec.choices)
    if spec.int:
        return chance.randint(int(spec.low), int(spec.high))
    return chance.uniform(spec.low, spec.high)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def study(request: pytest.FixtureRequest) -> StudyConfig:
    loaded: StudyConfig = load_study(request.param, [])
    return loaded


def test_fifty_samples_of_every_arm_are_valid_trials(study: StudyConfig) -> None:
    chance = random.Random(0)
    for arm in make_arms(study):
        for _ in range(50):
            params = {name: draw(spec, chance) for name, spec in arm.tune.items()}
            config = resolve(arm, params, study.seeds[0])
            assert config.method == arm.method


def test_every_study_has_a_base_arm_to_compare_with(study: StudyConfig) -> None:
    assert "base" in {arm.method for arm in make_arms(study)}


def test_the_demo_compares_the_parts_of_afp_at_three_seeds_offline() -> None:
    study = load_study(next(path for path in FILES if path.stem == "demo"), [])
    arms = {arm.name: arm for arm in make_arms(study)}
    assert list(arms) == ["base", "mcl", "mit", "cit", "afp"]
    assert len(study.seeds) == 3
    assert set(study.tune) == {
        "loss.temperature",
        "loss.instruction_weight",
        "loss.layer",
        "loss.pooling",
        "data.num_pairs",
    }
    assert not arms["base"].tune and not arms["cit"].tune and set(arms["afp"].tune) == set(study.tune)
    assert all(resolve(arm, {}, 0).model.name == "embedded" for arm in arms.values())
    assert isinstance(study.tune["loss.temperature"], RangeSpec)
