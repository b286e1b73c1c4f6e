"""What a GPU gives: steps, scoring and generation of an XGLM-564M with random weights, against peers in the same run.

Steps are those of the training loop, bf16, dropout on: against the published computation at 4 and 16 blocks of 512
tokens, on batches of every length against the step that runs eagerly and casts weights in every forward, and of two and
four trials that share the card against one alone. Choices
with five demonstrations and greedy texts are compared with the stock model on padded batches, at the batch size that is
best for it. Questions and prompts are made up, and no data set is needed; nor is a library beside torch, transformers,
safetensors, numpy, pydantic and PyYAML. Floors are for an H100 or H200. Without a GPU it says so and exits 0.

Usage: PYTHONPATH=. python benchmarks/gpu.py [--tiny] [--only NAME] [--rounds N] [--steps N] [--form F]
"""

import argparse
import contextlib
import functools
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers

from afp_ray.config.loss import LossConfig
from afp_ray.config.runtime import TrainingRuntime
from afp_ray.config.training import TrainingConfig
from afp_ray.data.batches import InstructionBatch, TrainBatch
from afp_ray.errors import TrainingInterruptedError
from afp_ray.records import Host
from afp_ray.training.captured_step import StepForm
from afp_ray.training.loop import TrainingRequest, train
from afp_ray.training.step import TrainingStep
from benchmarks import authors, equality, workload
from benchmarks.figures import Figure, show
from benchmarks.gpu_evaluation import measure_choices, measure_texts
from benchmarks.gpu_setting import Setting, exact_products, free, synchronize

LAYER = 1
LOSS = LossConfig(layer=LAYER)
BF16 = TrainingConfig(precision="bf16", batch_size=4096, max_length=512, max_steps=10**6)
"""Of so many steps that the gradients of the terms are compared in the first one alone."""
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "A800": 312e12}
"""Dense bf16 rate by datasheet."""
FLOORS_FOR = ("H100", "H200")
MFU = 0.28
"""Share of the peak rate that is promised at 16 blocks."""


