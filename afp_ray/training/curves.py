"""What is seen of a training while it runs and after: running sums, the curve of its metrics, a trace of some steps."""

import json
import logging
import math
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afp_ray.errors import AfpError, DivergedError
from afp_ray.records import TrainingSummary
from afp_ray.store import write_atomic
from afp_ray.training.gather import sum_over_workers, world_size
from afp_ray.training.step import StepLosses

logger = logging.getLogger(__name__)

_COSINES_PER_RUN = 10
_MAX_LINES = 1900
"""Of the curve, beside the steps at which gradients were compared."""
_FLUSH_S = 1.0
_LAG = {"cuda": 4}
_TRACED_FROM = 2
"""Steps before the trace: the first ones allocate and compile."""


def lag_on(device: torch.device) -> int:
    """Steps whose numbers are not waited for, so that a device has work while the host reads those of earlier ones."""
    return _LAG.get(device.type, 0)


@dataclass(frozen=True, slots=True)
class CompletedStep:
    """The numbers of one step, over all workers.

    Attributes:
        step: 0-based.
        metrics: by name.
        wishes: each as all workers see it: true where some worker has it.
    """

    step: int
    metrics: dict[str, float]
    wishes: list[bool]


@dataclass(frozen=True, slots=True)
class _Pending:
    """A step whose numbers are on their way.

    Attributes:
        names: of the first values, of which the workers' shares were summed; tokens, wishes and the norm follow.
        values: on the CPU, once `event` has come.
        rate: the learning rate, where it is a metric.
    """

    step: int
    names: tuple[str, ...]
    values: Tensor
    event: torch.cuda.Event | None
    losses: StepLosses
    rate: Mapping[str, float]


