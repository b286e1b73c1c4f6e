"""What a step computes from: tensors made on the host and filled up to the shape of a bucket.

A step is a function of these tensors alone. On a CPU nothing is filled up. On a GPU a few shapes recur, so that a step
captured for a shape serves all batches of it. What fills up are samples of their own, which nobody looks at, and
supervised rows of weight 0: losses and gradients are those without it.

    tokens       a a a | b b b b b | . . . . | . . . .      8 tokens in a bucket of 16, no sample above 5
    starts       0       3           8         12        16
    positions    0 1 2   0 1 2 3 4   0 1 2 3   0 1 2 3
    supervised   1 2 4 0       weights   1 1 1 0

Shapes: n samples, N tokens of all of them, p samples that fill up, S supervised positions, b pairs of this worker.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from afp_ray.data.batches import PairBatch, TrainBatch
from afp_ray.data.packing import PackedBatch
from afp_ray.losses import Supervised, supervised_positions
from afp_ray.models.packed_attention import SamplesInBucket
from afp_ray.training.packed_rows import pack_instructions, pack_pairs, pair_keys

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Granularity:
    """Counts are rounded up to multiples of these; 1 fills up nothing.

    Attributes:
        tokens: of a row of instructions.
        supervised: positions of such a row.
        pair_tokens: tokens of a row of pairs.
        longest: tokens that no sample exceeds; None takes the longest of the row.
    """

    tokens: int = 1
    supervised: int = 1
    pair_tokens: int = 1
    longest: int | None = None


EXACT = Granularity()
BUCKETS = Granularity(tokens=512, supervised=256, pair_tokens=128)
"""Of captured steps: few enough shapes to record each, and little that is computed for nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """Samples end to end.

    Attributes:
        input_ids, positions: (1, N) int64.
        lengths: (n + p,) tokens of each sample, which stay on the CPU; or of a bucket what attention needs of them.
    """

    input_ids: Tensor
    positions: Tensor
    lengths: Tensor | SamplesInBucket

    def in_bucket(self, longest: int) -> "Row":
        """The row with all that attention reads in tensors, so that it serves other samples of the same shape.

        Args:
            longest: tokens that no sample of the bucket exceeds.
        """
        assert isinstance(self.lengths, Tensor)
        starts = F.pad(self.lengths.cumsum(0), (1, 0)).to(torch.int32)
        return replace(self, lengths=SamplesInBucket(starts, longest))


@dataclass(frozen=True, slots=True)
class InstructionInputs:
    """One micro-batch of instructions.

    Attributes:
        row: of all samples.
        supervised: (S,) positions, tokens and weights.
        num_supervised: positions of the global batch; () where it lies on a device.
    """

    row: Row
    supervised: Supervised
    num_supervised: int | Tensor


@dataclass(frozen=True, slots=True)
class PairInputs:
    """Pairs of one worker, first the sources, then the targets.

    Attributes:
        row: of the 2 b sides.
        pooled: (2 b + p',) tokens of what is pooled; what fills up is one more piece, where there is any.
        keys: (b, 2) int64, equal where texts are.
    """

    row: Row
    pooled: Tensor
    keys: Tensor


def instruction_inputs_of(batch: TrainBatch, granularity: Granularity = EXACT) -> Iterator[InstructionInputs]:
    """What the instruction term computes from each micro-batch that supervises anything."""
    for rows in batch.instructions:
        packed = pack_instructions(rows)
        assert packed.labels is not None
        if batch.num_supervised > 0 and bool((packed.labels[:, 1:] >= 0).any()):
            yield instruction_inputs(packed, batch.num_supervised, granularity)


def instruction_inputs(packed: PackedBatch, num_supervised: int, granularity: Granularity = EXACT) -> InstructionInputs:
    """What the instruction term computes from one micro-batch.

    Args:
        packed: with labels.
        num_supervised: of the global batch, > 0.
        granularity: of tokens and supervised positions.
    """
    assert packed.labels is not None
    supervised = supervised_positions(packed.labels)
    num_filled = -len(supervised.tokens) % granularity.supervised
    if granularity.supervised > 1:
        weights = F.pad(torch.ones(len(supervised.tokens)), (0, num_filled))
        positions, tokens = (F.pad(part, (0, num_filled)) for part in (supervised.positions, supervised.tokens))
        supervised = Supervised(positions, tokens, weights)
    row = filled_up(packed, granularity.tokens, longest=granularity.longest)
    return InstructionInputs(row, supervised, num_supervised)


def pair_inputs(pairs: PairBatch | PackedBatch, granularity: Granularity = EXACT) -> PairInputs:
    """What the contrastive term computes from pairs, in any layout."""
    packed = pack_pairs(pairs)
    row = filled_up(packed, granularity.pair_tokens, longest=granularity.longest)
    num_filled = row.input_ids.shape[1] - packed.num_tokens
    pooled = packed.lengths if num_filled == 0 else F.pad(packed.lengths, (0, 1), value=num_filled)
    return PairInputs(row, pooled, pair_keys(packed))


def filled_up(row: PackedBatch, multiple: int, *, longest: int | None = None) -> Row:
    """The row with so many samples of token 0 behind it that its tokens are a multiple.

    Their number is the same for all rows of as many samples that are not a multiple already, so that few shapes recur.

    Args:
        row: of n samples.
        multiple: of tokens, >= 1.
        longest: tokens that no sample may exceed; None takes the longest of the row.
    """
    missing = -row.num_tokens % multiple
    if missing == 0:
        return Row(row.input_ids, row.positions, row.lengths)
    longest = max(2, longest or int(row.lengths.max()))
    num_samples = -(-(multiple - 1) // (longest - 1))  # enough for one multiple and a token each
    if missing < num_samples:
        missing += multiple * -(-(num_samples - missing) // multiple)
    sizes = torch.full((num_samples,), missing // num_samples)
    sizes[: missing % num_samples] += 1
    positions = torch.cat([torch.arange(size) for size in sizes.tolist()])
    return Row(
        F.pad(row.input_ids, (0, missing)),
        torch.cat([row.positions, positions[None]], dim=1),
        torch.cat([row.lengths, sizes]),
    )


def on_device(inputs: T, device: torch.device) -> T:
    """The same inputs on a device, without waiting for the copies; lengths that the host reads stay where they are."""

    def move(value: Tensor, name: str) -> Tensor:
        return value if name == "lengths" else value.to(device, non_blocking=True)

    return map_tensors(inputs, move)


def map_tensors(inputs: T, function: Callable[[Tensor, str], Tensor]) -> T:
    """Inputs of the same kind, each tensor replaced by what `function` makes of it and of the name of its field."""
    changed: dict[str, Any] = {}
    for field in fields(cast(Any, inputs)):
        value = getattr(inputs, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = function(value, field.name)
        elif is_dataclass(value):
            changed[field.name] = map_tensors(value, function)
    return cast(T, replace(cast(Any, inputs), **changed))


def tensors_of(inputs: object) -> list[Tensor]:
    """All tensors of inputs, in the order of their fields."""
    tensors: list[Tensor] = []

    def take(value: Tensor, name: str) -> Tensor:
        tensors.append(value)
        return value

    map_tensors(inputs, take)
    return tensors