@dataclass(frozen=True)
class Steps:
    """What some steps took.

    Attributes:
        step_s: seconds of a step.
        peak_bytes: GPU memory with weights, gradients and optimizer state; 0 without a GPU.
        first_loss: of the instruction term in the first step.
    """

    step_s: float
    peak_bytes: int
    first_loss: float = math.nan


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 7 when a floor is missed or results differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a toy size on whatever device there is, to test this file")
    parser.add_argument("--only", choices=FIGURES, help="one of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24, help="steps of a round")
    parser.add_argument("--form", default="graph", help="of our steps: graph, compile or eager")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not options.tiny:
        sys.stdout.write("gpu: skipped, torch sees no CUDA device\n")
        return 0
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    shape, length = (workload.TINY, 32) if options.tiny else (workload.XGLM_564M, 512)
    setting = Setting(device, shape, length, options.rounds, options.steps, options.form)
    transformers.utils.logging.set_verbosity_error()
    torch.backends.cuda.matmul.allow_tf32 = True  # as the published runs have it
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    sys.stdout.write(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}; {shape}\n")
    figures: list[Figure] = []
    for figure, measure in FIGURES.items():
        if options.only in (None, figure):
            started = time.perf_counter()
            figures += measure(setting)
            free()
            sys.stdout.write(f"{figure}: {time.perf_counter() - started:.0f} s\n")
    has_floors = any(card in name for card in FLOORS_FOR) and not options.tiny
    return show(figures if has_floors else [replace(figure, floor=None) for figure in figures])


def _against_authors(setting: Setting, *, blocks: int, floors: Mapping[str, float]) -> list[Figure]:
    """Steps per second, tokens per second, use of the peak rate and peak memory beside the published computation."""
    size = {"num_pairs": blocks, "num_blocks": blocks, "length": setting.length}
    batches = [workload.build_batch(setting.shape, **size, seed=seed) for seed in range(2 if setting.is_tiny else 4)]
    own, other, ratio = _in_turn(
        setting, functools.partial(_our_steps, setting, batches), functools.partial(_their_steps, setting, batches)
    )
    is_equal = _equals_authors(setting, batches[0]) and _forms_agree(setting, batches)
    name, tokens = f"gpu.{blocks}_blocks", workload.num_tokens(batches)

    def figure(quantity: str, ours: float, peer: float, ratio: float) -> Figure:
        return Figure(f"{name}_{quantity}", ours, peer, ratio, floors.get(quantity), is_equal)

    figures = [
        figure("steps_per_s", 1 / own.step_s, 1 / other.step_s, ratio),
        figure("tokens_per_s", tokens / own.step_s, tokens / other.step_s, ratio),
    ]
    if setting.device.type == "cuda":
        device_name = torch.cuda.get_device_name(setting.device)
        peak = next((rate for card, rate in PEAK_FLOPS.items() if card in device_name), math.inf)
        share = workload.useful_flops(setting.shape, batches, layer=LAYER) / own.step_s / peak
        figures.append(figure("peak_memory_bytes", own.peak_bytes, other.peak_bytes, other.peak_bytes / own.peak_bytes))
        figures.append(figure("mfu_against_promised", share, MFU, share / MFU))
    return figures


def _every_length(setting: Setting) -> list[Figure]:
    """Batches of 14 samples of random lengths, against the eager step."""
    size = {"num_pairs": 4, "num_rows": 14, "longest": setting.length}
    batches = [workload.build_rows(setting.shape, **size, seed=seed) for seed in range(2 if setting.is_tiny else 12)]
    before = functools.partial(_our_steps, setting, batches, form="eager", uses_copies=False)
    own, other, ratio = _in_turn(setting, functools.partial(_our_steps, setting, batches), before)
    is_equal = _forms_agree(setting, batches)
    return [Figure("gpu.every_length_steps_per_s", 1 / own.step_s, 1 / other.step_s, ratio, 2.8, is_equal)]


def _neighbours(setting: Setting) -> list[Figure]:
    """Steps per second of two and four trials on the card, each in a process of its own, against one alone."""
    (alone,) = _side_by_side(setting, 1)
    figures = []
    for number in (2,) if setting.is_tiny else (2, 4):
        trials = _side_by_side(setting, number)
        rate, expected = sum(1 / step_s for step_s, _ in trials), alone[1]
        is_equal = all(abs(loss - expected) <= 2e-2 * abs(expected) for _, loss in trials)
        name = f"gpu.{number}_trials_steps_per_s"
        figures.append(Figure(name, rate, 1 / alone[0], rate * alone[0], None, is_equal))
    return figures


def _side_by_side(setting: Setting, number: int) -> list[tuple[float, float]]:
    """Seconds of a step and a loss of each of so many trials, timed from the moment that all have warmed up."""
    context = torch.multiprocessing.get_context("spawn")
    meet, results = context.Barrier(number, timeout=300), context.SimpleQueue()
    workers = [context.Process(target=_trial_beside_others, args=(setting, meet, results)) for _ in range(number)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError(f"of {number} trials at a time some failed; their errors stand above")
    return [results.get() for _ in workers]


def _trial_beside_others(setting: Setting, meet: Any, results: Any) -> None:
    size = {"num_pairs": 4, "num_blocks": 4, "length": setting.length}
    batches = [workload.build_batch(setting.shape, **size, seed=seed) for seed in range(2)]
    steps = _our_steps(setting, batches, meet=meet.wait)
    results.put((steps.step_s, steps.first_loss))


def _in_turn(setting: Setting, ours: Callable[[], Steps], peer: Callable[[], Steps]) -> tuple[Steps, Steps, float]:
    """Both in every round, each alone on the card; median seconds, and the median of the ratios."""
    rounds: list[tuple[Steps, Steps]] = []
    for _ in range(setting.rounds):
        pair = []
        for work in (ours, peer):
            pair.append(work())
            free()
        rounds.append((pair[0], pair[1]))
    sides = [
        Steps(statistics.median(one.step_s for one in side), side[0].peak_bytes) for side in zip(*rounds, strict=True)
    ]
    ratio = statistics.median(theirs.step_s / own.step_s for own, theirs in rounds)
    spread = max(own.step_s for own, _ in rounds) / min(own.step_s for own, _ in rounds) - 1
    sys.stdout.write(f"  our rounds spread by {spread:.1%}\n")
    return sides[0], sides[1], ratio


class _FixedBatches:
    """The same few batches again and again."""

    def __init__(self, batches: Sequence[TrainBatch]) -> None:
        self.batches = batches

    def batch(self, step: int, *, micro_batch_size: int | None = None) -> TrainBatch:
        return self.batches[step % len(self.batches)]


class _Clock:
    """A `Reporter` that times the steps between two, and keeps the losses of all."""

    def __init__(self, device: torch.device, *, first: int, last: int, meet: Callable[[], Any] = lambda: None) -> None:
        self.device, self.first, self.last, self.meet = device, first, last, meet
        self.losses: list[tuple[float, float]] = []
        self.started = self.ended = 0.0
        self.peak_bytes = 0

    def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
        self.losses.append((metrics.get("contrastive_loss", math.nan), metrics.get("instruction_loss", math.nan)))
        if done not in (self.first, self.last):
            return
        synchronize(self.device)
        if done == self.last:
            self.ended = time.perf_counter()
            self.peak_bytes = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
            return
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.meet()
        self.started = time.perf_counter()


def _our_steps(
    setting: Setting,
    batches: Sequence[TrainBatch],
    *,
    form: str | None = None,
    uses_copies: bool | None = None,
    meet: Callable[[], Any] = lambda: None,
) -> Steps:
    """Steps of the training loop, after so many that every batch has been seen twice."""
    first, last = 2 * len(batches), 2 * len(batches) + setting.steps
    clock = _Clock(setting.device, first=first, last=last, meet=meet)
    host = Host(reporter=clock, runtime=_runtime(form or setting.form), stop=lambda: clock.ended > 0)
    with contextlib.suppress(TrainingInterruptedError):
        request, how = TrainingRequest(LOSS, BF16), StepForm(uses_copies=uses_copies)
        train(setting.model(dropout=0.1), _FixedBatches(batches), request, host, form=how)
    return Steps((clock.ended - clock.started) / setting.steps, clock.peak_bytes, clock.losses[0][1])


def _runtime(form: str) -> TrainingRuntime:
    return TrainingRuntime.model_validate({"checkpoint_every_s": None, "step": form})


def _their_steps(setting: Setting, batches: Sequence[TrainBatch]) -> Steps:
    """Steps of the published computation, with its losses read on the CPU as its loop does."""
    model = authors.untie(setting.model(dropout=0.1))
    optimizer = authors.make_optimizer(model, 1e-5)
    first, last = 5, 5 + setting.steps
    clock = _Clock(setting.device, first=first, last=last)
    for step in range(last):
        optimizer.zero_grad(set_to_none=True)
        losses = authors.backward(model, batches[step % len(batches)], LOSS, is_bf16=True)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        torch.stack([*(loss.float() for loss in losses), norm.float()]).tolist()
        clock.report("train", step + 1, last)
    return Steps((clock.ended - clock.started) / setting.steps, clock.peak_bytes)


def _equals_authors(setting: Setting, batch: TrainBatch) -> bool:
    """Losses and gradients in float32 without dropout, on a batch of one block: 1e-4 relative (tf32 off)."""
    rows = batch.instructions[0]
    assert isinstance(rows, InstructionBatch)
    small = replace(rows, input_ids=rows.input_ids[:1], attention_mask=rows.attention_mask[:1], labels=rows.labels[:1])
    part = TrainBatch(batch.pairs, (small,), int((small.labels[:, 1:] != -100).sum()))
    with exact_products():
        ours, theirs = setting.model(), setting.model()
        losses = TrainingStep(ours, LOSS, device=setting.device).backward(part)
        expected = authors.backward(theirs, part, LOSS)
    of_loss = equality.loss_error((losses.contrastive, losses.instruction), expected)
    of_gradient = equality.gradient_error(ours, theirs)
    sys.stdout.write(f"  difference to the peer: loss {of_loss:.1e}, gradient {of_gradient:.1e} (float32, relative)\n")
    return max(of_loss, of_gradient) <= 1e-4


def _forms_agree(setting: Setting, batches: Sequence[TrainBatch]) -> bool:
    """Losses of a few steps without dropout, as our steps run and eagerly: 2e-2 relative in bf16."""
    clocks = []
    for form in (setting.form, "eager"):
        clocks.append(_Clock(setting.device, first=0, last=0))
        request = TrainingRequest(LOSS, BF16, is_rung=lambda done, tokens: done >= 5)
        host = Host(reporter=clocks[-1], runtime=_runtime(form))
        told = train(setting.model(), _FixedBatches(batches[:2]), request, host).model_dump()
        words = [str(told[name]) for name in ("step_form", "computed_from", "notes") if told.get(name)]
        sys.stdout.write(f"  {form}: {'; '.join(words)}\n")
    ours, eager = (clock.losses for clock in clocks)
    furthest = max(
        abs(a - b) / abs(b) for own, other in zip(ours, eager, strict=True) for a, b in zip(own, other, strict=True)
    )
    sys.stdout.write(f"  losses of {len(ours)} steps, {setting.form} and eager: {furthest:.1e} relative\n")
    return furthest <= 2e-2


FIGURES: dict[str, Callable[[Setting], list[Figure]]] = {
    "4_blocks": functools.partial(_against_authors, blocks=4, floors={"steps_per_s": 5.0, "peak_memory_bytes": 1.2}),
    "16_blocks": functools.partial(
        _against_authors, blocks=16, floors={"steps_per_s": 3.0, "mfu_against_promised": 1.0}
    ),
    "every_length": _every_length,
    "neighbours": _neighbours,
    "choices_bf16": functools.partial(measure_choices, precision="bf16", floor=7.0),
    "choices_fp32": functools.partial(measure_choices, precision="fp32", floor=9.0),
    "texts": measure_texts,
}


if __name__ == "__main__":
    sys.exit(main())
