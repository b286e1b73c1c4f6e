"""A training step of an XGLM-564M on one GPU: ours against the published computation, in the same run.

Random weights of that shape, 4 pairs and 4 blocks of 512 tokens a step, bf16 autocast over float32 weights, dropout on.
`--blocks` takes another number of both, `--precision bf16_resident` keeps our weights in bf16, the peer's as they are.
Needs torch, transformers, safetensors, numpy, pydantic and PyYAML alone. Without a GPU it says so and exits 0.

Usage: PYTHONPATH=. python benchmarks/gpu.py [--tiny] [--rounds N] [--steps N] [--blocks N] [--precision P]
"""

import argparse
import contextlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from afp_ray.config.loss import LossConfig
from afp_ray.config.training import TrainingConfig
from afp_ray.data.batches import InstructionBatch, TrainBatch
from afp_ray.training.loop import num_tokens
from afp_ray.training.optimizer import Optimizer, clip_gradients, make_optimizer
from afp_ray.training.packed_rows import pack_instructions, pack_pairs
from afp_ray.training.step import TrainingStep
from benchmarks import authors, equality, workload
from benchmarks.figures import Figure, show

LAYER = 1
LOSS = LossConfig(layer=LAYER)
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "A800": 312e12}
"""Dense bf16 rate by datasheet."""


@dataclass
class Variant:
    """One computation: its model, its step, and what was measured of it.

    Attributes:
        backward: adds the gradients of a batch and returns both losses.
        step: a whole optimizer step, losses read on the CPU as a training loop does.
        step_s: seconds per step, one value a round.
        peak_bytes: GPU memory with weights, gradients and optimizer state, without the other variant's.
    """

    model: Any
    backward: Callable[[TrainBatch], tuple[Tensor, Tensor]]
    step: Callable[[TrainBatch], None]
    step_s: list[float]
    peak_bytes: int = 0


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 7 when a floor is missed or the losses differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a toy size on whatever device there is, to test this file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="steps of a round")
    parser.add_argument("--blocks", type=int, default=4, help="blocks of 512 tokens, and pairs, of a step")
    parser.add_argument("--precision", choices=("bf16", "bf16_resident"), default="bf16", help="of our step")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not options.tiny:
        sys.stdout.write("gpu: skipped, torch sees no CUDA device\n")
        return 0
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    shape = workload.TINY if options.tiny else workload.XGLM_564M
    length = 32 if options.tiny else 512
    torch.backends.cuda.matmul.allow_tf32 = True  # as the published runs have it
    batches = [
        workload.build_batch(shape, num_pairs=options.blocks, num_blocks=options.blocks, length=length, seed=seed)
        for seed in range(4)
    ]
    is_equal, error = _compare(shape, device, batches[0])
    ours = _measured_alone(partial(_make_ours, precision=options.precision), shape, device, batches, options.steps)
    theirs = _measured_alone(_make_theirs, shape, device, batches, options.steps)
    for number in range(options.rounds):
        for variant in (ours, theirs) if number % 2 else (theirs, ours):
            variant.step_s.append(_seconds_per_step(variant, batches, device, options.steps))
    _describe(device, shape, batches, ours, error)
    return show(_figures(ours, theirs, batches, device, is_equal))


def _make_ours(shape: dict[str, int], device: torch.device, *, precision: Literal["bf16", "bf16_resident"]) -> Variant:
    model = workload.build_model(shape, dropout=0.1, device=str(device))
    training = TrainingConfig(precision=precision)
    if precision == "bf16_resident":
        model.to(torch.bfloat16)
    step_of = TrainingStep(model, LOSS, device=device, is_bf16=precision == "bf16")
    optimizer = make_optimizer(model, training, device)
    clip = partial(clip_gradients, max_norm=training.max_grad_norm)

    def backward(batch: TrainBatch) -> tuple[Tensor, Tensor]:
        losses = step_of.backward(batch)
        assert losses.contrastive is not None
        assert losses.instruction is not None
        return losses.contrastive, losses.instruction

    return Variant(model, backward, _whole_step(model, optimizer, backward, clip), [])


def _make_theirs(shape: dict[str, int], device: torch.device) -> Variant:
    model = authors.untie(workload.build_model(shape, dropout=0.1, device=str(device)))
    training = TrainingConfig(precision="bf16")
    optimizer = authors.make_optimizer(model, training.learning_rate)

    def backward(batch: TrainBatch) -> tuple[Tensor, Tensor]:
        return authors.backward(model, batch, LOSS, is_bf16=True)

    clip = partial(torch.nn.utils.clip_grad_norm_, max_norm=training.max_grad_norm or math.inf)
    return Variant(model, backward, _whole_step(model, optimizer, backward, clip), [])


def _whole_step(
    model: Any,
    optimizer: Optimizer,
    backward: Callable[[TrainBatch], tuple[Tensor, Tensor]],
    clip: Callable[[Iterator[torch.nn.Parameter]], Tensor],
) -> Callable[[TrainBatch], None]:
    def step(batch: TrainBatch) -> None:
        optimizer.zero_grad(set_to_none=True)
        losses = backward(batch)
        norm = clip(model.parameters())
        optimizer.step()
        torch.stack([*(loss.float() for loss in losses), norm.float()]).tolist()

    return step