class Record:
    """What the steps gave so far, over all workers.

    Args:
        max_steps: of the whole training.
        device: where the numbers of a step are.
        period: steps within which every term occurs.

    Attributes:
        cosine_every: the gradients of the two terms are compared at multiples of it.
    """

    def __init__(self, max_steps: int, device: torch.device, *, period: int) -> None:
        self.max_steps, self.device = max_steps, device
        self.cosine_every = max(1, max_steps // _COSINES_PER_RUN)
        self._tail_start = max_steps - max(math.ceil(max_steps / 10), period)  # every term has a step in it
        self._sums: dict[str, list[float]] = {
            name: [] for name in ("contrastive_loss", "instruction_loss", "gradient_cosine", "gradient_ratio")
        }
        self._tokens, self._peak = 0, 0
        self._seconds_before = self._hours_before = 0.0
        self._resumed_from: int | None = None
        self._pending: deque[_Pending] = deque()
        self._started = self._last = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def add(
        self,
        step: int,
        losses: StepLosses,
        norm: Tensor,
        tokens: int,
        *,
        wishes: Sequence[bool] = (),
        learning_rate: float | None = None,
    ) -> None:
        """Take in one step, without waiting for the device; `completed` gives its numbers.

        Args:
            step: 0-based.
            losses: this worker's shares.
            norm: () of the whole gradient.
            tokens: of this worker.
            wishes: of this worker.
            learning_rate: of the step; a metric where it is given.
        """
        terms = {"contrastive_loss": losses.contrastive, "instruction_loss": losses.instruction}
        parts = {name: value.double() for name, value in terms.items() if value is not None}
        others = torch.tensor([tokens, *wishes], dtype=torch.float64).to(self.device, non_blocking=True)
        norm = norm.double().to(self.device)
        shares = torch.cat([torch.stack([*parts.values(), norm / world_size()]), others])
        # One transfer a step: all numbers cross to the CPU together.
        values = torch.cat([sum_over_workers(shares), norm.reshape(1)])
        event = None
        if values.device.type == "cuda":
            on_host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            on_host.copy_(values, non_blocking=True)
            values, event = on_host, torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        if world_size() == 1:
            self._tokens += tokens
        rate = {} if learning_rate is None else {"learning_rate": learning_rate}
        self._pending.append(_Pending(step, (*parts, "gradient_norm"), values, event, losses, rate))

    def completed(self, *, lag: int = 0) -> Iterator["CompletedStep"]:
        """Steps whose numbers are there, the earliest first, each once.

        Args:
            lag: so many steps are left for a later call, since their numbers would be waited for.
        Raises: DivergedError with the step whose loss or norm is not finite; on every worker alike.
        """
        while len(self._pending) > lag:
            pending = self._pending.popleft()
            if pending.event is not None:
                pending.event.synchronize()
            values = pending.values.tolist()
            names = pending.names
            for name, value in zip(names, values, strict=False):
                if not math.isfinite(value):
                    raise DivergedError(pending.step, f"{name} is {value}")
            metrics = dict(zip(names[:-1], values, strict=False)) | {"gradient_norm": values[-1]}
            metrics = self._complete(pending.step, metrics, pending.losses, values[len(names)])
            yield CompletedStep(
                pending.step, {**metrics, **pending.rate}, [value > 0 for value in values[len(names) + 1 : -1]]
            )

    def _complete(self, step: int, metrics: dict[str, float], losses: StepLosses, tokens: float) -> dict[str, float]:
        for name in ("contrastive_loss", "instruction_loss"):
            if name in metrics and step >= self._tail_start:
                self._sums[name].append(metrics[name])
        for name in ("gradient_cosine", "gradient_ratio"):
            value = getattr(losses, name)
            if value is not None:
                self._sums[name].append(value)
                metrics[name] = value
        if world_size() > 1:
            self._tokens += int(tokens)
        memory = _memory_bytes(self.device)
        self._peak = max(self._peak, memory)
        now = time.perf_counter()
        metrics["tokens_per_s"] = tokens / max(now - self._last, 1e-9)
        metrics["memory_bytes"] = float(memory)
        self._last = now
        return metrics

    @property
    def tokens(self) -> int:
        """Of all workers so far; of several, in the steps that are completed."""
        return self._tokens

    @property
    def seconds(self) -> float:
        """Of training so far, earlier attempts included up to the state that they left."""
        return self._seconds_before + time.perf_counter() - self._started

    def state(self) -> dict[str, Any]:
        """The sums as JSON."""
        seconds = self.seconds
        sums = {"sums": self._sums, "tokens": self._tokens, "peak": self._peak}
        return {**sums, "seconds": seconds, "hours": self._hours(seconds)}

    def restore(self, step: int, state: Mapping[str, Any]) -> None:
        """Go on from sums that `state` gave after `step` steps."""
        self._sums = {name: list(values) for name, values in state["sums"].items()}
        self._tokens, self._peak = state["tokens"], state["peak"]
        self._seconds_before, self._resumed_from = state["seconds"], step
        # States of before hours were counted are taken to be of as many workers as there are now.
        self._hours_before = state.get("hours", state["seconds"] * world_size() / 3600)

    def _hours(self, seconds: float) -> float:
        """Device-hours of so many seconds of training: those of earlier attempts with the workers that they had."""
        return self._hours_before + (seconds - self._seconds_before) * world_size() / 3600

    def summary(self, seconds: float, **fields: Any) -> TrainingSummary:
        """The steps together.

        Args:
            seconds: of training, as `seconds` was after the last step.
            fields: of the summary, that the steps do not tell.
        Returns: `gpu_hours` has what earlier attempts held for the steps that were not repeated.
        """
        return TrainingSummary(
            tokens=self._tokens,
            seconds=seconds,
            gpu_hours=self._hours_before,
            training_hours=self._hours(seconds),
            peak_memory_bytes=self._peak,
            resumed_from_step=self._resumed_from,
            **{name: sum(values) / len(values) if values else None for name, values in self._sums.items()},
            **fields,
        )


class Curve:
    """Metrics by step as JSON lines, thinned out to a bounded number; a training that goes on continues them.

    A disk that refuses ends the curve with a warning, never the training.

    Args:
        path: the file; None, as on workers other than the first, keeps nothing.
        max_steps: of the whole training.
        start: steps done before; lines after them are dropped, since their steps are done again.
    """

    def __init__(self, path: Path | None, max_steps: int, *, start: int = 0) -> None:
        self._path, self._max_steps = path, max_steps
        self._every = math.ceil(max_steps / _MAX_LINES)
        self._lines: list[str] = []
        self._flushed_at = time.monotonic()
        if path is not None:
            self._guarded(lambda: write_atomic(path, "".join(_lines_before(path, start))))

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in one step, 0-based; the file has the number of steps done."""
        is_kept = step % self._every == 0 or "gradient_cosine" in metrics or step + 1 == self._max_steps
        if self._path is None or not is_kept:
            return
        self._lines.append(json.dumps({"step": step + 1, **metrics}) + "\n")
        if time.monotonic() - self._flushed_at >= _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Append what was taken in; before a state is saved, so that the curve is never behind it."""
        if self._path is not None and self._lines:
            self._guarded(self._append)
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Append what is left."""
        self.flush()

    def _append(self) -> None:
        assert self._path is not None
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(self._lines))
        self._lines = []

    def _guarded(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, AfpError) as error:
            logger.warning("the curve of training ends here: %s", error)
            self._path, self._lines = None, []


class StepTrace:
    """A Chrome trace of some steps, written when they are done; load it at ui.perfetto.dev.

    Args:
        path: the file, gzipped JSON; None writes nothing.
        num_steps: to trace, from the third on; 0 traces nothing.
        start, max_steps: first and last + 1 of the steps that are run.
        device: its kernels are in the trace as well.
    """

    def __init__(self, path: Path | None, *, num_steps: int, start: int, max_steps: int, device: torch.device) -> None:
        self._path = path
        self._first = max(start, min(start + _TRACED_FROM, max_steps - num_steps))
        self._end = min(self._first + num_steps, max_steps) if path is not None else self._first
        self._device = device
        self._profile: Any = None

    def before(self, step: int) -> None:
        """Start at the first step to trace, 0-based."""
        if step != self._first or self._first == self._end:
            return
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._device.type == "cuda" else [])]
        self._profile = profile(activities=activities)
        self._profile.start()

    def after(self, step: int) -> None:
        """Write the trace after the last step of it."""
        if self._profile is None or step + 1 != self._end:
            return
        self.close()
        assert self._path is not None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._traced.export_chrome_trace(str(self._path))
        except (OSError, RuntimeError) as error:
            logger.warning("the trace was not written: %s", error)

    def close(self) -> None:
        """Stop tracing, also where an error ends the steps early."""
        if self._profile is not None:
            self._profile.stop()
            self._traced, self._profile = self._profile, None


def _lines_before(path: Path, start: int) -> list[str]:
    """Lines of the first `start` steps; what a kill left unfinished is dropped."""
    lines = []
    for line in path.read_text("utf-8").splitlines(keepends=True) if start > 0 and path.is_file() else ():
        try:
            is_done = json.loads(line)["step"] <= start
        except (ValueError, KeyError, TypeError):
            continue
        if is_done and line.endswith("\n"):
            lines.append(line)
    return lines


def _memory_bytes(device: torch.device) -> int:
    """Highest GPU memory so far, or this process's resident memory now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
