"""The GPU memory that a trial takes, computed from its configuration, and what of a batch fits a card.

    weights, moments    stand from the first step to the last
    gradients           stand from the first pass of a step to its update
    a pass              what its forward saves, the projection onto the vocabulary, and a block at work

A step takes the first two and the larger of its passes: pairs, then each micro-batch of instructions. All texts are
taken to be as long as `max_length` lets them be, so that what fits here fits whatever the rows of a step are. Figures
are bounds of what tensors take, up to a fifth above what was measured on a card; the libraries' own memory and the gaps
between tensors are `RESERVED_BYTES` and `SPARE_SHARE`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from afp_ray.config import RuntimeConfig, TrainingConfig, TrainingRuntime, TrialConfig
from afp_ray.planning.costs import Measured
from afp_ray.records.plans import PlannedMemory

if TYPE_CHECKING:
    from afp_ray.models.footprint import Footprint, Saved

RESERVED_BYTES = 750_000_000
"""Context, code and workspaces of CUDA in a process; of every trial on a card."""
SPARE_SHARE = 0.06
"""Of a card, for the gaps that the allocator leaves between tensors."""
_CHUNK_ELEMENTS = 2**27
"""Logits at a time on a GPU, as afp_ray.losses has it."""
_COMPARISON_COPIES = 4
"""Of the largest gradient, while the gradients of two terms are compared: their difference, and three products."""
_CAPTURED = ("graph", "compile")
_BUCKETS = {"tokens": 512, "supervised": 256, "pair_tokens": 128}
"""To multiples of which captured passes are filled up, as afp_ray.training.step_inputs has it."""
_SIMILARITY_BYTES = 17
"""Of each pair of rows that are compared: products, scaled, masked and normalised ones in float32, and a mask."""


@dataclass(frozen=True, slots=True)
class PerWeight:
    """Bytes of each weight.

    Attributes:
        weight: of every one, trained or not.
        moments: of a trained one, with the bits that bf16 lost.
        gradient: of a trained one.
    """

    weight: int
    moments: int
    gradient: int


def bytes_per_weight(training: TrainingConfig) -> PerWeight:
    """Weight, state of the optimizer and gradient, as the table in afp_ray.training.optimizer has them."""
    if training.precision != "bf16_resident":
        return PerWeight(4, 8, 4)
    return PerWeight(2, 6 if training.rounding == "compensated" else 4, 2)


@dataclass(frozen=True, slots=True)
class PassSizes:
    """What one worker computes at a time.

    Attributes:
        instructions, pairs: of a forward pass; 0 where the term is off.
    """

    instructions: int
    pairs: int


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """The memory of one worker of a trial.

    Attributes:
        config: the trial.
        footprint: of its model, at its length, layer, precision and adapters.
        runtime: sizes of the passes, gradient checkpointing, sharding.
        num_workers: workers that share the batch.
        scale: what a pass takes for each byte that is computed; 1 until something was measured.
    """

    config: TrialConfig
    footprint: "Footprint"
    runtime: TrainingRuntime
    num_workers: int = 1
    scale: float = 1.0

    @property
    def whole(self) -> PassSizes:
        """A worker's share of the batch in one pass."""
        training, loss = self.config.training, self.config.loss
        return PassSizes(
            max(1, training.batch_size // self.num_workers) if loss.instruction_weight > 0 else 0,
            max(1, training.num_pairs_per_step // self.num_workers) if loss.contrastive_weight > 0 else 0,
        )

    @property
    def asked(self) -> PassSizes:
        """The passes that the study asks for."""
        whole, runtime = self.whole, self.runtime
        return PassSizes(
            min(runtime.micro_batch_size or whole.instructions, whole.instructions),
            min(runtime.pair_chunk_size or whole.pairs, whole.pairs),
        )

    @property
    def has_copies(self) -> bool:
        """Whether bf16 copies of matrices stand between passes, and not from a forward to its backward pass alone."""
        training = self.config.training
        is_whole = self.runtime.sharding == "none"
        return training.precision == "bf16" and is_whole and not training.optimizer_in_backward

    @property
    def standing(self) -> int:
        """Bytes of weights, their copies and the state of the optimizer: what is there between two steps."""
        shape, loss, each = self.footprint, self.config.loss, bytes_per_weight(self.config.training)
        standing = shape.num_weights * each.weight + shape.num_trained * each.moments
        if self.has_copies:
            standing += shape.whole.fixed
        if self.runtime.sharding == "full" and self.num_workers > 1:
            blocks = shape.num_weights - shape.vocab_size * shape.hidden_size
            gathered = shape.vocab_size * shape.hidden_size + 2 * blocks // shape.num_layers
            standing = standing // self.num_workers + gathered * each.weight
        if loss.contrastive_weight > 0 and loss.negatives == "queue":
            standing += 4 * (shape.num_lower + loss.queue_size * shape.hidden_size * self._num_layers_of_loss)
        return standing

    def gradients(self, sizes: PassSizes) -> int:
        """Bytes of the gradients that stand at one time.

        Inside the backward pass the last pass has one gradient at a time, beside those of the passes before it. Where
        the terms are compared, the gradients of the contrastive term stand once more.
        """
        shape, training = self.footprint, self.config.training
        number = shape.num_trained
        if training.optimizer_in_backward and sizes == self.whole:
            before = shape.num_lower if sizes.instructions and sizes.pairs else 0
            number = min(number, before + shape.largest_weight)
        shares = self.num_workers if self.runtime.sharding == "full" else 1
        return (number + self._num_compared) * bytes_per_weight(training).gradient // shares

    def of_instructions(self, number: int) -> int:
        """Bytes of a pass of so many instructions, all as long as they may be."""
        if not number:
            return 0
        rows = self._filled_up(number * (self.config.training.max_length - 1), "supervised")
        return round(self.scale * (self._saved(self.footprint.whole, number, bucket="tokens") + self._head(rows)))

    def of_pairs(self, number: int) -> int:
        """Bytes of a pass of so many pairs, both sides as long as they may be, and of all similarities."""
        if not number:
            return 0
        loss, own = self.config.loss, self.whole.pairs
        candidates = own * self.num_workers + (loss.queue_size if loss.negatives == "queue" else 0)
        compared = own * candidates * self._num_layers_of_loss
        compared *= (2 if loss.symmetric else 1) * (2 if loss.negatives_from == "both" else 1)
        blocks = self._num_blocks_of_loss
        saved = self._saved(self.footprint.lower, 2 * number, bucket="pair_tokens", num_blocks=blocks)
        return round(self.scale * (saved + _SIMILARITY_BYTES * compared))

    def peak(self, sizes: PassSizes) -> int:
        """Bytes at the highest point of a step with passes of these sizes."""
        largest = self.footprint.largest_weight * bytes_per_weight(self.config.training).gradient
        comparison = _COMPARISON_COPIES * largest if self._num_compared else 0
        passes = max(self.of_instructions(sizes.instructions), self.of_pairs(sizes.pairs), comparison)
        return self.standing + self.gradients(sizes) + passes

    def largest(self, limit: int) -> PassSizes | None:
        """The largest passes whose step stays within `limit` bytes; None where passes of one row do not."""
        whole = self.whole
        if self.peak(whole) <= limit:
            return whole
        room = limit - self.standing - self.gradients(PassSizes(0, 0))
        found = PassSizes(
            _largest(self.of_instructions, whole.instructions, room), _largest(self.of_pairs, whole.pairs, room)
        )
        lacks = (whole.instructions and not found.instructions) or (whole.pairs and not found.pairs)
        return None if lacks or room < 0 else found

    def calibrated(self, measured: int, sizes: PassSizes) -> "MemoryModel":
        """The same with passes as large as `measured` bytes of a step at these sizes say, never smaller than computed.

        The rows of a probe are shorter than those that are computed, so that less was needed says nothing.
        """
        fixed = self.standing + self.gradients(sizes)
        computed = self.peak(sizes) - fixed
        return replace(self, scale=self.scale * max(1.0, (measured - fixed) / computed)) if computed > 0 else self

    @property
    def _num_compared(self) -> int:
        """Elements of the gradients that are copied in steps that compare those of the two terms."""
        loss, shape = self.config.loss, self.footprint
        has_both = loss.instruction_weight > 0 and loss.contrastive_weight > 0 and loss.schedule == "joint"
        if not has_both or self.config.training.optimizer_in_backward:
            return 0
        return min(shape.num_lower, shape.num_trained)

    @property
    def _num_blocks_of_loss(self) -> int:
        layer, num_layers = self.config.loss.layer, self.footprint.num_layers
        return layer if isinstance(layer, int) else num_layers // 2 if layer == "middle" else num_layers

    @property
    def _num_layers_of_loss(self) -> int:
        return self.footprint.num_layers + 1 if self.config.loss.layer == "all" else 1

    def _filled_up(self, count: int, bucket: str) -> int:
        """Tokens or positions of a pass, with those that fill up its bucket where steps are captured."""
        return math.ceil(count / _BUCKETS[bucket]) * _BUCKETS[bucket] if self.runtime.step in _CAPTURED else count

    def _saved(self, forward: "Saved", number: int, *, bucket: str, num_blocks: int | None = None) -> int:
        """What a forward of so many samples saves, and one block once more for the gradients of its states."""
        shape, length = self.footprint, self.config.training.max_length
        num_samples = math.ceil(self._filled_up(number * length, bucket) / length)
        at_work = shape.block.sample * num_samples
        # Of copies that stand, the gradients of one block, until they are added to the others.
        fixed = shape.block.fixed if self.has_copies else forward.fixed
        if not self.runtime.gradient_checkpointing:
            return fixed + forward.sample * num_samples + at_work
        blocks = shape.num_layers if num_blocks is None else num_blocks
        outside = max(0, forward.sample - blocks * shape.block.sample)
        return fixed + num_samples * (outside + blocks * shape.state + min(1, blocks) * shape.block.sample) + at_work

    def _head(self, rows: int) -> int:
        """The projection of so many supervised rows: gradients and copies of states and weights, a chunk of logits."""
        shape, precision = self.footprint, self.config.training.precision
        own, product = (2, 2) if precision == "bf16_resident" else (4, 2 if precision == "bf16" else 4)
        copied = 0 if own == product else product
        weights = shape.vocab_size * shape.hidden_size
        of_weights = weights * (copied + ((own + copied) if shape.is_head_trained else 0))
        at_a_time = max(1, _CHUNK_ELEMENTS // shape.vocab_size)
        # Logits, their float32 copy and log-probabilities; from the second chunk on the slope of the one before.
        each = product + 4 + (4 if product == 2 else 0) + (4 + copied if rows > at_a_time else 0)
        return (
            rows * shape.hidden_size * (own + own + copied)
            + of_weights
            + min(rows, at_a_time) * shape.vocab_size * each
        )


def _largest(bytes_of: Callable[[int], int], most: int, room: int) -> int:
    """The largest number up to `most` whose bytes stay within the room; 0 where one is too many."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if bytes_of(middle) <= room else (low, middle - 1)
    return low


def memory_model(
    config: TrialConfig, runtime: TrainingRuntime, *, num_workers: int = 1, shape: Any = None
) -> MemoryModel:
    """Compute the memory of a trial; no weight is read.

    Args:
        config: resolved.
        runtime: of its workers.
        num_workers: that share the batch.
        shape: a configuration of transformers in place of the checkpoint's own.
    Raises: ModelError for a checkpoint without a configuration that transformers knows.
    """
    from afp_ray.models.footprint import build_without_weights, footprint, from_shape

    training = config.training
    found = footprint(
        build_without_weights(config.model) if shape is None else from_shape(shape),
        length=training.max_length,
        layer=config.loss.layer,
        precision=training.precision,
        lora=training.lora,
        trainable=training.trainable,
    )
    return MemoryModel(config, found, runtime, num_workers)


def usable_bytes(card: int) -> int:
    """What tensors of one trial may take of a card that it has for itself."""
    return max(0, math.floor(card * (1 - SPARE_SHARE)) - RESERVED_BYTES)


def trials_per_card(peak: int, card: int) -> int:
    """How many trials of that peak a card holds at one time, each in a process of its own."""
    return math.floor(card * (1 - SPARE_SHARE)) // (peak + RESERVED_BYTES)


def planned_memory(
    measured: Measured, runtime: RuntimeConfig, *, arms: Sequence[str], card: str, card_bytes: int
) -> PlannedMemory:
    """What a probe on a GPU tells of its kind of trial.

    Args:
        measured: by the probe, which was one worker with the whole batch.
        runtime: of the study.
        arms: whose trials are of this kind.
        card: name of the GPU.
        card_bytes: its memory.
    Raises: ModelError as `memory_model` does.
    """
    config = measured.config
    reserved = measured.reserved_bytes or measured.peak_bytes or 0
    trials = trials_per_card(reserved, card_bytes)
    facts: dict[str, Any] = {"arms": tuple(arms), "card": card, "card_bytes": card_bytes, "reserved_bytes": reserved}
    facts |= {"trials_per_card": trials, "step_s": measured.step_s, "measured_bytes": measured.peak_bytes}
    if config.training.max_steps == 0:
        nothing = dict.fromkeys(("computed_bytes", "micro_batch_size", "pair_chunk_size"))
        return PlannedMemory(**facts | nothing, fits=trials > 0)
    model = memory_model(config, runtime.of_training)
    if measured.peak_bytes is not None:
        model = model.calibrated(measured.peak_bytes, model.asked)
    model = replace(model, num_workers=runtime.num_workers)
    limit = usable_bytes(card_bytes)
    largest = model.largest(limit)
    return PlannedMemory(
        **facts,
        computed_bytes=model.peak(model.asked),
        micro_batch_size=(largest.instructions or None) if largest else None,
        pair_chunk_size=(largest.pairs or None) if largest else None,
        fits=model.peak(model.asked) <= limit,
    )
