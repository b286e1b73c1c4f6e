"""A step as a few launches: each of its passes is recorded once for a shape, and then replayed at fixed addresses.

On a small batch a GPU waits for Python, which launches thousands of kernels a step. A recording launches all of them at
once. One is made for each shape that a pass meets (`step_inputs` makes few of them), and one for the update:

    pairs         host, in a bucket --copy--> inputs of the recording --replay--> gradients, loss
    instructions  likewise, for each micro-batch
    exchange      gradients are summed over the workers, where there are several
    update        --replay--> norm, clipping, new weights, gradients of zero

What is recorded proves itself first. Its batch is computed in three ways: as it came, filled up, and replayed. The
recording serves only where losses and norms agree within rounding; else CaptureRefusedError says why, and the steps go
on as without it. Between two steps all gradients are zero, so that a proof leaves nothing behind.

Source: CUDA graphs, https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from afp_ray.config.runtime import TrainingRuntime
from afp_ray.config.training import TrainingConfig
from afp_ray.data.batches import TrainBatch
from afp_ray.models.cuda_graphs import Recorder
from afp_ray.models.packed_attention import NoVarlenError
from afp_ray.models.packing import lengths_of
from afp_ray.training.gather import sum_gradients, world_size
from afp_ray.training.optimizer import refuses_capture
from afp_ray.training.step import StepLosses, TrainingStep
from afp_ray.training.step_inputs import (
    EXACT,
    Granularity,
    InstructionInputs,
    PairInputs,
    instruction_inputs_of,
    map_tensors,
    pair_inputs,
    tensors_of,
)

PassInputs: TypeAlias = PairInputs | InstructionInputs
LOSS_TOLERANCE, NORM_TOLERANCE = 2e-3, 2e-2
"""Relative differences that rounding to bf16 makes of a loss and of a gradient's norm; a wrong token makes more."""


@dataclass(frozen=True, slots=True)
class StepForm:
    """How the steps of a training are computed; None leaves it to the device.

    Attributes:
        uses_copies: with `precision` bf16, whether matrices are cast once a step rather than in every forward.
        lag: steps whose numbers are not waited for.
        record: captures steps on any device, by this.
    """

    uses_copies: bool | None = None
    lag: int | None = None
    record: Recorder[None] | None = None


class CaptureRefusedError(Exception):
    """A step cannot be recorded, or its recording computes something else; the text says why."""


def refuses_capture_of(
    terms: TrainingStep, training: TrainingConfig, runtime: TrainingRuntime, record: Recorder[None] | None
) -> str | None:
    """Why the steps of a training are not captured; None where they are.

    Args:
        terms: of the training.
        training, runtime: say what a step consists of, and whether it is to be captured.
        record: what makes the recordings where a caller asks for them by it, on any device.
    Returns: a reason in words.
    """
    loss, model = terms.loss, terms.model
    if record is None:
        if runtime.step not in ("graph", "compile"):
            return "runtime.step does not ask for it"
        if terms.device.type != "cuda":
            return f"the device is {terms.device.type}, not CUDA"
        if training.precision != "bf16":
            return f"precision is {training.precision}, and attention that reads bounds on the device takes 16 bits"
    if loss.negatives == "queue" and loss.contrastive_weight > 0:
        return "the queue of negatives grows from step to step"
    if loss.schedule == "alternate":
        return "steps alternate between the terms"
    if world_size() > 1 and loss.contrastive_weight > 0:
        return "pairs are exchanged between workers in the middle of a pass"
    if runtime.sharding == "full":
        return "weights are shared out among workers"
    if runtime.gradient_checkpointing:
        return "blocks are run again in the backward pass"
    if runtime.profile_steps > 0:
        return "steps are profiled"
    if terms.padded_because is not None:
        return terms.padded_because
    if lengths_of(model).longest_plain < training.max_length:
        return "long texts have other rotary frequencies than short ones"
    if runtime.pair_chunk_size is not None and runtime.pair_chunk_size < training.num_pairs_per_step // world_size():
        return "pairs are taken in chunks"
    return refuses_capture(training)


