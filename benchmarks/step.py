"""One training step against the published computation and against padded rows, on the same tokens and weights.

A block of 512 tokens is one sample to both: across samples the published computation would attend, and what differs
cannot be compared. Rows hold one sample each. Times are CPU seconds of one thread.

Usage: PYTHONPATH=. python benchmarks/step.py [--tiny] [--rounds N]
"""

import functools
import sys
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from afp_ray.config.loss import LossConfig
from afp_ray.config.training import TrainingConfig
from afp_ray.data.batches import TrainBatch
from afp_ray.models.hidden_states import CausalModel
from afp_ray.training.optimizer import clip_gradients, make_optimizer
from afp_ray.training.step import TrainingStep
from benchmarks import authors, equality, memory, padded, workload
from benchmarks.figures import Figure, Scale, interleave, run

LOSS = LossConfig(layer=1)
CPU = torch.device("cpu")
MAX_NORM = 1.0
BF16_LIMIT = 2e-2
"""Relative difference of a loss in bf16 from the same in float32."""
Backward: TypeAlias = Callable[[TrainBatch], tuple[Tensor | None, Tensor | None]]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 7 when a floor is missed or the results differ."""
    return run(measure, __doc__, arguments)


def measure(scale: Scale) -> list[Figure]:
    """All figures of the step."""
    torch.set_num_threads(1)
    shape, length = (workload.TINY, 32) if scale.is_tiny else (workload.SMALL, 512)
    ours, tied = workload.build_model(shape), workload.build_model(shape)
    theirs = authors.untie(workload.build_model(shape))
    blocks = workload.build_batch(shape, num_pairs=4, num_blocks=4, length=length)
    rows = workload.build_rows(shape, num_pairs=8, num_rows=8, longest=length)
    own, other, other_padded = _ours(ours), _theirs(theirs), functools.partial(padded.backward, tied, loss=LOSS)
    is_equal = _are_equal((ours, own), (theirs, other), blocks)
    is_padded_equal = _are_equal((ours, own), (tied, other_padded), rows)
    in_bf16, their_bf16 = _ours(ours, is_bf16=True), _theirs(theirs, is_bf16=True)
    is_bf16_near = is_equal and _are_near(in_bf16, own, blocks)
    sys.stdout.write(f"padded rows: {padded.wasted(rows):.0%} of their places is padding\n")
    timed: list[tuple[str, float, TrainBatch, bool, Backward, Backward]] = [
        ("forward_backward_s", 1.5, blocks, is_equal, own, other),
        ("against_padded_rows_s", 2.2, rows, is_padded_equal, own, other_padded),
        ("bf16_s", 1.3, blocks, is_bf16_near, in_bf16, their_bf16),
        ("with_optimizer_s", 1.6, blocks, is_equal, _with_our_optimizer(ours, own), _with_theirs(theirs, other)),
    ]
    figures = []
    for name, floor, batch, equal, mine, peer in timed:  # the last one moves the weights of both
        times = interleave(
            functools.partial(_afresh, ours, mine, batch),
            functools.partial(_afresh, tied if peer is other_padded else theirs, peer, batch),
            rounds=scale.rounds,
        )
        figures.append(Figure(f"step.{name}", *times, floor=floor, equal=equal))
    floors = {"32k": 2.3} if scale.is_tiny else {"32k": 2.3, "256k": 3.2}
    return [*figures, *(_memory(vocabulary, floor, scale) for vocabulary, floor in floors.items())]


def _memory(vocabulary: str, floor: float, scale: Scale) -> Figure:
    own, other = (
        memory.peak_above(functools.partial(_prepare, is_ours, vocabulary, scale.is_tiny), is_tiny=scale.is_tiny)
        for is_ours in (True, False)
    )
    return Figure(
        f"step.peak_memory_above_weights_bytes_{vocabulary}",
        own.peak,
        other.peak,
        memory.ratio(own, other),
        floor=floor,
        equal=equality.are_marks_equal(own.marks, other.marks, num_losses=2) if own.peak and other.peak else None,
    )


def _prepare(is_ours: bool, vocabulary: str, is_tiny: bool) -> memory.Work:
    """The work of one computation for the measurement of its memory."""
    torch.set_num_threads(1)
    _work(is_ours, workload.TINY, 32).run()
    if is_tiny:
        return _work(is_ours, workload.TINY, 32)
    return _work(is_ours, workload.SMALL if vocabulary == "32k" else workload.LARGE_VOCABULARY, 512)


def _work(is_ours: bool, shape: dict[str, int], length: int) -> memory.Work:
    model = workload.build_model(shape)
    backward = _ours(model) if is_ours else _theirs(authors.untie(model))
    batch = workload.build_batch(shape, num_pairs=4, num_blocks=4, length=length)
    losses: list[tuple[Tensor | None, Tensor | None]] = []
    return memory.Work(lambda: losses.append(backward(batch)), lambda: equality.marks(model, losses[-1]))


def _ours(model: CausalModel, *, is_bf16: bool = False) -> Backward:
    step = TrainingStep(model, LOSS, device=CPU, is_bf16=is_bf16)

    def backward(batch: TrainBatch) -> tuple[Tensor | None, Tensor | None]:
        losses = step.backward(batch)
        return losses.contrastive, losses.instruction

    return backward


def _theirs(model: CausalModel, *, is_bf16: bool = False) -> Backward:
    return functools.partial(authors.backward, model, loss=LOSS, is_bf16=is_bf16)


def _with_our_optimizer(model: CausalModel, backward: Backward) -> Backward:
    optimizer = make_optimizer(model, TrainingConfig(), CPU)

    def step(batch: TrainBatch) -> tuple[Tensor | None, Tensor | None]:
        losses = backward(batch)
        clip_gradients(model.parameters(), MAX_NORM)
        optimizer.step()
        return losses

    return step


def _with_theirs(model: CausalModel, backward: Backward) -> Backward:
    optimizer = authors.make_optimizer(model, 1e-5)

    def step(batch: TrainBatch) -> tuple[Tensor | None, Tensor | None]:
        losses = backward(batch)
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        return losses

    return step


def _afresh(model: CausalModel, backward: Backward, batch: TrainBatch) -> tuple[Tensor | None, Tensor | None]:
    model.zero_grad(set_to_none=True)
    return backward(batch)


def _are_equal(ours: tuple[CausalModel, Backward], theirs: tuple[CausalModel, Backward], batch: TrainBatch) -> bool:
    own, other = _afresh(*ours, batch), _afresh(*theirs, batch)
    assert other[0] is not None
    assert other[1] is not None
    return equality.are_equal(ours[0], theirs[0], losses=(own, (other[0], other[1])))


def _are_near(in_bf16: Backward, in_float32: Backward, batch: TrainBatch) -> bool:
    losses, expected = in_bf16(batch), in_float32(batch)
    return equality.loss_error(losses, [loss for loss in expected if loss is not None]) <= BF16_LIMIT


if __name__ == "__main__":
    sys.exit(main())
