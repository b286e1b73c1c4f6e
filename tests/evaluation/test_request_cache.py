"""Prompts are tokenised once in a process, whichever model they are asked of, and never taken for those of another."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import processors

from afp_ray.evaluation import scoring
from afp_ray.evaluation.request_cache import KeptRequests
from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.evaluation.trie import Request

QUESTIONS = [[("Mina is a doctor, right?", " Yes."), ("Mina is a doctor, right?", " No, he ran.")]]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every time that questions were tokenised, in a process that keeps nothing yet."""
    calls: list[int] = []
    encode = ContinuationScorer.encode

    def counted(self: ContinuationScorer, questions: Any) -> list[Request]:
        calls.append(len(questions))
        return encode(self, questions)

    monkeypatch.setattr(ContinuationScorer, "encode", counted)
    monkeypatch.setattr(scoring, "KEPT", KeptRequests())
    return calls


def requests_of(*sizes: int) -> Sequence[Request]:
    return [Request(tuple(range(size)), 1) for size in sizes]


def test_another_model_is_asked_without_tokenising_again(
    encoded: list[int], tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    first, second = (ContinuationScorer(make_model(family), tokenizer) for family in ("llama", "gpt2"))
    assert first.requests(QUESTIONS) == second.requests([list(question) for question in QUESTIONS])
    assert encoded == [1]
    second.requests([*QUESTIONS, *QUESTIONS])
    assert encoded == [1, 2]


def test_a_tokenizer_that_cuts_otherwise_is_another(encoded: list[int], tokenizer: Any, llama: Any) -> None:
    import copy

    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    plain, begun = (ContinuationScorer(llama, one).requests(QUESTIONS) for one in (tokenizer, other))
    assert encoded == [1, 1]
    assert [request.ids for request in begun] == [(tokenizer.bos_token_id, *request.ids) for request in plain]


def test_a_model_with_few_positions_still_has_its_prompts_cut(
    encoded: list[int], tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    long = [[("a " * 400, " Yes."), ("a " * 400, " No.")]]
    wide, narrow = (ContinuationScorer(make_model("gpt2", positions=size), tokenizer) for size in (1024, 64))
    assert max(len(request.ids) for request in wide.requests(long)) > 100
    assert max(len(request.ids) for request in narrow.requests(long)) == 65
    assert (encoded, wide.num_truncated, narrow.num_truncated) == ([1], 0, 2)


def test_what_was_used_longest_ago_goes_first_and_what_is_too_large_is_not_kept() -> None:
    made: list[str] = []

    def get(key: str, *sizes: int) -> Sequence[Request]:
        def make() -> Sequence[Request]:
            made.append(key)
            return requests_of(*sizes)

        return kept.get(key, make)

    kept = KeptRequests(max_tokens=10)
    assert get("a", 4) == tuple(requests_of(4))
    get("b", 3, 2)
    get("a", 4)
    get("c", 2)
    assert made == ["a", "b", "c"]
    get("a", 4)
    get("b", 3, 2)
    assert made == ["a", "b", "c", "b"], "b made room for c"
    get("huge", 11)
    get("huge", 11)
    assert made[4:] == ["huge", "huge"]
    get("a", 4)
    assert made[6:] == [], "what is not kept drives nothing out"
