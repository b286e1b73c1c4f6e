"""Shared beginnings: every request is laid out once, and shared tokens give what whole texts give in every family."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPTNeoConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from afp_ray.evaluation import sharing
from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.evaluation.sharing import Stretch, packs, plan
from afp_ray.evaluation.trie import Branches, Request
from afp_ray.models import branching, tree_rows

SHOTS = "Adam planted some seeds so he watered the garden. " * 3
QUESTIONS = [
    [(f"{shots}Mina{'!' * number} is a doctor, right?", f" {word}, Mina{'?' * number} ran.") for word in ("Yes", "No")]
    for shots in (SHOTS, SHOTS + "Geçen hafta. ", "Geçen hafta. ", "")
    for number in range(7)
]
COMMON: dict[str, Any] = {"vocab_size": 400, "hidden_size": 32, "num_attention_heads": 4, "initializer_range": 0.3}
DECODER: dict[str, Any] = {**COMMON, "num_hidden_layers": 2, "intermediate_size": 48, "num_key_value_heads": 2}
OTHERS: dict[str, Callable[[], Any]] = {
    "gemma": lambda: GemmaConfig(**DECODER, head_dim=8),
    "gemma2": lambda: Gemma2Config(**DECODER, head_dim=8, sliding_window=16, final_logit_softcapping=3.0),
    "gemma3": lambda: Gemma3TextConfig(**DECODER, head_dim=8, sliding_window=16),
    "qwen2": lambda: Qwen2Config(**DECODER),
    "qwen3": lambda: Qwen3Config(**DECODER, head_dim=8),
    "mistral": lambda: MistralConfig(**DECODER, sliding_window=16),
    "gpt_neo": lambda: GPTNeoConfig(
        vocab_size=400,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=16,
        max_position_embeddings=256,
        initializer_range=0.3,
    ),
}
"""Families that the shared fixtures do not build; windows are shorter than the demonstrations."""
FIXTURES = ("llama", "gpt2", "xglm", "bloom")


@pytest.fixture(params=["one by one", "side by side"])
def attention_form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of the attention, the second of which is that of a GPU."""
    monkeypatch.setattr(tree_rows, "ONE_BY_ONE", {"cpu"} if request.param == "one by one" else set())


def build(family: str, make_model: Any) -> Any:
    if family in FIXTURES:
        return make_model(family)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(OTHERS[family]()).eval()


def count_inputs(model: Any) -> list[int]:
    """Filled with the number of tokens of every call of the model's body."""
    sizes: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].numel()))
    return sizes


def whole_scores(model: Any, tokenizer: Any, questions: Any) -> list[tuple[float, ...]]:
    scorer = ContinuationScorer(model, tokenizer)
    assert scorer.obstacle is None
    scorer.obstacle = "asked for by a test"
    return scorer.score(questions)


