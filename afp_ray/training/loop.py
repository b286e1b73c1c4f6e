"""The training loop: batches in, updated weights and a summary out; a stop anywhere changes neither."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from afp_ray import __version__
from afp_ray.config.loss import LossConfig
from afp_ray.config.runtime import TrainingRuntime
from afp_ray.config.training import TrainingConfig
from afp_ray.data.batches import TrainBatch
from afp_ray.errors import DivergedError, TrainingInterruptedError
from afp_ray.models.adapters import num_trainable
from afp_ray.models.compiling import Compiling, compiled_blocks, judge_compiling
from afp_ray.models.cuda_graphs import cuda_graphs
from afp_ray.models.hidden_states import CausalModel
from afp_ray.records import Host, TrainingSummary
from afp_ray.store import TrialPaths
from afp_ray.training.captured_step import CapturedStep, CaptureRefusedError, StepForm, refuses_capture_of
from afp_ray.training.curves import Curve, Record, StepTrace, lag_on
from afp_ray.training.gather import rank, sum_gradients, world_size
from afp_ray.training.oom_retry import Sizes, fit_sizes
from afp_ray.training.optimizer import (
    BackwardOptimizer,
    backward_with_updates,
    clip_gradients,
    describe_update,
    make_optimizer,
    set_learning_rate,
)
from afp_ray.training.packed_rows import num_tokens
from afp_ray.training.schedule import alternates, learning_rate, terms_of_step
from afp_ray.training.setup import copies_for, own_random_state, prepared, seed_step, train_mode
from afp_ray.training.sharding import free_gathered
from afp_ray.training.state import States, set_weights, trained_weights
from afp_ray.training.step import StepLosses, TrainingStep
from afp_ray.training.step_inputs import BUCKETS

logger = logging.getLogger(__name__)

IsRung = Callable[[int, int], bool]
"""Whether a training may pause, from the steps and the tokens of all workers that are done."""


class Batches(Protocol):
    """Random access to what each step trains on."""

    def batch(self, step: int, *, micro_batch_size: int | None = None) -> TrainBatch:
        """Give the rows of this worker for one step; equal steps give equal rows.

        Args:
            step: 0-based.
            micro_batch_size: instructions of one forward pass; None leaves it to the batches.
        """
        ...


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """What is trained, whatever machine does it: together with the rows it decides every weight.

    Attributes:
        loss: weights and shape of the two terms.
        training: optimizer, schedule, steps, precision.
        seed: of dropout and of the adapters' first weights.
        trial_id: content address of the trial; a state of another one is not used.
        is_rung: true saves the state and returns, with `steps` of the summary below `max_steps`. The next call goes on
            from there. None trains to the end.
    """

    loss: LossConfig
    training: TrainingConfig
    seed: int = 0
    trial_id: str = ""
    is_rung: IsRung | None = None

    def identity(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """What a state and the training that goes on from it must have in common."""
        return {
            "version": __version__,
            "trial": self.trial_id,
            "seed": self.seed,
            "loss": self.loss.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
            "weights": {name: [list(value.shape), str(value.dtype)] for name, value in weights.items()},
        }


def train(
    model: CausalModel,
    batches: Batches,
    request: TrainingRequest,
    host: Host,
    *,
    paths: TrialPaths | None = None,
    form: StepForm | None = None,
) -> TrainingSummary:
    """Train `model` in place for `max_steps` steps; inside a process group every worker calls this alike.

    Dropout is drawn from the seed, the step and the worker's rank; the global random state is left as it was. After an
    error the weights are of no use, but what `paths.states` holds is: the next call goes on from there, with the
    weights, losses and summary of a training that was never stopped (bit for bit on the CPU).

    Args:
        model: float32 weights, on the device that trains them.
        batches: this worker's share of every step.
        request: loss, optimizer, seed, and where to pause.
        host: its reporter hears of every step: losses of its terms, learning rate, gradient norm, tokens per second,
            memory. Its `stop` is asked after every step; true on any worker saves the state and stops all of them.
        paths: where states, curve and trace go; None keeps none of them.
        form: how steps are computed; None leaves all of it to the device and to `host.runtime.step`. States of every
            form are those of the others.
    Returns: losses are means over the steps of the last tenth that had the term; `gpu_hours` is that of earlier
        attempts, `dropped_tokens` is the caller's to fill.
    Raises: DivergedError with the step at which a loss or the gradient's norm is not finite; its states are removed.
        TrainingInterruptedError when `stop` said so.
    """
    training, runtime, seed = request.training, host.runtime, request.seed
    if training.max_steps == 0:
        return TrainingSummary(steps=0)
    device = next(model.parameters()).device
    with train_mode(model), own_random_state(device), prepared(model, training, runtime, seed=seed) as trained:
        states = None
        may_pause = host.stop is not None or request.is_rung is not None
        if paths is not None and (may_pause or runtime.checkpoint_every_s is not None):
            identity = request.identity(trained_weights(trained))
            states = States(paths.states, identity=identity, keep_last=runtime.keep_last, model=trained, device=device)
        tokens = training.max_steps * num_tokens(batches.batch(0)) if runtime.step == "graph" else 0
        compiling = judge_compiling(trained, runtime.step, device, tokens)
        with compiled_blocks(trained, is_asked=compiling.is_on):
            loop = _Loop(trained, request, host, states=states, form=form or StepForm(), compiling=compiling)
            return loop.run(batches, paths if rank() == 0 else None)


class _Loop:
    """Model, optimizer and sums of one training, and the step that moves them on.

    Attributes:
        step: steps that are done.
    """

    def __init__(
        self,
        model: CausalModel,
        request: TrainingRequest,
        host: Host,
        *,
        states: States | None,
        form: StepForm,
        compiling: Compiling,
    ) -> None:
        training, loss = request.training, request.loss
        self.model, self.request, self.host, self.states = model, request, host, states
        self.device = device = next(model.parameters()).device
        self.step, self._is_compiled = 0, compiling.is_on
        self._notes: list[str] = []
        self.record = Record(training.max_steps, device, period=2 if alternates(loss) else 1)
        self.sizes = _first_sizes(training, host.runtime)
        self.terms = TrainingStep(
            model,
            loss,
            device=device,
            is_bf16=training.precision == "bf16",
            is_compiled=compiling.is_on,
        )
        self.copies, self._computed_from = copies_for(model, training, host.runtime, device, is_asked=form.uses_copies)
        obstacle = refuses_capture_of(self.terms, training, host.runtime, form.record)
        self.optimizer = make_optimizer(
            model,
            training,
            device,
            seed=request.seed,
            copies=self.copies,
            is_capturable=obstacle is None and device.type == "cuda",
        )
        if (how := describe_update(self.optimizer)) is not None:
            self._computed_from += f", updated {how}"
        if compiling.because is not None:
            self._computed_from += f", {compiling.because}"
        self._captured: CapturedStep | None = None
        if obstacle is None:
            self._captured = CapturedStep(
                self.terms,
                self._update,
                record=form.record or cuda_graphs(),
                granularity=dataclasses.replace(BUCKETS, longest=training.max_length),
            )
        elif host.runtime.step == "graph":
            self._leave_capture(obstacle)
        # With a rung the tokens of all workers have to be there at every step.
        waits = request.is_rung is not None and world_size() > 1
        self._lag = 0 if waits else form.lag if form.lag is not None else lag_on(device)
        self._num_trainable = num_trainable(model)
        self._is_sharded = any(isinstance(value, DTensor) for value in model.parameters())

    def run(self, batches: Batches, paths: TrialPaths | None) -> TrainingSummary:
        """Do the steps that are left, or those up to a rung."""
        max_steps, every_s = self.request.training.max_steps, self.host.runtime.checkpoint_every_s
        self._resume()
        start, saved_at = self.step, time.monotonic()
        curve = Curve(paths.curve if paths else None, max_steps, start=start)
        trace = StepTrace(
            paths.trace if paths else None,
            num_steps=self.host.runtime.profile_steps,
            start=start,
            max_steps=max_steps,
            device=self.device,
        )
        copies = contextlib.nullcontext() if self.copies is None else contextlib.closing(self.copies)
        with contextlib.closing(trace), contextlib.closing(curve), copies:
            while self.step < max_steps and not self._is_at_rung():
                trace.before(self.step)
                is_due = every_s is not None and time.monotonic() - saved_at >= every_s
                is_asked_to_stop = self.host.stop is not None and self.host.stop()
                self._take_step(batches, wishes=(is_due, is_asked_to_stop))
                trace.after(self.step)
                self.step += 1
                saves, stops = self._hear(curve, lag=self._lag)
                if (saves or stops) and self.step < max_steps:
                    self._hear(curve, lag=0)
                    self._save(curve)
                    saved_at = time.monotonic()
                if stops and self.step < max_steps:
                    raise TrainingInterruptedError(self.step)
            self._hear(curve, lag=0)
            seconds = self.record.seconds  # as the state has it: what saving takes is the trial's, not the training's
            if start < self.step < max_steps:
                self._save(curve)
        self.optimizer.zero_grad(set_to_none=True)
        if isinstance(self.optimizer, BackwardOptimizer):
            self.optimizer.close()  # its hooks would keep the moments as long as the weights
        return self._summary(seconds)

    def _is_at_rung(self) -> bool:
        is_rung = self.request.is_rung
        return is_rung is not None and is_rung(self.step, self.record.tokens)

    def _take_step(self, batches: Batches, *, wishes: tuple[bool, bool]) -> None:
        """Update the weights once.

        Args:
            batches: this worker's rows.
            wishes: whether this worker wants the state to be saved, and the training to stop.
        """
        rate = learning_rate(self.request.training, self.step)
        set_learning_rate(self.optimizer, rate)
        if self._captured is not None and not self._captured.has_begun:
            self._captured.begin(self._batch(batches, self.sizes))
        batch, losses, norm = self._take_captured(batches) or self._take_eagerly(batches)
        self.record.add(self.step, losses, norm, num_tokens(batch), wishes=wishes, learning_rate=rate)

    def _hear(self, curve: Curve, *, lag: int) -> tuple[bool, bool]:
        """Tell of steps whose numbers are there, all but the last `lag`.

        Returns: whether some worker wants the state to be saved, and the training to stop. A wish of one holds for all:
            they save and stop at one step, or would wait for each other.
        Raises: DivergedError; states are removed then.
        """
        saves = stops = False
        try:
            for completed in self.record.completed(lag=lag):
                curve.add(completed.step, completed.metrics)
                max_steps = self.request.training.max_steps
                self.host.reporter.report("train", completed.step + 1, max_steps, completed.metrics)
                saves, stops = saves or completed.wishes[0], stops or completed.wishes[1]
        except DivergedError:
            if self.states is not None:
                self.states.remove()  # from there it would diverge again
            raise
        return saves, stops

    def _take_captured(self, batches: Batches) -> tuple[TrainBatch, StepLosses, Tensor] | None:
        """A step by replaying what was recorded; None where it has to be taken eagerly."""
        if self._captured is None or self._compares:
            return None
        batch = self._batch(batches, self.sizes)
        try:
            return batch, *self._captured.take(batch, seed=self._seed)
        except (CaptureRefusedError, torch.OutOfMemoryError) as error:
            self._leave_capture(str(error).splitlines()[0])
            return None

    def _leave_capture(self, reason: str) -> None:
        """Take all further steps eagerly, and say so."""
        self._notes.append(f"steps are not captured from step {self.step} on: {reason}")
        logger.warning(self._notes[-1])
        self._captured = None

    def _take_eagerly(self, batches: Batches) -> tuple[TrainBatch, StepLosses, Tensor]:
        batch, losses = self._accumulate(batches)
        if self._captured is not None:
            return batch, losses, self._captured.update()
        if self._is_sharded:
            free_gathered(self.model)  # gradients are summed already; they and the weights are shares again
        else:
            sum_gradients(self.model.parameters())
        norm = self.optimizer.step() if isinstance(self.optimizer, BackwardOptimizer) else self._update()
        self.terms.after_step()
        return batch, losses, norm

    def _update(self) -> Tensor:
        """Clip the gradients and update the weights; () the norm before."""
        assert not isinstance(self.optimizer, BackwardOptimizer)
        norm = clip_gradients(self.model.parameters(), self.request.training.max_grad_norm)
        self.optimizer.step()
        return norm

    @property
    def _form(self) -> str:
        """How steps are taken at the end, as `runtime.step` names it."""
        if self._is_compiled:
            return "compile"
        return "graph" if self._captured is not None and self._captured.has_replayed else "eager"

    @property
    def _compares(self) -> bool:
        """Whether the gradients of the two terms are compared in this step."""
        return self.step % self.record.cosine_every == 0

    def _seed(self) -> None:
        seed_step(self.device, self.request.seed, self.step)

    def _batch(self, batches: Batches, sizes: Sizes) -> TrainBatch:
        is_asked = sizes.num_halvings > 0 or self.host.runtime.micro_batch_size is not None
        rows = batches.batch(self.step, micro_batch_size=sizes.micro_batch_size if is_asked else None)
        return terms_of_step(rows, self.request.loss, self.step)

    def _accumulate(self, batches: Batches) -> tuple[TrainBatch, StepLosses]:
        """Gradients of the step under way, in passes that fit into memory."""
        step, optimizer = self.step, self.optimizer
        in_backward = optimizer if isinstance(optimizer, BackwardOptimizer) else None

        def attempt(sizes: Sizes) -> tuple[TrainBatch, StepLosses]:
            self._seed()
            if self._captured is None:
                optimizer.zero_grad(set_to_none=True)
            batch = self._batch(batches, sizes)
            self.terms.pair_chunk_size = sizes.pair_chunk_size
            if in_backward is not None:
                return batch, backward_with_updates(self.terms, batch, in_backward)
            return batch, self.terms.backward(batch, measure_cosine=self._compares)

        def can_retry() -> bool:
            return not self._is_sharded and (in_backward is None or not in_backward.has_stepped)

        result, sizes = fit_sizes(attempt, self.sizes, model=self.model, device=self.device, can_retry=can_retry)
        if sizes != self.sizes:
            self._notes.append(
                f"memory ran out in step {step}: passes of {sizes.micro_batch_size} instructions and "
                f"{sizes.pair_chunk_size} pairs from there on"
            )
            logger.warning(self._notes[-1])
            self.sizes = sizes
            if self._captured is not None:
                self._leave_capture("passes became smaller")
        return result

    def _save(self, curve: Curve) -> None:
        """Keep what the next attempt goes on from, where states are kept; the curve up to here goes before it."""
        if self.states is None:
            return
        curve.flush()
        parts = {
            "model": trained_weights(self.model),
            "optimizer": self.optimizer.state_dict(),
            "loss": self.terms.state_dict(),
        }
        sizes = dataclasses.asdict(self.sizes)
        notes = [*self._notes, *self.states.notes]
        self.states.save(self.step, parts, {"sums": self.record.state(), "sizes": sizes, "notes": notes})

    def _resume(self) -> None:
        """Go on from the latest state; passes are as small as memory asked for before, or smaller."""
        state = self.states.load_latest() if self.states is not None else None
        if state is None:
            return
        set_weights(self.model, state.parts["model"])
        if self.copies is not None:
            self.copies.renew()
        self.optimizer.load_state_dict(state.parts["optimizer"])
        self.terms.load_state_dict(state.parts["loss"])
        self.record.restore(state.step, state.record["sums"])
        saved = Sizes(**state.record["sizes"])
        self.sizes = Sizes(
            min(saved.micro_batch_size, self.sizes.micro_batch_size),
            min(saved.pair_chunk_size, self.sizes.pair_chunk_size),
            saved.num_halvings,
        )
        self._notes = list(state.record["notes"])
        self.step = state.step

    def _summary(self, seconds: float) -> TrainingSummary:
        notes = [*self._notes, *(self.states.notes if self.states is not None else [])]
        return self.record.summary(
            seconds,
            steps=self.step,
            trainable_parameters=self._num_trainable,
            computed_from=self._computed_from,
            step_form=self._form,
            notes=tuple(notes),
            **dataclasses.asdict(self.sizes),
        )


def _first_sizes(training: TrainingConfig, runtime: TrainingRuntime) -> Sizes:
    """What was asked for, at most a worker's share of a step."""
    share, pair_share = training.batch_size // world_size(), training.num_pairs_per_step // world_size()
    return Sizes(
        max(1, min(runtime.micro_batch_size or share, share)),
        max(1, min(runtime.pair_chunk_size or pair_share, pair_share)),
    )
