"""A large contrastive batch at layer 1: the truncated forward against the whole one, time and memory.

Usage: PYTHONPATH=. python benchmarks/contrastive.py [--tiny] [--rounds N]
"""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any

import torch

from afp_ray.config.loss import LossConfig
from afp_ray.data.batches import PairBatch
from afp_ray.training.step import TrainingStep
from benchmarks import authors, memory, workload
from benchmarks.figures import Figure, interleave, show

LOSS = LossConfig(instruction_weight=0.0)
CPU = torch.device("cpu")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 7 when a floor is missed or the results differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a toy size, to test the benchmark itself")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    ours, theirs = _work(True, options.tiny), _work(False, options.tiny)
    first, second = ours(), theirs()
    equal = abs(first[0] - second[0]) <= 1e-5 * second[0] and abs(first[1] - second[1]) <= 1e-5 * second[1]
    our_s, their_s, ratio = interleave(ours, theirs, rounds=options.rounds)
    peaks = [memory.peak_above(functools.partial(_work, is_ours, options.tiny)) for is_ours in (True, False)]
    less = peaks[1] / peaks[0] if peaks[0] and peaks[1] else None
    size = 8 if options.tiny else 128
    return show(
        [
            Figure(f"contrastive.{size}_pairs_s", our_s, their_s, ratio, equal=equal),
            Figure(f"contrastive.{size}_pairs_peak_memory_bytes", peaks[0], peaks[1], less, equal=equal),
        ]
    )


def _work(is_ours: bool, is_tiny: bool) -> Callable[[], tuple[float, float]]:
    """One forward and backward; gives the loss and the norm of the gradient."""
    torch.set_num_threads(1)
    shape = workload.TINY if is_tiny else workload.SMALL
    model = workload.build_model(shape)
    batch = workload.build_batch(shape, num_pairs=8 if is_tiny else 128, num_blocks=1, length=8)
    pairs: PairBatch | None = batch.pairs
    assert pairs is not None
    step = TrainingStep(model, LOSS, device=CPU)

    def work() -> tuple[float, float]:
        model.zero_grad(set_to_none=True)
        loss = step.contrastive_share(pairs) if is_ours else authors.contrastive_loss(model, pairs, LOSS)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), _norm(model)

    return work


def _norm(model: Any) -> float:
    squares = [value.grad.double().square().sum() for value in model.parameters() if value.grad is not None]
    return float(torch.stack(squares).sum().sqrt())


if __name__ == "__main__":
    sys.exit(main())
