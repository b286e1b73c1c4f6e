"""What the tests of resuming train: the same short training, stopped where they like and gone on with."""

import math
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tiny_models import build_model
from training_cases import Listener, RandomBatches, make_training

from afp_ray.config.loss import LossConfig
from afp_ray.config.runtime import TrainingRuntime
from afp_ray.errors import DivergedError, TrainingInterruptedError
from afp_ray.records import Host, TrainingSummary
from afp_ray.store import TrialPaths
from afp_ray.training.captured_step import StepForm
from afp_ray.training.loop import TrainingRequest, train

NUM_STEPS = 20


class Run:
    """One training of `NUM_STEPS` steps, in one call or in several.

    Args:
        folder: of the trial.
        family: of the model; `gpt2` has dropout.
        loss, training, runtime: what differs from the defaults; `micro` cuts the batches.
        rank, world_size: place of this worker.
    """

    def __init__(
        self,
        folder: Path,
        *,
        family: str = "gpt2",
        loss: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        runtime: Mapping[str, Any] | None = None,
        micro: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.paths = TrialPaths(folder)
        self.family, self.micro, self.rank, self.world_size = family, micro, rank, world_size
        self.loss = LossConfig(**(loss or {}))
        self.training = make_training(**{"max_steps": NUM_STEPS, "weight_decay": 0.1, **(training or {})})
        self.runtime = TrainingRuntime(**{"checkpoint_every_s": None, **(runtime or {})})
        self.listener = Listener()
        self.weights: dict[str, torch.Tensor] = {}

    def go(
        self,
        *,
        stop_after: int | None = None,
        stop: Callable[[], bool] | None = None,
        trial_id: str = "trial",
        on_step: Callable[[int], None] = lambda step: None,
        form: StepForm | None = None,
        **fields: Any,
    ) -> TrainingSummary | None:
        """Train to the end, or until `stop_after` steps are done; None when it was stopped.

        Args:
            stop_after: steps after which a stop is asked for.
            stop: instead, the function that is asked.
            trial_id: content address.
            on_step: called with the number of steps done.
            form: as `train` has it.
            fields: what this call has different from the others: model, batches, fields of the request or of the host.
        """
        own = self
        model = fields.pop("model", None) or build_model(self.family)

        class Reports(Listener):
            def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
                own.listener.report(stage, done, total, metrics)
                on_step(done)

        asked = [0]

        def counted() -> bool:
            asked[0] += 1
            start = own.listener.calls[-1][1] if own.listener.calls else 0
            return stop_after is not None and start + 1 >= stop_after

        batches = fields.pop("batches", None) or RandomBatches(
            rank=self.rank, world_size=self.world_size, micro_batch_size=self.micro
        )
        asked_for: dict[str, Any] = {"loss": self.loss, "training": self.training, "seed": 3, "trial_id": trial_id}
        request = TrainingRequest(**{name: fields.pop(name, value) for name, value in asked_for.items()})
        host = Host(**{"reporter": Reports(), "runtime": self.runtime, "stop": stop or counted, **fields})
        try:
            summary = train(model, batches, request, host, paths=self.paths, form=form)
        except TrainingInterruptedError:
            return None
        self.weights = dict(model.state_dict())
        return summary


def differ(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that are not equal bit for bit."""
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def numbers(listener: Listener) -> list[dict[str, float]]:
    """Metrics that depend on nothing but the training."""
    timed = ("tokens_per_s", "memory_bytes")
    return [{name: value for name, value in row.items() if name not in timed} for row in listener.metrics]


def kill_at(step: int) -> Callable[[int], None]:
    """End this process as a kill would, once `step` steps are done."""

    def killed(done: int) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return killed


def compare_with_workers(folder: Path, *, rank: int, world_size: int) -> dict[str, Any]:
    """Straight and resumed training of one worker of several: names that differ, losses, and where it went on."""
    found: dict[str, Any] = {}
    place: dict[str, Any] = {"rank": rank, "world_size": world_size}
    for name, case in WORKER_CASES.items():
        straight = Run(folder / f"{name}-straight", **case, **place)
        parted = Run(folder / f"{name}-parted", **case, **place)
        straight.go()
        # One worker alone asks to stop; all of them do.
        assert parted.go(stop_after=10 if rank == world_size - 1 else None) is None
        summary = parted.go()
        assert summary is not None
        found[name] = {
            "differ": differ(straight.weights, parted.weights),
            "losses": numbers(straight.listener) == numbers(parted.listener),
            "resumed": summary.resumed_from_step,
            "weights": parted.weights,
            "numbers": numbers(parted.listener),
            "cosines": sum("gradient_cosine" in row for row in parted.listener.metrics),
        }
    found["diverged"] = _step_of_divergence(Run(folder / "diverged", **place), is_ill=rank == 1)
    return found


def _step_of_divergence(run: Run, *, is_ill: bool) -> int | None:
    model = build_model(run.family)
    if is_ill:
        with torch.no_grad():
            model.transformer.h[2].mlp.c_fc.weight[0, 0] = math.nan
    try:
        run.go(model=model)
    except DivergedError as error:
        return error.step
    return None


WORKER_CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated, with a queue": {
        "micro": 1,
        "loss": {"negatives": "queue", "queue_size": 10, "queue_momentum": 0.9},
    },
    "sharded": {"family": "llama", "runtime": {"sharding": "full"}},
}