class CapturedStep:
    """Takes whole steps of one training by replaying what was recorded.

    Args:
        terms: computes a pass; its model is on `terms.device`, in train mode.
        update: clips the gradients, updates the weights and gives the () norm before; waits for no device.
        record: makes the recordings.
        granularity: of their shapes, with `longest`.
    """

    def __init__(
        self, terms: TrainingStep, update: Callable[[], Tensor], *, record: Recorder[None], granularity: Granularity
    ) -> None:
        self.terms, self._update, self._record, self._granularity = terms, update, record, granularity
        self._passes: dict[Hashable, _RecordedPass] = {}
        self._replay_update: Callable[[], None] | None = None
        self._norm = torch.zeros((), device=terms.device)
        self._kinds: tuple[type[PassInputs], ...] = ()
        self._gradients: list[Tensor] = []

    @property
    def has_replayed(self) -> bool:
        """Whether a step was taken; a short training compares the gradients of its terms in every step, eagerly."""
        return bool(self._passes)

    @property
    def has_begun(self) -> bool:
        """Whether gradients have their addresses."""
        return bool(self._gradients)

    def begin(self, batch: TrainBatch) -> None:
        """Find out which weights get gradients, and allocate those; the others get none, and are not moved.

        Args:
            batch: of the first step, whatever form that has; its terms are those of every step.
        """
        self.terms.model.zero_grad(set_to_none=True)
        exact = self._inputs(batch, EXACT)
        for inputs in exact:
            self._run(inputs)
        self._gradients = [value.grad for value in self.terms.model.parameters() if value.grad is not None]
        self._kinds = _kinds_of(exact)
        self.clear()

    def take(self, batch: TrainBatch, *, seed: Callable[[], None]) -> tuple[StepLosses, Tensor]:
        """Take a step.

        Args:
            batch: this worker's rows.
            seed: seeds what dropout draws from, for this step.
        Returns: this worker's losses, and the () norm of the whole gradient.
        Raises: CaptureRefusedError before anything is updated; gradients are zero then.
        """
        inputs = self._inputs(batch, self._granularity)
        if _kinds_of(inputs) != self._kinds:
            raise CaptureRefusedError("a step has not both of the terms that the first one had")
        exact: Sequence[PassInputs] = ()
        for index, made in enumerate(inputs):
            if _shape_of(made) not in self._passes:
                exact = exact or self._inputs(batch, EXACT)
                self._passes[_shape_of(made)] = self._recorded(made, exact[index], seed)
        seed()
        losses: dict[type[PassInputs], Tensor] = {}
        for made in inputs:
            value = self._passes[_shape_of(made)].replay(made)
            losses[type(made)] = losses[type(made)] + value if type(made) in losses else value.clone()
        return StepLosses(losses.get(PairInputs), losses.get(InstructionInputs), None), self.update()

    def update(self) -> Tensor:
        """Exchange the gradients that there are, update the weights, and leave gradients of zero.

        Returns: () norm of the whole gradient.
        """
        sum_gradients(self.terms.model.parameters())
        if self._replay_update is None:
            self._replay_update = self._record(self._update_in_place)  # whose first run is this step's own
        else:
            self._replay_update()
        return self._norm.clone()

    def clear(self) -> None:
        """Set the gradients to zero where they are."""
        if self._gradients:
            torch._foreach_zero_(self._gradients)

    def _update_in_place(self) -> None:
        self._norm.copy_(self._update())
        self.clear()

    def _inputs(self, batch: TrainBatch, granularity: Granularity) -> list[PassInputs]:
        """Pairs first, then every micro-batch."""
        loss = self.terms.loss
        made: list[PassInputs] = []
        if batch.pairs is not None and loss.contrastive_weight > 0:
            made.append(pair_inputs(batch.pairs, granularity))
        if self.terms.head is not None:
            made += instruction_inputs_of(batch, granularity)
        if granularity is EXACT:
            return made
        assert granularity.longest is not None
        return [_in_bucket(inputs, granularity.longest) for inputs in made]

    def _run(self, inputs: PassInputs) -> Tensor:
        if isinstance(inputs, PairInputs):
            return self.terms.contrastive.pass_backward(inputs)
        return self.terms.instruction_pass(inputs)

    def _recorded(self, made: PassInputs, exact: PassInputs, seed: Callable[[], None]) -> "_RecordedPass":
        """A recording that was seen to compute what it should."""
        model = self.terms.model
        try:
            model.eval()  # without dropout, whose draws depend on the shape
            as_it_came, filled_up = (self._measured(partial(self._run, rows)) for rows in (exact, made))
            model.train()
            self.clear()
            seed()
            recorded = _RecordedPass(self._run, made, self._record, self.terms.device)
            first = self._taken(recorded.loss)
            seed()
            again = self._measured(lambda: recorded.replay(made))
        except (RuntimeError, NoVarlenError) as error:
            raise CaptureRefusedError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
        finally:
            model.train()
            self.clear()
        _require_equal(filled_up, as_it_came, "filled up to its bucket")
        _require_equal(again, first, "replayed")
        return recorded

    def _measured(self, run: Callable[[], Tensor]) -> tuple[float, float]:
        self.clear()
        return self._taken(run())

    def _taken(self, loss: Tensor) -> tuple[float, float]:
        """Loss of a pass, and the norm of the gradients that it left."""
        return float(loss), float(nn.utils.get_total_norm(self._gradients))