@pytest.mark.usefixtures("attention_form")
@pytest.mark.parametrize("family", [*FIXTURES, *OTHERS])
def test_shared_tokens_score_what_whole_requests_score(
    family: str, tokenizer: Any, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_MIN_SAVED", 64)
    model = build(family, make_model)
    expected = whole_scores(model, tokenizer, QUESTIONS)
    scorer = ContinuationScorer(model, tokenizer)
    sizes = count_inputs(model)
    shared = scorer.score(QUESTIONS)
    for values, others in zip(shared, expected, strict=True):
        assert values == pytest.approx(others, abs=1e-4)
    tokens = sum(len(request.ids) for request in scorer.requests(QUESTIONS))
    assert sum(sizes) < 0.5 * tokens, "sharing should save tokens here"


@pytest.mark.usefixtures("attention_form")
@pytest.mark.parametrize("family", ["llama", "bloom", "gemma2", "gpt_neo"])
def test_halves_are_as_near_to_float32_as_whole_requests_in_halves(
    family: str, tokenizer: Any, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two paths round at different places, so each is held against float32: sharing must not add to the error."""
    monkeypatch.setattr(sharing, "_MIN_SAVED", 64)
    exact = torch.tensor(whole_scores(build(family, make_model), tokenizer, QUESTIONS))
    model = build(family, make_model).bfloat16()
    scorer = ContinuationScorer(model, tokenizer)
    shared = torch.tensor(scorer.score(QUESTIONS))
    scorer.obstacle = "asked for by a test"
    whole = torch.tensor(scorer.score(QUESTIONS))
    error, error_of_whole = ((values - exact).abs().mean() for values in (shared, whole))
    assert error <= 1.5 * error_of_whole
    is_clear = (exact[:, 0] - exact[:, 1]).abs() > 4 * error_of_whole
    assert is_clear.float().mean() > 0.5, "most questions should have a clear answer"
    assert torch.equal(shared.argmax(1)[is_clear], exact.argmax(1)[is_clear])


def test_autocast_scores_near_float32(tokenizer: Any, make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_MIN_SAVED", 64)
    model = make_model("llama")
    exact = torch.tensor(ContinuationScorer(model, tokenizer).score(QUESTIONS))
    with torch.autocast("cpu", torch.bfloat16):
        scorer = ContinuationScorer(model, tokenizer)
        assert scorer.obstacle is None
        values = torch.tensor(scorer.score(QUESTIONS))
    assert not torch.equal(values, exact)
    assert (values - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_a_family_that_is_not_known_is_given_whole_requests(tokenizer: Any, make_model: Any) -> None:
    model = make_model("llama")
    expected = ContinuationScorer(model, tokenizer).score(QUESTIONS[:4])
    model.config.model_type = "chunked_llama"
    scorer = ContinuationScorer(model, tokenizer)
    assert scorer.obstacle == "attention over shared tokens is not known for the family chunked_llama"
    for values, others in zip(scorer.score(QUESTIONS[:4]), expected, strict=True):
        assert values == pytest.approx(others, abs=1e-4)


def test_a_model_whose_shared_tokens_give_other_states_is_given_whole_requests(
    tokenizer: Any, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("llama")
    expected = ContinuationScorer(model, tokenizer).score(QUESTIONS[:4])
    monkeypatch.setattr(branching, "attended", lambda query, key, value, **_: (0.5 * query, query[..., 0].float()))
    scorer = ContinuationScorer(model, tokenizer)
    assert scorer.obstacle is not None
    assert "change the states of LlamaForCausalLM" in scorer.obstacle
    for values, others in zip(scorer.score(QUESTIONS[:4]), expected, strict=True):
        assert values == pytest.approx(others, abs=1e-4)


def test_a_continuation_that_choices_share_is_projected_once(tokenizer: Any, make_model: Any) -> None:
    # Whole texts are scored, as some public templates do: the scored beginning is one chain of states.
    questions = [[("", f"Mina is a doctor, right? {word}, he ran.") for word in ("Yes", "No", "Also")]]
    model = make_model("llama")
    rows: list[int] = []
    scorer = ContinuationScorer(model, tokenizer)
    head = scorer.head
    assert head is not None

    class Counting:
        weight = head.weight

        def logits(self, states: torch.Tensor, *span: int, **form: Any) -> torch.Tensor:
            rows.append(len(states))
            return head.logits(states, *span, **form)

    scorer.head = Counting()  # type: ignore[assignment]
    values = scorer.score(questions)
    requests = scorer.requests(questions)
    distinct = {request.ids[:index] for request in requests for index in range(request.start, len(request.ids))}
    assert sum(rows) == len(distinct) < sum(len(request.ids) - request.start for request in requests)
    assert values[0] == pytest.approx(whole_scores(model, tokenizer, questions)[0], abs=1e-4)


def requests_of_many_kinds() -> list[Request]:
    generator = torch.Generator().manual_seed(1)
    requests: set[Request] = set()
    for number in range(90):
        trunk = (*range(100, 140), *(range(200, 240) if number % 3 else range(300, 310))) if number % 2 else ()
        context = tuple(torch.randint(0, 3, (1 + number % 29,), generator=generator).tolist())
        for choice in range(3):
            # Some score nothing but their last tokens, some all that follows the trunk, some nearly all.
            start = max(1, (len(trunk) + len(context), len(trunk) + 1, 5)[number % 3 if number % 7 else 2])
            requests.add(Request((*trunk, *context, choice, 7, number), start))
    return list(requests)


def walk(stretch: Stretch, before: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Branches]]:
    trunk = (*before, *stretch.ids)
    for tree in stretch.trees:
        yield trunk, tree
    for inner in stretch.inner:
        yield from walk(inner, trunk)


@pytest.mark.parametrize("width", [1, 32, 4096])
def test_every_request_is_laid_out_once_and_can_be_read_back(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_MIN_SAVED", 200)
    requests = requests_of_many_kinds()
    laid_out: list[Request] = []
    tokens, trunks = 0, set()
    for trunk, branches in walk(plan(requests, width=width, largest=400)):
        tree = branches.tree
        tokens, trunks = tokens + branches.num_tokens, trunks | {trunk}
        assert len(branches.requests) == 1 or branches.num_tokens <= 400
        for request, rows in zip(branches.requests, branches.rows, strict=True):
            for row, index in zip(rows, range(request.start, len(request.ids)), strict=True):
                above = [i for i, end in enumerate(tree.ends[: row + 1]) if row < end]
                assert [tree.depths[i] for i in above] == list(range(len(above)))
                assert (*trunk, *(tree.ids[i] for i in above)) == request.ids[:index]
        laid_out += branches.requests
    assert sorted(laid_out, key=lambda r: (r.ids, r.start)) == sorted(requests, key=lambda r: (r.ids, r.start))
    assert len(trunks) >= 3, "demonstrations, and two ways in which they go on"
    assert tokens + sum(map(len, trunks)) < (0.8 if width == 1 else 0.6) * sum(len(request.ids) for request in requests)


def test_a_longer_trunk_among_few_is_found_inside_a_short_one_of_no_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_MIN_SAVED", 300)
    few = [Request((*range(100), 0, number, 5), 101) for number in range(5)]
    strangers = [Request((*range(33), 1, 2, 3), 34)]
    (inner,) = plan([*few, *strangers], width=1, largest=64).inner
    assert inner.ids == tuple(range(100))
    assert [tree.requests[0] for tree in inner.trees] == few


def test_wide_models_share_what_narrow_ones_do_not() -> None:
    # One shared token saves little: the texts stand in one tree only where a token costs more than a look at another.
    requests = [Request((1, *range(10 * number, 10 * number + 9)), 5) for number in range(1, 4)]
    assert len(plan(requests, width=8, largest=100).trees) == 3
    assert len(plan(requests, width=4096, largest=100).trees) == 1


def test_rows_keep_to_their_budget_and_hold_trees_of_like_size() -> None:
    trees = plan([Request(tuple(range(100 * n, 100 * n + n)), 1) for n in range(3, 30)], width=1, largest=50).trees
    rows = list(packs(trees, 50))
    sizes = [[tree.num_tokens for tree in pack] for pack in rows]
    assert [size for pack in sizes for size in pack] == list(range(28, 1, -1))
    assert all(sum(pack) <= 50 for pack in sizes)
    assert [len(pack) for pack in packs(trees, 1)] == [1] * 27
    assert list(packs([], 50)) == []
