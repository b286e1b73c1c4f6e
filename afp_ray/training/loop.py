"""The training loop: batches in, updated weights and a summary out."""

import contextlib
import hashlib
import math
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from afp_ray.config.loss import LossConfig
from afp_ray.config.training import TrainingConfig
from afp_ray.data.batches import TrainBatch
from afp_ray.errors import DivergedError
from afp_ray.models.hidden_states import CausalModel
from afp_ray.records import TrainingSummary
from afp_ray.training.gather import rank, sum_gradients, sum_over_workers, world_size
from afp_ray.training.reporter import Reporter
from afp_ray.training.schedule import learning_rate
from afp_ray.training.step import StepLosses, TrainingStep

_COSINES_PER_RUN = 10


class Batches(Protocol):
    """Random access to what each step trains on."""

    def batch(self, step: int) -> TrainBatch:
        """Give the rows of this worker for one step; equal steps give equal rows."""
        ...


def train(
    model: CausalModel,
    batches: Batches,
    *,
    loss: LossConfig,
    training: TrainingConfig,
    reporter: Reporter,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> TrainingSummary:
    """Train `model` in place for `training.max_steps` steps; inside a process group every worker calls this alike.

    Dropout is drawn from `seed`, the step and the worker's rank; the global random state is left as it was. After an
    error the weights are of no use.

    Args:
        model: float32 weights on `device`.
        batches: this worker's share of every step.
        loss: weights and shape of the two terms.
        training: optimizer, schedule, steps, precision.
        reporter: hears of every step: both losses, learning rate, gradient norm, tokens per second.
        device: where the model is.
        seed: of dropout.
    Returns: losses are means over the last tenth of the steps; `gpu_hours`, `dropped_tokens` are the caller's to fill.
    Raises: DivergedError with the step at which a loss or the gradient's norm is not finite.
    """
    if training.max_steps == 0:
        return TrainingSummary(steps=0)
    device = torch.device(device)
    started = time.perf_counter()
    record = _Record(training.max_steps, device)
    with _train_mode(model), _own_random_state(device):
        step_of = TrainingStep(model, loss, device=device, is_bf16=training.precision == "bf16")
        optimizer = make_optimizer(model, training, device)
        for step in range(training.max_steps):
            _seed_step(device, seed, step)
            batch = batches.batch(step)
            optimizer.zero_grad(set_to_none=True)
            losses = step_of.backward(batch, measure_cosine=step % record.cosine_every == 0)
            sum_gradients(model.parameters())
            norm = nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
            rate = learning_rate(training, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            metrics = record.add(step, losses, norm, num_tokens(batch))
            metrics["learning_rate"] = rate
            reporter.report("train", step + 1, training.max_steps, metrics)
        optimizer.zero_grad(set_to_none=True)
    return record.summary(time.perf_counter() - started)


def make_optimizer(model: nn.Module, training: TrainingConfig, device: torch.device) -> torch.optim.AdamW:
    """Fused AdamW; vectors (norms and biases) are not decayed.

    Args:
        model: its trainable parameters are taken, each once.
        training: peak learning rate and weight decay.
        device: fused kernels exist for the CPU and for CUDA.
    Returns: the optimizer.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.learning_rate,
        betas=(0.9, 0.999),
        eps=1e-8,
        fused=device.type in ("cpu", "cuda"),
    )


def num_tokens(batch: TrainBatch) -> int:
    """Real tokens of a batch: both sides of its pairs and its instructions."""
    masks = [rows.attention_mask for rows in batch.instructions]
    if batch.pairs is not None:
        masks += [batch.pairs.source_mask, batch.pairs.target_mask]
    return sum(int(mask.sum()) for mask in masks)


class _Record:
    """What the steps gave so far, over all workers."""

    def __init__(self, max_steps: int, device: torch.device) -> None:
        self.max_steps, self.device = max_steps, device
        self.cosine_every = max(1, max_steps // _COSINES_PER_RUN)
        self._tail_start = max_steps - math.ceil(max_steps / 10)
        self._tails: dict[str, list[float]] = {"contrastive_loss": [], "instruction_loss": []}
        self._cosines: list[float] = []
        self._tokens = 0
        self._peak = 0
        self._last = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def add(self, step: int, losses: StepLosses, norm: torch.Tensor, tokens: int) -> dict[str, float]:
        """Take in one step and return its metrics.

        Raises: DivergedError when a loss or the norm is not finite; on every worker at the same step.
        """
        found = {"contrastive_loss": losses.contrastive, "instruction_loss": losses.instruction}
        parts = {name: value for name, value in found.items() if value is not None}
        shares = [value.double() for value in parts.values()] + [
            torch.tensor(tokens, dtype=torch.float64, device=self.device)
        ]
        # One transfer a step: all numbers cross to the CPU together.
        values = torch.cat([sum_over_workers(torch.stack(shares)), norm.double().reshape(1)]).tolist()
        metrics = dict(zip([*parts, "tokens", "gradient_norm"], values, strict=True))
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise DivergedError(step, f"{name} is {value}")
        self._tokens += int(metrics.pop("tokens"))
        if step >= self._tail_start:
            for name in parts:
                self._tails[name].append(metrics[name])
        if losses.gradient_cosine is not None:
            self._cosines.append(losses.gradient_cosine)
            metrics["gradient_cosine"] = losses.gradient_cosine
        self._peak = max(self._peak, _memory_bytes(self.device))
        now = time.perf_counter()
        metrics["tokens_per_s"] = values[len(parts)] / max(now - self._last, 1e-9)
        self._last = now
        return metrics

    def summary(self, seconds: float) -> TrainingSummary:
        """The steps together."""
        return TrainingSummary(
            steps=self.max_steps,
            tokens=self._tokens,
            seconds=seconds,
            peak_memory_bytes=self._peak,
            contrastive_loss=_mean(self._tails["contrastive_loss"]),
            instruction_loss=_mean(self._tails["instruction_loss"]),
            gradient_cosine=_mean(self._cosines),
        )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _memory_bytes(device: torch.device) -> int:
    """Highest GPU memory so far, or this process's resident memory now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def _train_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.train()
    try:
        yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _seed_step(device: torch.device, seed: int, step: int) -> None:
    """Seed the generators that dropout draws from, so that a step's masks depend on nothing before it."""
    digest = hashlib.sha256(f"{seed}:{step}:{rank()}:{world_size()}".encode()).digest()
    number = int.from_bytes(digest[:7], "little")
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)
