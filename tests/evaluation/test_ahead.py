"""What a device is asked for ahead of time: the order, the errors and the scores of asking for one after another."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, build_model, build_tokenizer

from afp_ray.config import EvaluationConfig
from afp_ray.errors import TaskError
from afp_ray.evaluation import likelihood, scoring
from afp_ray.evaluation.ahead import made_ahead
from afp_ray.evaluation.incomplete import IncompleteError
from afp_ray.evaluation.likelihood import log_likelihoods
from afp_ray.evaluation.request_cache import KeptRequests
from afp_ray.evaluation.run import Evaluation, evaluate_tasks
from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.models import tree_rows
from afp_ray.models.branching import branch_states, extend_trunk
from afp_ray.models.head import vocabulary_head
from afp_ray.models.tree_rows import Tree, lay_out

CPU = torch.device("cpu")
WORDS = [f"w{number}" for number in range(58)]
BEGINNING = " ".join(WORDS[:40])
"""Long enough for a trunk: what the questions share."""
QUESTIONS = [
    [
        (
            f"{BEGINNING if at < 140 else ''} {WORDS[at % 58]} {WORDS[at % 57]} w3",
            " " + " ".join(WORDS[at % 50 + i :][:3]),
        )
        for i in range(3)
    ]
    for at in range(160)
]


@pytest.mark.parametrize("in_background", [False, True])
def test_items_keep_their_order_and_an_error_its_place(in_background: bool) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise ValueError("the fourth")

    seen: list[int] = []
    with pytest.raises(ValueError, match="the fourth"), made_ahead(items(), in_background=in_background) as ahead:
        seen.extend(ahead)
    assert seen == [0, 1, 2]
    with made_ahead(iter("ab"), in_background=in_background) as ahead:
        assert list(ahead) == ["a", "b"]
        assert list(ahead) == []


def test_the_next_item_alone_is_made_while_one_is_used() -> None:
    made: list[int] = []
    threads: set[int] = set()

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            threads.add(threading.get_ident())
            yield number

    with made_ahead(items(), in_background=True) as ahead:
        assert next(ahead) == 0
        deadline = time.monotonic() + 10
        while len(made) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)
        assert made == [0, 1], "one is made ahead, and no more"
    assert threading.get_ident() not in threads
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate()), "the thread has ended"
    assert len(made) <= 3


@pytest.mark.parametrize("family", ["bloom", "gemma2", "gpt_neo", "llama", "xglm"])
def test_scores_of_a_device_asked_ahead_are_those_of_one_asked_in_order(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same arithmetic, so the same bits: what differs is who prepares it, and when it is read."""
    model, tokenizer = build_model(family), build_tokenizer()
    in_order = ContinuationScorer(model, tokenizer, max_batch_tokens=150).score(QUESTIONS)
    monkeypatch.setattr(scoring, "_IN_ORDER", frozenset())
    calls: list[int] = []
    whole = scoring.fetch

    def fetch(*arguments: Any) -> Any:
        calls.append(1)
        return whole(*arguments)

    monkeypatch.setattr(scoring, "fetch", fetch)
    assert ContinuationScorer(model, tokenizer, max_batch_tokens=150).score(QUESTIONS) == in_order
    assert len(calls) > scoring._NUM_LATE + 1, "more batches than are left on their way"


def test_a_device_asked_ahead_that_is_short_of_memory_scores_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    expected = ContinuationScorer(model, tokenizer).score(QUESTIONS)
    monkeypatch.setattr(scoring, "_IN_ORDER", frozenset())

    def short(model: Any, row: Any, trunk: Any) -> Any:
        if row.num_tokens > 100:
            raise torch.OutOfMemoryError("too much")
        return branch_states(model, row, trunk)

    monkeypatch.setattr(scoring, "branch_states", short)
    for values, others in zip(ContinuationScorer(model, tokenizer).score(QUESTIONS), expected, strict=True):
        assert values == pytest.approx(others, abs=2e-4)


