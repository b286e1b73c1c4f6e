"""One training step: ours against the published computation, on the same tokens and weights.

Usage: PYTHONPATH=. python benchmarks/step.py [--tiny] [--rounds N]
"""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any

import torch

from afp_ray.config.loss import LossConfig
from afp_ray.config.training import TrainingConfig
from afp_ray.training.loop import make_optimizer
from afp_ray.training.step import TrainingStep
from benchmarks import authors, memory, workload
from benchmarks.figures import Figure, interleave, show

LOSS = LossConfig()
CPU = torch.device("cpu")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 7 when a floor is missed or the results differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a toy size, to test the benchmark itself")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    shape, length = (workload.TINY, 32) if options.tiny else (workload.SMALL, 512)
    ours, theirs = workload.build_model(shape), authors.untie(workload.build_model(shape))
    batch = workload.build_batch(shape, num_pairs=4, num_blocks=4, length=length)
    equal = _is_equal(ours, theirs, batch)
    step = TrainingStep(ours, LOSS, device=CPU)

    def our_backward() -> float:
        ours.zero_grad(set_to_none=True)
        return float(step.backward(batch).instruction or 0.0)

    def their_backward() -> float:
        theirs.zero_grad(set_to_none=True)
        return float(authors.backward(theirs, batch, LOSS)[1])

    figures = [_timed("step.forward_backward_s", our_backward, their_backward, options.rounds, equal)]
    our_optimizer = make_optimizer(ours, TrainingConfig(), CPU)
    their_optimizer = authors.make_optimizer(theirs, 1e-5)
    figures.append(
        _timed(
            "step.with_optimizer_s",
            lambda: our_optimizer.step(our_backward),
            lambda: their_optimizer.step(their_backward),
            options.rounds,
            equal,
        )
    )
    peaks = [memory.peak_above(functools.partial(_prepare, is_ours, options.tiny)) for is_ours in (True, False)]
    ratio = peaks[1] / peaks[0] if peaks[0] and peaks[1] else None
    figures.append(Figure("step.peak_memory_above_weights_bytes", peaks[0], peaks[1], ratio, equal=equal))
    return show(figures)


def _timed(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int, equal: bool) -> Figure:
    our_s, their_s, ratio = interleave(ours, theirs, rounds=rounds)
    return Figure(name, our_s, their_s, ratio, equal=equal)


def _is_equal(ours: Any, theirs: Any, batch: Any) -> bool:
    """Loss within 1e-5 and gradient within 1e-6, relative; the peer's two copies of the embedding count together."""
    found = TrainingStep(ours, LOSS, device=CPU).backward(batch)
    contrastive, instruction = authors.backward(theirs, batch, LOSS)
    gradients = {name: value.grad for name, value in theirs.named_parameters() if value.grad is not None}
    gradients["model.embed_tokens.weight"] += gradients.pop("lm_head.weight")
    difference = total = 0.0
    for name, value in ours.named_parameters():
        difference += float((value.grad - gradients[name]).double().square().sum())
        total += float(gradients[name].double().square().sum())
    is_loss_equal = True
    for own, other in ((found.contrastive, contrastive), (found.instruction, instruction)):
        is_loss_equal = is_loss_equal and own is not None and abs(float(own - other)) <= 1e-5 * abs(float(other))
    return is_loss_equal and (difference / total) ** 0.5 <= 1e-6


def _prepare(is_ours: bool, is_tiny: bool) -> Callable[[], object]:
    """The work of one variant for the measurement of its memory."""
    torch.set_num_threads(1)
    shape, length = (workload.TINY, 32) if is_tiny else (workload.SMALL, 512)
    model = workload.build_model(shape)
    batch = workload.build_batch(shape, num_pairs=4, num_blocks=4, length=length)
    if not is_ours:
        model = authors.untie(model)
        return lambda: authors.backward(model, batch, LOSS)
    step = TrainingStep(model, LOSS, device=CPU)
    return lambda: step.backward(batch)


if __name__ == "__main__":
    sys.exit(main())
