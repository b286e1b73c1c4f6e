"""The configuration models: hashes, refusals, and pins that name real fields."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from afp_ray.config import (
    ChoiceSpec,
    RangeSpec,
    SourceConfig,
    StudyConfig,
    TrialConfig,
    flatten,
    nest,
    trial_id,
)
from afp_ray.methods import METHODS


def field_names(model: type[BaseModel], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names |= field_names(inner, f"{prefix}{name}.")
        else:
            names.add(f"{prefix}{name}")
    return names


@pytest.mark.parametrize("method", METHODS)
def test_a_method_pins_real_fields_with_valid_values(method: str) -> None:
    assert set(METHODS[method]) <= field_names(TrialConfig)
    fields = {"method": method, "data.num_pairs": 10, "data.num_instructions": 10} | dict(METHODS[method])
    TrialConfig.model_validate(nest(fields))


def test_the_trial_id_ignores_the_order_of_keys() -> None:
    config = TrialConfig(seed=3)
    content = config.model_dump(mode="json")
    for seed in range(5):
        shuffled = list(content.items())
        random.Random(seed).shuffle(shuffled)
        again = TrialConfig.model_validate(json.loads(json.dumps(dict(shuffled))))
        assert trial_id(again, {"data": "a"}) == trial_id(config, {"data": "a"})


def test_the_trial_id_follows_content_and_not_the_path() -> None:
    def at(path: str, fingerprint: str) -> str:
        sources = [{"kind": "tsv", "path": path}]
        config = TrialConfig.model_validate({"data": {"sources": sources}})
        return trial_id(config, {"data": fingerprint})

    assert at("/one/{source}-{target}.tsv", "same") == at("/two/{source}-{target}.tsv", "same")
    assert at("/one/{source}-{target}.tsv", "same") != at("/one/{source}-{target}.tsv", "other")


def test_the_trial_id_sees_every_field() -> None:
    base = trial_id(TrialConfig(), {})
    for changed in (
        {"seed": 1},
        {"loss": {"temperature": 0.06}},
        {"data": {"num_pairs": 999}},
        {"training": {"max_steps": 1}},
        {"evaluation": {"shots": [5]}},
        {"model": {"name": "other"}},
        {"method": "mit", "loss": {"contrastive_weight": 0}},
    ):
        assert trial_id(TrialConfig.model_validate(changed), {}) != base, changed


def test_default_evaluation_languages_and_the_same_ones_spelled_out_are_one_trial() -> None:
    spelled = TrialConfig.model_validate({"evaluation": {"languages": ["en", "zh"]}})
    assert trial_id(spelled, {}) == trial_id(TrialConfig(), {})


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"loss": {"temperature": 0}}, "greater than 0"),
        ({"loss": {"temperature": float("nan")}}, "finite"),
        ({"loss": {"pooling": "cls"}}, "'last', 'mean' or 'max'"),
        ({"loss": {"layer": -1}}, "greater than or equal to 0"),
        ({"data": {"languages": ["xx"]}}, "'xx' is unknown"),
        ({"data": {"languages": ["en"]}}, "pivot"),
        ({"data": {"languages": ["zh", "zh"]}}, "repeats"),
        ({"data": {"languages": []}}, "at least 1"),
        ({"data": {"num_pairs": 1}}, "num_pairs >= 2"),
        ({"training": {"batch_size": 1}}, "batch_size >= 2"),
        ({"loss": {"contrastive_weight": 0, "instruction_weight": 0}}, "both loss weights are 0"),
        ({"evaluation": {"shots": [-1]}}, "shots"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_a_bad_trial_is_refused_with_its_reason(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrialConfig.model_validate(fields)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"low": 0, "high": 1, "log": True}, "low = 0 is not > 0"),
        ({"low": 2, "high": 1}, "above high"),
        ({"low": 0, "high": 1, "step": 0.3}, "does not divide"),
        ({"low": 0.5, "high": 3, "int": True}, "whole ends"),
        ({"low": 0.1, "high": 1, "log": True, "step": 0.1}, "exclude each other"),
    ],
)
def test_a_bad_range_is_refused_with_its_reason(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RangeSpec.model_validate(fields)


def test_choices_may_not_repeat_but_one_and_true_differ() -> None:
    with pytest.raises(ValidationError, match="repeat"):
        ChoiceSpec(choices=("a", "a"))
    assert ChoiceSpec(choices=(True, 1)).choices == (True, 1)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"name": "../up"}, "cannot be a study's name"),
        ({"name": "x" * 300}, "cannot be a study's name"),
        ({"name": "Latest"}, "cannot be a study's name"),
        ({"name": "a", "seeds": [1, 1]}, "repeats"),
        ({"name": "a", "seeds": []}, "at least 1"),
        ({"name": "a", "compare": {"method": []}}, "empty"),
        ({"name": "a", "fixed": {"loss.layer": 1}, "tune": {"loss.layer": {"low": 0, "high": 2}}}, "in both"),
        ({"name": "a", "fixed": {"seed": 1}}, "list the seeds"),
        ({"name": "a", "tune": {"method": {"choices": ["afp"]}}}, "compared, not tuned"),
        ({"name": "a", "compare": {"loss.layer": list(range(101)), "seed_": list(range(100))}}, "10,100 arms"),
        ({"name": "a", "objective": {"split": "test"}}, "validation"),
    ],
)
def test_a_bad_study_is_refused_with_its_reason(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StudyConfig.model_validate(fields)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,3}(\.[a-z]{1,3})?", fullmatch=True), st.integers(), max_size=6))
def test_nesting_and_flattening_are_inverse(fields: dict[str, int]) -> None:
    prefixes = {name.split(".")[0] for name in fields if "." in name}
    plain = {name: value for name, value in fields.items() if name not in prefixes}
    assert flatten(nest(plain)) == plain


def test_a_configuration_is_a_key_by_its_content_whatever_the_order_of_a_mapping() -> None:
    sides = {"source": "en", "target": "zh"}
    keys = {
        SourceConfig(kind="jsonl", path="a", columns=dict(order)) for order in (sides.items(), [*sides.items()][::-1])
    }
    assert len(keys) == 1
    assert SourceConfig(kind="jsonl", path="b", columns=sides) not in keys
    assert isinstance(hash(StudyConfig(name="s", fixed={"data.languages": ["zh"]})), int)


def test_tasks_with_languages_of_their_own_have_the_id_of_the_list_where_all_are_alike() -> None:
    def of(**evaluation: object) -> TrialConfig:
        return TrialConfig.model_validate({"evaluation": evaluation})

    by_list = of(tasks=["xcopa", "xnli"], languages=["zh", "th"])
    alike = of(tasks={"xcopa": ["zh", "th"], "xnli": ["zh", "th"]})
    apart = of(tasks={"xcopa": ["zh", "th"], "xnli": ["zh", "en"]})
    ids = [trial_id(config, {}) for config in (by_list, alike, apart)]
    assert ids[0] == ids[1] != ids[2]
    assert ids[2] == trial_id(of(tasks={"xnli": ["zh", "en"], "xcopa": ["zh", "th"]}), {})
    assert apart.evaluated_languages == ("zh", "th", "en")
    assert TrialConfig.model_validate_json(apart.model_dump_json()) == apart
    assert of(tasks={}).evaluated_languages == ("en", "zh")