class _RecordedPass:
    """One pass, recorded for inputs of one shape.

    Args:
        run: computes a pass and adds its gradients.
        inputs: of the shape; the first run is theirs.
        record: makes the recording.
        device: of the model.
    """

    def __init__(
        self, run: Callable[[PassInputs], Tensor], inputs: PassInputs, record: Recorder[None], device: torch.device
    ) -> None:
        self._inputs = map_tensors(inputs, lambda value, _: torch.empty_like(value, device=device))
        self.loss = torch.zeros((), device=device)
        self._fill(inputs)

        def run_in_place() -> None:
            self.loss.copy_(run(self._inputs))

        self._replay = record(run_in_place)

    def replay(self, inputs: PassInputs) -> Tensor:
        """Add the gradients of these inputs; () their loss, until the next replay."""
        self._fill(inputs)
        self._replay()
        return self.loss

    def _fill(self, inputs: PassInputs) -> None:
        for own, value in zip(tensors_of(self._inputs), tensors_of(inputs), strict=True):
            is_on_cuda = own.device.type == "cuda" and value.device.type == "cpu"
            own.copy_(value.pin_memory() if is_on_cuda else value, non_blocking=True)


def _in_bucket(inputs: PassInputs, longest: int) -> PassInputs:
    """The inputs with all that the host knows of them in tensors."""
    row = inputs.row.in_bucket(longest)
    if isinstance(inputs, PairInputs):
        return replace(inputs, row=row)
    return replace(inputs, row=row, num_supervised=torch.tensor(inputs.num_supervised))


def _kinds_of(inputs: Sequence[PassInputs]) -> tuple[type[PassInputs], ...]:
    return tuple(dict.fromkeys(type(made) for made in inputs))


def _shape_of(inputs: PassInputs) -> Hashable:
    return type(inputs), tuple(value.shape for value in tensors_of(inputs))


def _require_equal(measured: tuple[float, float], expected: tuple[float, float], how: str) -> None:
    """Refuse a loss and a norm that differ by more than rounding.

    Raises: CaptureRefusedError.
    """
    for name, value, other, tolerance in zip(
        ("loss", "gradient norm"), measured, expected, (LOSS_TOLERANCE, NORM_TOLERANCE), strict=True
    ):
        # Written so that a value that is no number is refused, too.
        if not abs(value - other) <= tolerance * max(abs(other), 1e-3):
            raise CaptureRefusedError(f"a pass that is {how} has a {name} of {value:.6g}, not {other:.6g}")