def _measured_alone(
    make: Callable[[dict[str, int], torch.device], Variant],
    shape: dict[str, int],
    device: torch.device,
    batches: list[TrainBatch],
    steps: int,
) -> Variant:
    """Build a variant, warm it up and read its peak memory; what was allocated before does not count."""
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    variant = make(shape, device)
    for number in range(min(5, steps)):
        variant.step(batches[number % len(batches)])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        for batch in batches:
            variant.step(batch)
        variant.peak_bytes = torch.cuda.max_memory_allocated(device) - before
    return variant


def _seconds_per_step(variant: Variant, batches: list[TrainBatch], device: torch.device, steps: int) -> float:
    _synchronize(device)
    started = time.perf_counter()
    for number in range(steps):
        variant.step(batches[number % len(batches)])
    _synchronize(device)
    return (time.perf_counter() - started) / steps


def _compare(shape: dict[str, int], device: torch.device, batch: TrainBatch) -> tuple[bool, str]:
    """Losses and gradients in float32 without dropout, on a batch of one block: 1e-4 relative (tf32 off)."""
    rows = batch.instructions[0]
    assert isinstance(rows, InstructionBatch)
    small = replace(rows, input_ids=rows.input_ids[:1], attention_mask=rows.attention_mask[:1], labels=rows.labels[:1])
    part = TrainBatch(batch.pairs, (small,), int((small.labels[:, 1:] != -100).sum()))
    with _exact_products():
        ours, theirs = (workload.build_model(shape, device=str(device)) for _ in range(2))
        losses = TrainingStep(ours, LOSS, device=device).backward(part)
        expected = authors.backward(theirs, part, LOSS)
    of_loss = equality.loss_error((losses.contrastive, losses.instruction), expected)
    of_gradient = equality.gradient_error(ours, theirs)
    return max(of_loss, of_gradient) <= 1e-4, f"loss {of_loss:.1e}, gradient {of_gradient:.1e} (float32, relative)"


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def _figures(
    ours: Variant, theirs: Variant, batches: list[TrainBatch], device: torch.device, is_equal: bool
) -> list[Figure]:
    own_s, their_s = statistics.median(ours.step_s), statistics.median(theirs.step_s)
    ratio = statistics.median(other / own for own, other in zip(ours.step_s, theirs.step_s, strict=True))
    tokens = sum(num_tokens(batch) for batch in batches) / len(batches)
    figures = [
        Figure("gpu.steps_per_s", 1 / own_s, 1 / their_s, ratio, equal=is_equal),
        Figure("gpu.tokens_per_s", tokens / own_s, tokens / their_s, ratio, equal=is_equal),
    ]
    peak = next((rate for name, rate in PEAK_FLOPS.items() if name in _device_name(device)), None)
    if peak is not None:
        flops = _useful_flops(ours.model, batches)
        figures.append(Figure("gpu.mfu", flops / own_s / peak, flops / their_s / peak, ratio, equal=is_equal))
    if ours.peak_bytes and theirs.peak_bytes:
        less = theirs.peak_bytes / ours.peak_bytes
        figures.append(Figure("gpu.peak_memory_bytes", ours.peak_bytes, theirs.peak_bytes, less, equal=is_equal))
    return figures


def _useful_flops(model: Any, batches: list[TrainBatch]) -> float:
    """6 per parameter and token: instructions through blocks and, where supervised, the head; pairs through layer l.

    The same numerator serves both variants; attention products and everything that is thrown away are left out.
    """
    head = model.get_output_embeddings().weight.numel()
    body = workload.num_parameters(model) - head
    a_block = body / model.config.get_text_config().num_hidden_layers
    flops = 0.0
    for batch in batches:
        in_blocks = sum(pack_instructions(rows).num_tokens for rows in batch.instructions)
        in_pairs = pack_pairs(batch.pairs).num_tokens if batch.pairs is not None else 0
        flops += 6 * (body * in_blocks + head * batch.num_supervised + LAYER * a_block * in_pairs)
    return flops / len(batches)


def _describe(
    device: torch.device, shape: dict[str, int], batches: list[TrainBatch], ours: Variant, error: str
) -> None:
    tokens = sum(num_tokens(batch) for batch in batches) / len(batches)
    supervised = sum(batch.num_supervised for batch in batches) / len(batches)
    spread = (max(ours.step_s) - min(ours.step_s)) / statistics.median(ours.step_s)
    lines = (
        f"{_device_name(device)}, torch {torch.__version__}; {shape}, {workload.num_parameters(ours.model):,} weights",
        f"{tokens:.0f} tokens a step, {supervised:.0f} of them supervised; spread of our rounds {spread:.1%}",
        f"difference to the peer: {error}",
    )
    sys.stdout.write("\n".join(lines) + "\n\n")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
