"""The training loop: batches in, updated weights and a summary out; a stop anywhere changes neither."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch.distributed.tensor import DTensor

from afp_ray import __version__
from afp_ray.config.loss import LossConfig
from afp_ray.config.runtime import TrainingRuntime
from afp_ray.config.training import TrainingConfig
from afp_ray.data.batches import TrainBatch
from afp_ray.errors import DivergedError, TrainingInterruptedError
from afp_ray.models.adapters import num_trainable
from afp_ray.models.hidden_states import CausalModel
from afp_ray.records import TrainingSummary
from afp_ray.reporter import Reporter
from afp_ray.store import TrialPaths
from afp_ray.training.curves import Curve, Record, StepTrace
from afp_ray.training.gather import rank, sum_gradients, world_size
from afp_ray.training.oom_retry import Sizes, fit_sizes
from afp_ray.training.optimizer import (
    BackwardOptimizer,
    backward_with_updates,
    clip_gradients,
    make_optimizer,
    set_learning_rate,
)
from afp_ray.training.schedule import learning_rate
from afp_ray.training.setup import own_random_state, prepared, seed_step, train_mode
from afp_ray.training.sharding import free_gathered
from afp_ray.training.state import States, set_weights, trained_weights
from afp_ray.training.step import StepLosses, TrainingStep, pack_instructions, pack_pairs

logger = logging.getLogger(__name__)


IsRung = Callable[[int, int], bool]


class Batches(Protocol):
    """Random access to what each step trains on."""

    def batch(self, step: int, *, micro_batch_size: int | None = None) -> TrainBatch:
        """Give the rows of this worker for one step; equal steps give equal rows.

        Args:
            step: 0-based.
            micro_batch_size: instructions of one forward pass; None leaves it to the batches.
        """
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
    runtime: TrainingRuntime | None = None,
    paths: TrialPaths | None = None,
    trial_id: str = "",
    stop: Callable[[], bool] | None = None,
    is_rung: IsRung | None = None,
) -> TrainingSummary:
    """Train `model` in place for `training.max_steps` steps; inside a process group every worker calls this alike.

    Dropout is drawn from `seed`, the step and the worker's rank; the global random state is left as it was. After an
    error the weights are of no use, but what `paths.states` holds is: the next call goes on from there, with the
    weights, losses and summary of a training that was never stopped (bit for bit on the CPU).

    Args:
        model: float32 weights on `device`.
        batches: this worker's share of every step.
        loss: weights and shape of the two terms.
        training: optimizer, schedule, steps, precision.
        reporter: hears of every step: losses of its terms, learning rate, gradient norm, tokens per second, memory.
        device: where the model is.
        seed: of dropout.
        runtime: sizes, sharding, resumable states, trace; None takes the defaults.
        paths: where states, curve and trace go; None keeps none of them.
        trial_id: content address of the trial; a state of another one is not used.
        stop: asked after every step; true on any worker saves the state and stops all of them.
        is_rung: told the steps and the tokens of all workers that are done; true saves the state and returns, with
            `steps` of the summary below `max_steps`. The next call goes on from there.
    Returns: losses are means over the steps of the last tenth that had the term; `gpu_hours` is that of earlier
        attempts, `dropped_tokens` is the caller's to fill.
    Raises: DivergedError with the step at which a loss or the gradient's norm is not finite; its states are removed.
        TrainingInterruptedError when `stop` said so.
    """
    if training.max_steps == 0:
        return TrainingSummary(steps=0)
    device, runtime = torch.device(device), runtime or TrainingRuntime()
    with train_mode(model), own_random_state(device), prepared(model, training, runtime, seed=seed) as trained:
        loop = _Loop(trained, loss, training, runtime, device=device, seed=seed)
        states = None
        if paths is not None and (runtime.checkpoint_every_s is not None or stop is not None or is_rung is not None):
            identity = _identity(trained, loss, training, seed=seed, trial_id=trial_id)
            states = States(paths.states, identity=identity, keep_last=runtime.keep_last, model=trained, device=device)
        paths = paths if rank() == 0 else None
        return loop.run(batches, reporter, states=states, paths=paths, stop=stop, is_rung=is_rung)


class _Loop:
    """Model, optimizer and sums of one training, and the step that moves them on.

    Attributes:
        step: steps that are done.
    """

    def __init__(
        self,
        model: CausalModel,
        loss: LossConfig,
        training: TrainingConfig,
        runtime: TrainingRuntime,
        *,
        device: torch.device,
        seed: int,
    ) -> None:
        self.model, self.loss, self.training, self.runtime = model, loss, training, runtime
        self.device, self.seed = device, seed
        self.step = 0
        self._notes: list[str] = []
        self.record = Record(training.max_steps, device, period=2 if _alternates(loss) else 1)
        self.sizes = _first_sizes(training, runtime)
        self.terms = TrainingStep(model, loss, device=device, is_bf16=training.precision == "bf16")
        self.optimizer = make_optimizer(model, training, device, seed=seed)
        self._num_trainable = num_trainable(model)
        self._is_sharded = any(isinstance(value, DTensor) for value in model.parameters())

    def run(
        self,
        batches: Batches,
        reporter: Reporter,
        *,
        states: States | None,
        paths: TrialPaths | None,
        stop: Callable[[], bool] | None,
        is_rung: IsRung | None,
    ) -> TrainingSummary:
        """Do the steps that are left, or those up to a rung."""
        max_steps, num_steps = self.training.max_steps, self.runtime.profile_steps
        if states is not None:
            self._resume(states)
        curve = Curve(paths.curve if paths else None, max_steps, start=self.step)
        trace = StepTrace(
            paths.trace if paths else None,
            num_steps=num_steps,
            start=self.step,
            max_steps=max_steps,
            device=self.device,
        )
        every_s, start = self.runtime.checkpoint_every_s, self.step
        saved_at = time.monotonic()
        with contextlib.closing(trace), contextlib.closing(curve):
            while self.step < max_steps and not (is_rung and is_rung(self.step, self.record.tokens)):
                trace.before(self.step)
                is_due = every_s is not None and time.monotonic() - saved_at >= every_s
                metrics, (saves, stops) = self._take_step(batches, states, wishes=(is_due, stop is not None and stop()))
                curve.add(self.step, metrics)
                trace.after(self.step)
                self.step += 1
                reporter.report("train", self.step, max_steps, metrics)
                if states is not None and (saves or stops) and self.step < max_steps:
                    curve.flush()
                    self._save(states)
                    saved_at = time.monotonic()
                if stops and self.step < max_steps:
                    raise TrainingInterruptedError(self.step)
            seconds = self.record.seconds  # as the state has it: what saving takes is the trial's, not the training's
            if states is not None and start < self.step < max_steps:
                curve.flush()
                self._save(states)
        self.optimizer.zero_grad(set_to_none=True)
        if isinstance(self.optimizer, BackwardOptimizer):
            self.optimizer.close()  # its hooks would keep the moments as long as the weights
        return self._summary(states, seconds)

    def _take_step(
        self, batches: Batches, states: States | None, *, wishes: tuple[bool, bool]
    ) -> tuple[dict[str, float], list[bool]]:
        """Update the weights once; metrics, and the wishes of all workers."""
        step = self.step
        rate = learning_rate(self.training, step)
        set_learning_rate(self.optimizer, rate)
        batch, losses = self._accumulate(batches)
        if self._is_sharded:
            free_gathered(self.model)  # gradients are summed already; they and the weights are shares again
        else:
            sum_gradients(self.model.parameters())
        if isinstance(self.optimizer, BackwardOptimizer):
            norm = self.optimizer.step()
        else:
            norm = clip_gradients(self.model.parameters(), self.training.max_grad_norm)
            self.optimizer.step()
        self.terms.after_step()
        try:
            metrics, agreed = self.record.add(step, losses, norm, num_tokens(batch), wishes=wishes)
        except DivergedError:
            if states is not None:
                states.remove()  # from there it would diverge again
            raise
        metrics["learning_rate"] = rate
        return metrics, agreed

    def _accumulate(self, batches: Batches) -> tuple[TrainBatch, StepLosses]:
        """Gradients of the step under way, in passes that fit into memory."""
        step, optimizer = self.step, self.optimizer
        in_backward = optimizer if isinstance(optimizer, BackwardOptimizer) else None
        compares = step % self.record.cosine_every == 0

        def attempt(sizes: Sizes) -> tuple[TrainBatch, StepLosses]:
            seed_step(self.device, self.seed, step)
            optimizer.zero_grad(set_to_none=True)
            is_asked = sizes.num_halvings > 0 or self.runtime.micro_batch_size is not None
            rows = batches.batch(step, micro_batch_size=sizes.micro_batch_size if is_asked else None)
            batch = terms_of_step(rows, self.loss, step)
            self.terms.pair_chunk_size = sizes.pair_chunk_size
            if in_backward is not None:
                return batch, backward_with_updates(self.terms, batch, in_backward)
            return batch, self.terms.backward(batch, measure_cosine=compares)

        def can_retry() -> bool:
            return not self._is_sharded and (in_backward is None or not in_backward.has_stepped)

        found, sizes = fit_sizes(attempt, self.sizes, model=self.model, device=self.device, can_retry=can_retry)
        if sizes != self.sizes:
            self._notes.append(
                f"memory ran out in step {step}: passes of {sizes.micro_batch_size} instructions and "
                f"{sizes.pair_chunk_size} pairs from there on"
            )
            logger.warning(self._notes[-1])
            self.sizes = sizes
        return found

    def _save(self, states: States) -> None:
        parts = {
            "model": trained_weights(self.model),
            "optimizer": self.optimizer.state_dict(),
            "loss": self.terms.state_dict(),
        }
        sizes = dataclasses.asdict(self.sizes)
        notes = [*self._notes, *states.notes]
        states.save(self.step, parts, {"sums": self.record.state(), "sizes": sizes, "notes": notes})

    def _resume(self, states: States) -> None:
        found = states.load_latest()
        if found is None:
            return
        set_weights(self.model, found.parts["model"])
        self.optimizer.load_state_dict(found.parts["optimizer"])
        self.terms.load_state_dict(found.parts["loss"])
        self.record.restore(found.step, found.record["sums"])
        kept = Sizes(**found.record["sizes"])
        self.sizes = Sizes(
            min(kept.micro_batch_size, self.sizes.micro_batch_size),
            min(kept.pair_chunk_size, self.sizes.pair_chunk_size),
            kept.num_halvings,
        )
        self._notes = list(found.record["notes"])
        self.step = found.step

    def _summary(self, states: States | None, seconds: float) -> TrainingSummary:
        notes = [*self._notes, *(states.notes if states is not None else [])]
        return self.record.summary(
            seconds,
            steps=self.step,
            trainable_parameters=self._num_trainable,
            notes=tuple(notes),
            **dataclasses.asdict(self.sizes),
        )


def _identity(
    model: CausalModel, loss: LossConfig, training: TrainingConfig, *, seed: int, trial_id: str
) -> dict[str, Any]:
    """What a state and the run that uses it must have in common."""
    weights = trained_weights(model)
    return {
        "version": __version__,
        "trial": trial_id,
        "seed": seed,
        "loss": loss.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "weights": {name: [list(value.shape), str(value.dtype)] for name, value in weights.items()},
    }


def terms_of_step(batch: TrainBatch, loss: LossConfig, step: int) -> TrainBatch:
    """The rows that a step trains on: all of them, or with terms in turns those of its term alone.

    The order of the rows is that of the joint schedule: what a step leaves out is passed over, not kept for the next.

    Args:
        batch: rows of both terms.
        loss: `alternate` takes instructions in even steps and pairs in odd ones, where both terms are on.
        step: 0-based.
    """
    if not _alternates(loss):
        return batch
    return replace(batch, pairs=None) if step % 2 == 0 else replace(batch, instructions=(), num_supervised=0)


def _alternates(loss: LossConfig) -> bool:
    return loss.schedule == "alternate" and loss.contrastive_weight > 0 and loss.instruction_weight > 0


def _first_sizes(training: TrainingConfig, runtime: TrainingRuntime) -> Sizes:
    """What was asked for, at most a worker's share of a step."""
    share, pair_share = training.batch_size // world_size(), training.num_pairs_per_step // world_size()
    return Sizes(
        max(1, min(runtime.micro_batch_size or share, share)),
        max(1, min(runtime.pair_chunk_size or pair_share, pair_share)),
    )


def num_tokens(batch: TrainBatch) -> int:
    """Real tokens of a batch: both sides of its pairs and its instructions."""
    rows = [pack_instructions(rows) for rows in batch.instructions]
    if batch.pairs is not None:
        rows.append(pack_pairs(batch.pairs))
    return sum(row.num_tokens for row in rows)
