"""A trial that is paused at rungs and promoted ends as one that was trained in one go."""

import json
from pathlib import Path

import pytest
from trial_cases import CONFIG, num_trainings, run, weights

from afp_ray.errors import SupersededError
from afp_ray.records import TrialResult, Until
from afp_ray.store import TrialPaths


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialResult, bytes]:
    """The result and the weights of a trial that no rung stopped."""
    folder = tmp_path_factory.mktemp("straight")
    result = run(folder)
    return result, (TrialPaths(folder).checkpoint / "model.safetensors").read_bytes()


def steps(amount: int, rung: int = 0) -> Until:
    return Until(rung=rung, unit="steps", amount=amount)


def test_promoted_twice_it_equals_a_training_in_one_go(straight: tuple[TrialResult, bytes], tmp_path: Path) -> None:
    first = run(tmp_path, until=steps(2))
    assert (first.status, first.until, first.training.steps) == ("PAUSED", steps(2), 2)
    assert first.splits == ("validation",)
    assert not TrialPaths(tmp_path).result.exists()
    assert not TrialPaths(tmp_path).checkpoint.exists()
    second = run(tmp_path, until=steps(5, rung=1))
    assert (second.training.steps, second.training.resumed_from_step) == (5, 2)
    assert second.scores != first.scores
    last = run(tmp_path)
    assert (last.status, last.until, last.training.resumed_from_step) == ("DONE", None, 5)
    assert last.scores == straight[0].scores
    assert weights(tmp_path) == straight[1]
    assert last.training.tokens == straight[0].training.tokens
    assert last.training.contrastive_loss == straight[0].training.contrastive_loss
    assert not TrialPaths(tmp_path).states.exists()
    curve = [json.loads(line)["step"] for line in TrialPaths(tmp_path).curve.read_text().splitlines()]
    assert curve == [1, 2, 3, 4, 5, 6], "no step was trained twice"
    assert first.seconds < second.seconds < last.seconds, "what earlier rungs cost is in it"
    assert first.training.gpu_hours < second.training.gpu_hours < last.training.gpu_hours
    assert last.training.gpu_hours == pytest.approx(last.seconds / 3600, rel=0.02)
    costs = [one.hours(workers=1) for one in (first, second, last)]
    trained = [one.training.seconds / 3600 for one in (first, second, last)]
    assert [hours.training for hours in costs] == pytest.approx(trained)
    assert costs[0].evaluation < costs[1].evaluation < costs[2].evaluation


def test_a_rung_that_was_scored_is_not_done_again(tmp_path: Path) -> None:
    first = run(tmp_path, until=steps(2))
    assert run(tmp_path, until=steps(2)) == first
    assert num_trainings(tmp_path) == 1


def test_rows_and_tokens_count_as_steps_do(tmp_path: Path) -> None:
    by_steps = run(tmp_path / "steps", until=steps(3))
    assert CONFIG.rows_per_step == 8, "four instructions and four pairs"
    by_rows = run(tmp_path / "rows", until=Until(rung=0, unit="rows", amount=17))
    amount = by_steps.training.tokens
    by_tokens = run(tmp_path / "tokens", until=Until(rung=0, unit="tokens", amount=amount))
    one_more = run(tmp_path / "more", until=Until(rung=0, unit="tokens", amount=amount + 1))
    assert by_steps.scores == by_rows.scores == by_tokens.scores
    assert [result.training.steps for result in (by_rows, by_tokens, one_more)] == [3, 3, 4]


def test_a_rung_beyond_the_training_is_its_end(straight: tuple[TrialResult, bytes], tmp_path: Path) -> None:
    result = run(tmp_path, until=steps(6))
    assert (result.status, result.until) == ("DONE", None)
    assert result.scores == straight[0].scores
    assert TrialPaths(tmp_path).result.exists()


def test_a_superseded_attempt_writes_no_result(tmp_path: Path) -> None:
    calls: list[str] = []

    def fence() -> None:
        calls.append("asked")
        if len(calls) == 2:
            raise SupersededError("given up")

    with pytest.raises(SupersededError):
        run(tmp_path, fence=fence)
    assert TrialPaths(tmp_path).checkpoint.is_dir(), "the first call comes before the checkpoint"
    assert not TrialPaths(tmp_path).result.exists()
