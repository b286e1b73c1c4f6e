"""Log-likelihoods of continuations: closed forms, agreement with a naive computation, invariances."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from afp_ray.errors import ModelError, TaskError
from afp_ray.evaluation import likelihood, scoring
from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.models.branching import branch_states

QUESTIONS = [
    [("Mina is a doctor, right?", " Yes, Mina works in a hospital."), ("Mina is a doctor, right?", " No, he ran.")],
    [("Adam planted some seeds so", " he watered the garden every day."), ("Adam planted some seeds so", " x")],
    [("亚当种下了一些种子", "，他每天给花园浇水。"), ("亚当种下了一些种子", "，他晒伤了皮肤。")],
    [("because the trophy", " is too large."), ("because the suitcase", " is too large.")],
    [("a " * 30 + "b", " c d e f g"), ("a " * 30 + "b", " c")],
]


def naive(model: Any, tokenizer: Any, context: str, continuation: str) -> float:
    """One text at a time, whole logits, float64 softmax."""
    start = len(tokenizer(context)["input_ids"])
    ids = torch.tensor([tokenizer(context + continuation)["input_ids"]])
    assert ids[0, :start].tolist() == tokenizer(context)["input_ids"], "no merge across the joint in these"
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].double().log_softmax(dim=-1)
    return sum(logits[position - 1, ids[0, position]].item() for position in range(start, ids.shape[1]))


@pytest.mark.parametrize("family", ["llama", "bloom", "xglm", "gpt2"])
def test_scores_equal_the_naive_computation_in_every_family(
    family: str, tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    model = make_model(family)
    scorer = ContinuationScorer(model, tokenizer)
    assert scorer.head is not None, "the vocabulary projection should be separable in this family"
    for question, values in zip(QUESTIONS, scorer.score(QUESTIONS), strict=True):
        for (context, continuation), value in zip(question, values, strict=True):
            assert value == pytest.approx(naive(model, tokenizer, context, continuation), abs=2e-4)


def test_a_model_that_changes_its_logits_after_the_head_is_scored_whole(tokenizer: Any, llama: Any) -> None:
    class Capped(type(llama)):  # type: ignore[misc]
        def forward(self, **kwargs: Any) -> Any:
            output = super().forward(**kwargs)
            output.logits = 3 * torch.tanh(output.logits / 3)
            return output

    model = Capped(llama.config).eval()
    model.load_state_dict(llama.state_dict())
    scorer = ContinuationScorer(model, tokenizer)
    assert scorer.head is None
    (context, continuation), _ = QUESTIONS[0]
    assert scorer.score(QUESTIONS[:1])[0][0] == pytest.approx(naive(model, tokenizer, context, continuation), abs=2e-4)


def test_a_uniform_model_gives_minus_n_log_v(tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = make_model("llama")
    torch.nn.init.zeros_(model.lm_head.weight)
    context, continuation = "Mina is a doctor, right?", " Yes, Mina works in a hospital."
    number = len(tokenizer(context + continuation)["input_ids"]) - len(tokenizer(context)["input_ids"])
    ((value,),) = ContinuationScorer(model, tokenizer).score([[(context, continuation)]])
    assert value == pytest.approx(-number * math.log(400), rel=1e-6)


def test_a_score_does_not_depend_on_its_batch(tokenizer: Any, llama: Any) -> None:
    together = ContinuationScorer(llama, tokenizer).score(QUESTIONS)
    alone = [ContinuationScorer(llama, tokenizer, max_batch_tokens=1).score([question])[0] for question in QUESTIONS]
    reverse = ContinuationScorer(llama, tokenizer, max_batch_tokens=64).score(QUESTIONS[::-1])[::-1]
    for values, others, third in zip(together, alone, reverse, strict=True):
        assert values == pytest.approx(others, abs=2e-4)
        assert values == pytest.approx(third, abs=2e-4)


def test_the_vocabulary_projection_may_be_chunked(tokenizer: Any, llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ContinuationScorer(llama, tokenizer).score(QUESTIONS)
    monkeypatch.setattr(likelihood, "_MAX_LOGITS", 1200)  # 24 states at a time
    monkeypatch.setattr(likelihood, "_MIN_BLOCK", 50)
    for values, others in zip(whole, ContinuationScorer(llama, tokenizer).score(QUESTIONS), strict=True):
        assert values == pytest.approx(others, abs=1e-4)


def test_a_device_short_of_memory_scores_the_same_in_smaller_parts(
    tokenizer: Any, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ContinuationScorer(llama, tokenizer).score(QUESTIONS)
    sizes: list[int] = []

    def short(model: Any, row: Any, trunk: Any) -> Any:
        sizes.append(row.num_tokens)
        if len(row.trees) > 2:
            raise torch.OutOfMemoryError("too much")
        return branch_states(model, row, trunk)

    monkeypatch.setattr(scoring, "branch_states", short)
    scorer = ContinuationScorer(llama, tokenizer)
    for values, others in zip(scorer.score(QUESTIONS), expected, strict=True):
        assert values == pytest.approx(others, abs=2e-4)
    assert max(sizes) == sizes[0]
    assert len(sizes) > 2
    assert scorer.max_batch_tokens < scoring.token_budget(llama)


def test_a_single_tree_beyond_the_memory_is_no_loop(
    tokenizer: Any, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: Any) -> Any:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(scoring, "branch_states", short)
    with pytest.raises(torch.OutOfMemoryError):
        ContinuationScorer(llama, tokenizer).score(QUESTIONS)


@pytest.mark.parametrize("family", ["llama", "bloom", "xglm", "gpt2"])
def test_the_token_budget_shrinks_with_the_width_and_is_the_same_every_time(
    family: str, make_model: Callable[..., Any]
) -> None:
    model = make_model(family)
    assert scoring.token_budget(model) == scoring.token_budget(make_model(family)) == 4096
    for name in ("intermediate_size", "ffn_dim", "n_inner"):
        if hasattr(model.config, name):
            setattr(model.config, name, 2048)
            assert scoring.token_budget(model) == 1024
            assert scoring.token_budget(model.bfloat16()) == 2048


def test_the_answers_of_a_cell_do_not_depend_on_the_padding_side(tokenizer: Any, llama: Any) -> None:
    expected = ContinuationScorer(llama, tokenizer).score(QUESTIONS)
    side = tokenizer.padding_side
    try:
        for tokenizer.padding_side in ("left", "right"):
            assert ContinuationScorer(llama, tokenizer).score(QUESTIONS) == expected
    finally:
        tokenizer.padding_side = side


def test_equal_choices_are_scored_once_and_equally(tokenizer: Any, llama: Any) -> None:
    ((first, second),) = ContinuationScorer(llama, tokenizer).score([[QUESTIONS[0][0], QUESTIONS[0][0]]])
    assert first == second


def test_a_merge_across_the_joint_belongs_to_the_continuation_of_every_choice(tokenizer: Any, llama: Any) -> None:
    # "hospital" is one token, so the tokens of "hosp" are no prefix of those of "hospital"; " ran" merges nothing.
    context = "Mina works in a hosp"
    alone, whole = tokenizer(context)["input_ids"], tokenizer(context + "ital.")["input_ids"]
    assert whole[: len(alone)] != alone
    joint, free = ContinuationScorer(llama, tokenizer).encode([[(context, "ital."), (context, " ran")]])
    assert joint.start < len(alone)
    assert free.start == joint.start, "a choice must not be scored on less of the context than the other"
    assert joint.ids == tuple(whole)


def test_spaces_at_the_end_of_a_context_move_to_the_continuation(tokenizer: Any, llama: Any) -> None:
    scorer = ContinuationScorer(llama, tokenizer)
    assert scorer.encode([[("Adam planted ", "seeds")]]) == scorer.encode([[("Adam planted", " seeds")]])


def test_an_empty_context_is_conditioned_on_the_token_that_begins_texts(tokenizer: Any, llama: Any) -> None:
    (request,) = ContinuationScorer(llama, tokenizer).encode([[("", "Adam planted")]])
    assert request.ids[0] == tokenizer.bos_token_id
    assert request.start == 1
    assert list(request.ids[1:]) == tokenizer("Adam planted")["input_ids"]


def test_long_contexts_lose_tokens_on_the_left_and_are_counted(tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = make_model("llama", positions=32)
    scorer = ContinuationScorer(model, tokenizer)
    context, continuation = "Adam planted some seeds. " * 20 + "Mina is a doctor, right?", " Yes, he ran."
    ids = tokenizer(context + continuation)["input_ids"]
    number = len(ids) - len(tokenizer(context)["input_ids"])
    ((value,), (short,)) = scorer.score([[(context, continuation)], [("Mina is a", " doctor")]])
    assert scorer.num_truncated == 1
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids[-33:-1]])).logits[0].double().log_softmax(dim=-1)
    expected = sum(logits[-number + i, ids[-number + i]].item() for i in range(number))
    assert value == pytest.approx(expected, abs=2e-4)
    assert short == pytest.approx(naive(model, tokenizer, "Mina is a", " doctor"), abs=2e-4)


def test_a_continuation_longer_than_the_model_is_refused(tokenizer: Any, make_model: Callable[..., Any]) -> None:
    scorer = ContinuationScorer(make_model("llama", positions=8), tokenizer)
    with pytest.raises(TaskError, match="does not fit"):
        scorer.score([[("a", " b c d e f g h i j k l m n o p q r s t u v")]])


def test_an_empty_continuation_is_refused(tokenizer: Any, llama: Any) -> None:
    with pytest.raises(TaskError, match="no tokens of its own"):
        ContinuationScorer(llama, tokenizer).score([[("Adam", "")]])


def test_weights_that_are_not_finite_are_refused(tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight[7] = math.nan
    with pytest.raises(ModelError, match="not finite"):
        ContinuationScorer(model, tokenizer).score(QUESTIONS)


def test_the_model_keeps_its_mode(tokenizer: Any, make_model: Callable[..., Any]) -> None:
    model = make_model("gpt2").train()  # GPT-2 has dropout: scores in training mode would be random
    first = ContinuationScorer(model, tokenizer).score(QUESTIONS)
    assert model.training
    assert first == ContinuationScorer(model, tokenizer).score(QUESTIONS)
