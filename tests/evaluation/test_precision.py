"""Scores in bf16: near those in float32 in every family, from weights that are float32 again afterwards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, build_model, build_tokenizer
from trial_cases import run_on_cpu

from afp_ray.config import EvaluationConfig, TrialConfig, nest
from afp_ray.evaluation.cell_scoring import ScoringHost
from afp_ray.evaluation.likelihood import log_likelihoods
from afp_ray.evaluation.run import evaluate_tasks
from afp_ray.evaluation.score_cache import ScoreCache
from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.methods import pins
from afp_ray.models.head import vocabulary_head
from afp_ray.models.precision import weights_in

WORDS = [f"w{number}" for number in range(58)]
QUESTIONS = [
    [(" ".join(WORDS[at : at + 9]), " " + " ".join(WORDS[(at * 7 + choice) % 50 :][:3])) for choice in range(3)]
    for at in range(20)
]
TOLERANCE = 0.03
"""Nats a token, at log-likelihoods of 3 to 5 nats a token: six thousandths, a step of bf16 and a half."""


def all_values(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_choices_in_bf16_are_near_those_in_float32_and_leave_the_weights_alone(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    before, parameters = all_values(model), list(model.parameters())
    exact = ContinuationScorer(model, tokenizer).score(QUESTIONS)
    with weights_in(model, "bf16"):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        scorer = ContinuationScorer(model, tokenizer)
        rounded = scorer.score(QUESTIONS)
    assert scorer.obstacle is None, "bf16 must not cost the shared beginnings"
    assert rounded != exact, "nothing was rounded"
    for values, others in zip(rounded, exact, strict=True):
        assert values == pytest.approx(others, abs=3 * TOLERANCE)  # continuations of three tokens
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    after = all_values(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) and value.dtype == after[name].dtype for name, value in before.items())
    assert ContinuationScorer(model, tokenizer).score(QUESTIONS) == exact


def test_weights_come_back_after_an_error() -> None:
    model = build_model("llama")
    before = all_values(model)
    with pytest.raises(RuntimeError, match="full"), weights_in(model, "bf16"):
        raise RuntimeError("full")
    assert all(torch.equal(value, before[name]) for name, value in all_values(model).items())


def test_rotary_frequencies_and_what_a_family_asks_for_stay_float32() -> None:
    model = build_model("llama")
    model._keep_in_fp32_modules_strict = {"norm"}
    with weights_in(model, "bf16"):
        types = {name: value.dtype for name, value in [*model.named_parameters(), *model.named_buffers()]}
    kept = {name for name, dtype in types.items() if dtype == torch.float32}
    assert kept == {name for name in types if "norm" in name or name.endswith("inv_freq")}


@torch.no_grad()
def test_log_probabilities_of_bf16_states_are_those_of_float32_arithmetic() -> None:
    """Nothing between the bf16 states and weights and the log-probability is rounded to bf16."""
    model = build_model("gpt2").bfloat16()
    head = vocabulary_head(model)
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)).bfloat16() * 4
    owners, targets = torch.arange(5).repeat_interleave(64), torch.arange(64).repeat(5)
    values = log_likelihoods(head, states, owners, targets)
    expected = (states.double() @ head.weight.double().T).log_softmax(dim=-1)
    torch.testing.assert_close(values.view(5, 64).double(), expected, rtol=1e-5, atol=1e-5)


SETTINGS = {"tasks": ["xcopa", "translation"], "limit": 4, "generation": {"max_new_tokens": 4}}


def test_kept_answers_know_the_precision(
    tokenizer: Any, make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path))
    model, found = make_model("llama"), {}
    for precision in ("fp32", "bf16", "fp32", "bf16"):
        cache = ScoreCache(model, tokenizer)
        config = EvaluationConfig.model_validate({**SETTINGS, "precision": precision})
        languages = {"languages": ("en", "zh"), "pivot": "en", "split": "validation"}
        evaluation = evaluate_tasks(model, tokenizer, config, host=ScoringHost(cache=cache), **languages)
        is_first = precision not in found
        assert (cache.num_made > 0, cache.num_found > 0) == (is_first, not is_first)
        assert found.setdefault(precision, evaluation) == evaluation
    choices = [[one.log_likelihoods for one in found[name].predictions if one.log_likelihoods] for name in found]
    assert choices[0] != choices[1]


def test_a_cache_that_outlives_one_precision_never_mixes_them(
    tokenizer: Any, make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path))
    model = make_model("llama")
    cache = ScoreCache(model, tokenizer)
    for precision in ("fp32", "bf16"):
        config = EvaluationConfig.model_validate({**SETTINGS, "precision": precision})
        languages = {"languages": ("en", "zh"), "pivot": "en", "split": "validation"}
        evaluate_tasks(model, tokenizer, config, host=ScoringHost(cache=cache), **languages)
    assert cache.num_found == 0


def test_a_trial_scored_in_bf16_measures_and_saves_in_float32(tmp_path: Path) -> None:
    def trial(precision: str) -> Any:
        fields = {
            "method": "afp",
            "data.languages": ["zh"],
            "data.num_pairs": 60,
            "data.num_instructions": 20,
            "training.max_steps": 2,
            "training.batch_size": 4,
            "evaluation.tasks": ["xcopa"],
            "evaluation.limit": 12,
            "evaluation.precision": precision,
            "evaluation.representation.num_pairs": 20,
        }
        config = TrialConfig.model_validate(nest({**fields, **pins("afp")}))
        return run_on_cpu(config, tmp_path / precision, "validation", "test")

    exact, rounded = trial("fp32"), trial("bf16")
    assert rounded.config["evaluation"]["precision"] == "bf16"
    assert rounded.layers == exact.layers
    values = [[score.value for score in result.scores if score.task == "xcopa"] for result in (exact, rounded)]
    assert len(values[0]) == len(values[1]) == 4
    weights = [(tmp_path / name / "checkpoint" / "model.safetensors").read_bytes() for name in ("fp32", "bf16")]
    assert weights[0] == weights[1]
