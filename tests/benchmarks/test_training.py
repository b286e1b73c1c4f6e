"""The benchmarks of training run at a toy size, compare equal results and print what they promise."""

import importlib
import json

import pytest
import torch

from benchmarks import equality, memory, padded, workload
from benchmarks.figures import FLOOR_MISSED, Figure, interleave, show


def figures(output: str) -> dict[str, dict[str, object]]:
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {row["name"]: row for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, expected",
    [
        (
            "step",
            {
                "step.forward_backward_s",
                "step.against_padded_rows_s",
                "step.bf16_s",
                "step.with_optimizer_s",
                "step.peak_memory_above_weights_bytes_32k",
            },
        ),
        (
            "contrastive",
            {
                "contrastive.8_pairs_s",
                "contrastive.8_pairs_in_chunks_s",
                "contrastive.whole_over_in_chunks_s",
                "contrastive.8_pairs_peak_memory_bytes",
                "contrastive.8_pairs_in_chunks_peak_memory_bytes",
                "contrastive.in_chunks_peak_memory_bytes_32_against_2_pairs",
                "contrastive.gradient_error_of_2_workers",
            },
        ),
    ],
)
def test_a_benchmark_runs_at_a_toy_size(name: str, expected: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = importlib.import_module(f"benchmarks.{name}").main(["--tiny", "--rounds", "1"])
    assert code in (0, FLOOR_MISSED)
    found = figures(capsys.readouterr().out)
    assert set(found) == expected
    assert all(row.keys() == {"name", "ours", "peer", "ratio", "floor", "equal"} for row in found.values())
    assert {row["equal"] for row in found.values()} <= {True, None}
    assert sum(row["equal"] is None for row in found.values()) <= 1, "the growth with the batch has no peer"


@pytest.mark.parametrize(
    "figure, code",
    [
        (Figure("a", 1.0, 2.0, 2.0, floor=1.5, equal=True), 0),
        (Figure("a", 1.0, 2.0, 2.0, floor=2.5, equal=True), FLOOR_MISSED),
        (Figure("a", 1.0, 2.0, 2.0, equal=False), FLOOR_MISSED),
        (Figure("a", None, None, None, floor=1.0), FLOOR_MISSED),
        (Figure("a", None, None, None), 0),
    ],
)
def test_a_missed_floor_or_a_wrong_result_gives_exit_code_7(
    figure: Figure, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show([figure]) == code
    assert json.loads(capsys.readouterr().out.splitlines()[0])["name"] == "a"


def test_rounds_are_interleaved_and_the_first_does_not_count() -> None:
    calls: list[str] = []
    ticks = iter([0, 9, 9, 10, 10, 12, 12, 18, 18, 20, 20, 24])  # ours 9 | 2 | 2, peer 1 | 6 | 4
    found = interleave(lambda: calls.append("ours"), lambda: calls.append("peer"), rounds=2, clock=lambda: next(ticks))
    assert calls == ["ours", "peer"] * 3
    assert found == (2, 5, 2.5)


class Tiny(torch.nn.Module):
    """An embedding and a head, tied or not, with gradients."""

    def __init__(self, *, is_tied: bool) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(3, 2)
        self.lm_head = torch.nn.Linear(2, 3, bias=False)
        if is_tied:
            self.lm_head.weight = self.embed.weight
        for parameter in self.parameters():
            parameter.grad = torch.full_like(parameter, 2.0 if is_tied else 1.0)

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.embed


def test_the_two_copies_of_a_head_count_together() -> None:
    assert equality.gradient_error(Tiny(is_tied=True), Tiny(is_tied=False)) == 0
    assert equality.marks(Tiny(is_tied=True), []) == equality.marks(Tiny(is_tied=False), [])


@pytest.mark.parametrize("factor, is_equal", [(1.0, True), (1 + 1e-7, True), (1 + 1e-5, False)])
def test_gradients_that_differ_are_found(factor: float, is_equal: bool) -> None:
    own, other = Tiny(is_tied=True), Tiny(is_tied=True)
    own.embed.weight.grad = torch.full_like(own.embed.weight, 2.0, dtype=torch.float32) * factor
    loss = [torch.tensor(1.0)]
    assert equality.are_equal(own, other, losses=(loss, loss)) is is_equal
    marks = [equality.marks(model, loss) for model in (own, other)]
    assert equality.are_marks_equal(*marks, num_losses=1) is is_equal


def test_a_missing_or_different_loss_is_found() -> None:
    model, one = Tiny(is_tied=True), torch.tensor(1.0)
    assert not equality.are_equal(model, model, losses=([None], [one]))
    assert not equality.are_equal(model, model, losses=([one + 1e-4], [one]))
    assert not equality.are_marks_equal([1.0], [1.0, 2.0], num_losses=1)


def _allocate() -> memory.Work:
    kept: list[torch.Tensor] = []
    return memory.Work(lambda: kept.append(torch.ones(2**24)), lambda: [float(kept[0][0])])


def test_memory_that_is_held_at_the_peak_is_counted() -> None:
    found = memory.peak_above(_allocate)
    assert found.marks in ([1.0], [])
    if found.peak is not None:
        assert found.peak == pytest.approx(2**26, rel=0.05)


def test_padded_rows_are_as_wasteful_as_instructions_are() -> None:
    wastes = [
        padded.wasted(workload.build_rows(workload.TINY, num_pairs=2, num_rows=8, longest=512, seed=seed))
        for seed in range(20)
    ]
    assert 0.38 <= sum(wastes) / len(wastes) <= 0.6