# Rows that are padded, so that their shapes recur.
@pytest.mark.parametrize("granularity", [2, 7, 64])
@pytest.mark.parametrize("form", ["one by one", "side by side"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_padding_a_row_changes_no_score(
    family: str, form: str, granularity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_rows, "ONE_BY_ONE", {"cpu"} if form == "one by one" else set())
    model, tokenizer = build_model(family), build_tokenizer()
    scorer = ContinuationScorer(model, tokenizer, max_batch_tokens=400)
    expected = scorer.score(QUESTIONS[::8])
    scorer.granularity = granularity
    for values, others in zip(scorer.score(QUESTIONS[::8]), expected, strict=True):
        assert values == pytest.approx(others, abs=1e-4)


@pytest.mark.parametrize("form", ["one by one", "side by side"])
@torch.no_grad()
def test_a_padded_row_has_a_multiple_of_its_granularity_and_the_states_of_its_trees(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_rows, "ONE_BY_ONE", {"cpu"} if form == "one by one" else set())
    model = build_model("gpt2")  # learned positions: padding beyond the last of them would be refused
    trunk = extend_trunk(model, range(4, 57), None)
    trees = [Tree(tuple(range(4, 4 + size)), tuple(range(size)), (size,) * size) for size in (11, 5, 1)]
    row = lay_out(trees, CPU, granularity=64)
    assert (row.num_tokens, row.ids.shape, sum(row.sizes)) == (17, (1, 64), 64)
    assert int(row.depths.max()) == 10, "53 + 10 is the last position that the model has"
    if row.grid is not None:
        assert row.grid.depths.shape[1] == 16
    states = branch_states(model, row, trunk)
    assert len(states) == 17
    torch.testing.assert_close(states, branch_states(model, trees, trunk), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_pairs_of_other_blocks_are_forgotten_where_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of the projection that a GPU takes, against that of a CPU; blocks cut the vocabulary unevenly."""
    model = build_model("llama")
    head = vocabulary_head(model)
    states = torch.randn(9, 32, generator=torch.Generator().manual_seed(0))
    owners, targets = torch.arange(9).repeat_interleave(64), torch.arange(64).repeat(9)
    expected = log_likelihoods(head, states, owners, targets)
    monkeypatch.setattr(likelihood, "_IN_ORDER", frozenset())
    monkeypatch.setattr(likelihood, "_MAX_LOGITS_ELSEWHERE", 4 * 11)
    monkeypatch.setattr(likelihood, "_MIN_BLOCK_ELSEWHERE", 11)
    torch.testing.assert_close(log_likelihoods(head, states, owners, targets), expected, rtol=1e-6, atol=1e-6)


# Cells of an evaluation, rendered and tokenised while the one before is scored.
SETTINGS = EvaluationConfig(tasks=("xnli", "xcopa", "xwinograd"), shots=(0, 2), demo_seeds=(0, 1), limit=6)


def evaluate(model: Any, tokenizer: Any, settings: EvaluationConfig = SETTINGS) -> Evaluation:
    return evaluate_tasks(model, tokenizer, settings, languages=("en", "zh"), pivot="en", split="validation")


@pytest.mark.parametrize("scoring_rule", ["sum", "pmi"])
def test_cells_made_ahead_give_the_same_evaluation(
    scoring_rule: Any, tokenizer: Any, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"scoring": scoring_rule})
    expected = evaluate(llama, tokenizer, settings)
    monkeypatch.setattr(scoring, "_IN_ORDER", frozenset())
    monkeypatch.setattr(scoring, "KEPT", KeptRequests())
    threads: list[bool] = []
    encode = ContinuationScorer.encode

    def told(scorer: ContinuationScorer, questions: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return encode(scorer, questions)

    monkeypatch.setattr(ContinuationScorer, "encode", told)
    assert evaluate(llama, tokenizer, settings) == expected
    num_lists = 2 if scoring_rule == "pmi" else 1
    assert len(threads) == 18 * num_lists, "each cell is tokenised once"
    # Of the first unit: its first cell, after which a scorer is there, and the second, which nobody began before.
    assert threads.count(True) == 2 * num_lists


def test_an_error_in_a_cell_made_ahead_is_told_of_its_own_cell(
    tokenizer: Any, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ContinuationScorer.encode

    def encode(scorer: ContinuationScorer, questions: Any) -> Any:
        if any("\u4e9a" in context for question in questions for context, _ in question):
            raise TaskError("no such token", where="row 7")
        return whole(scorer, questions)

    monkeypatch.setattr(ContinuationScorer, "encode", encode)
    reports = []
    for in_order in (frozenset({"cpu"}), frozenset()):
        monkeypatch.setattr(scoring, "_IN_ORDER", in_order)
        monkeypatch.setattr(scoring, "KEPT", KeptRequests())
        with pytest.raises(IncompleteError) as caught:
            evaluate(llama, tokenizer)
        reports.append(caught.value.report)
    assert reports[0] == reports[1]
    assert reports[0].missing
    assert "row 7" in reports[0].missing[0].problem
