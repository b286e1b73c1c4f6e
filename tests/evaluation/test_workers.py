"""Two processes that share the examples of an evaluation end with what one gives, and neither waits for the other."""

from itertools import pairwise
from typing import Any

import pytest
from evaluation_worker_cases import PROMPTS, QUESTIONS, in_group, score, write
from gloo_workers import run_workers

from afp_ray.evaluation.sharing import like_parts
from afp_ray.evaluation.trie import Request, common_prefix
from afp_ray.evaluation.workers import Workers


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two workers finds, with sound weights and where the second one fails."""
    return run_workers(in_group, tmp_path_factory.mktemp("workers"))


@pytest.mark.parametrize("name", ["choices", "and again"])
def test_two_workers_score_what_one_scores_and_each_runs_about_half(results: list[dict[str, Any]], name: str) -> None:
    """Again after errors too, from which every worker has come out at the same exchange."""
    alone = score(Workers())
    first, second = (worker[name] for worker in results)
    assert first["values"] == second["values"], "bit for bit, wherever a part was scored"
    assert len(alone["values"]) == len(QUESTIONS)
    for values, others in zip(first["values"], alone["values"], strict=True):
        assert values == pytest.approx(others, abs=1e-4)
    for part in (first, second):
        assert part["num_truncated"] == alone["num_truncated"] == 2
        assert 0.3 * alone["num_tokens"] < part["num_tokens"] < 0.7 * alone["num_tokens"]


def test_two_workers_write_what_one_writes_and_each_runs_about_half(results: list[dict[str, Any]]) -> None:
    alone = write(Workers())
    first, second = (worker["texts"] for worker in results)
    assert first["texts"] == second["texts"] == alone["texts"]
    assert len(set(alone["texts"])) > 5
    assert first["counts"] == second["counts"] == alone["counts"]
    assert alone["counts"][0] == 1
    assert first["own"] + second["own"] == alone["own"] == len(set(PROMPTS))
    assert abs(first["own"] - second["own"]) <= 1


@pytest.mark.parametrize(
    "case, kind, text",
    [
        ("broken choices", "ModelError", "the log-likelihoods are not finite"),
        ("broken texts", "ModelError", "the logits are not finite"),
        ("between", "KeyError", "'no such row'"),
        ("at the end", "MemoryError", "no room"),
    ],
)
def test_a_worker_that_fails_anywhere_stops_the_others_with_its_reason(
    results: list[dict[str, Any]], case: str, kind: str, text: str
) -> None:
    first, second = (worker[case] for worker in results)
    assert second[0] == kind
    assert text in second[1]
    assert first == ("ElsewhereFailedError", f"worker 1 failed: {kind}: {text}")


def test_workers_come_out_of_a_failed_attempt_together_and_go_on(results: list[dict[str, Any]]) -> None:
    first, second = (worker["attempts"] for worker in results)
    elsewhere = "ElsewhereFailedError: worker {} failed: KeyError: '{}'"
    assert first == [
        (["whole"] * 2, ""),
        (None, elsewhere.format(1, "second first")),
        (None, elsewhere.format(1, "second last")),
        (None, "KeyError: 'both first'"),
        (None, "KeyError: 'first last'"),
        (["again"] * 2, ""),
    ]
    assert second == [
        (["whole"] * 2, ""),
        (None, "KeyError: 'second first'"),
        (None, "KeyError: 'second last'"),
        (None, "KeyError: 'both first'"),
        (None, elsewhere.format(0, "first last")),
        (["again"] * 2, ""),
    ]


def test_no_worker_goes_on_when_another_has_left(results: list[dict[str, Any]]) -> None:
    first, second = (worker["last attempt"] for worker in results)
    assert first == ("KeyError", "'a row'")
    assert second == ("MemoryError", "no room")


def test_workers_that_are_asked_different_questions_all_refuse(results: list[dict[str, Any]]) -> None:
    for worker in results:
        kind, text = worker["other questions"]
        assert kind == "DataError"
        assert "the 2 workers of a trial differ in the questions" in text
        assert "fix: " in text


def test_one_worker_alone_exchanges_with_itself_and_leaves_errors_as_they_are() -> None:
    workers = Workers()
    assert workers.exchange("part") == ["part"]
    assert workers.of_first(lambda: 3) == 3
    assert workers.divide(["a", "b"], [0, 0], lambda own: [text * 2 for text in own]) == ["aa", "bb"]
    with pytest.raises(KeyError), workers.together():
        raise KeyError


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_parts_are_stretches_with_like_numbers_of_tokens(number: int) -> None:
    requests = [
        Request((*range(40), question, choice, *range(question % 5)), 41) for question in range(60) for choice in (1, 2)
    ]
    requests.sort(key=lambda request: request.ids)
    owners = like_parts(requests, number)
    assert owners == sorted(owners)
    assert set(owners) == set(range(number))

    def new_tokens(part: int) -> int:
        own = [request for request, owner in zip(requests, owners, strict=True) if owner == part]
        shared = (common_prefix(a.ids, b.ids) for a, b in pairwise(own))
        return len(own[0].ids) + sum(len(b.ids) - same for b, same in zip(own[1:], shared, strict=True)) - 40

    sizes = [new_tokens(part) for part in range(number)]
    assert max(sizes) - min(sizes) <= 50, "the trunk is counted with the part that has it first"


def test_more_workers_than_requests_leave_some_without_work() -> None:
    owners = like_parts([Request((1, 2), 1), Request((3, 4), 1)], 4)
    assert len(set(owners)) == 2
    assert set(owners) <= set(range(4))
    assert like_parts([], 2) == []
