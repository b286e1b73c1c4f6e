"""Token batches of a trial: step in, tensors of this worker's rows out.

Shapes: B rows of this worker, T tokens of the longest of them. Rows are padded on the right, whatever side the
tokenizer would choose; the mask is 1 on tokens and 0 on padding; labels are -100 where nothing is supervised.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from afp_ray.data.order import BatchOrder
from afp_ray.data.packing import UNSUPERVISED, PackedBatch, fill_greedily, pack
from afp_ray.data.rows import Instruction, TranslationPair
from afp_ray.data.tokens import (
    InstructionTokens,
    PairTokens,
    TokenArray,
    Tokenizer,
    tokenize_instructions,
    tokenize_pairs,
)
from afp_ray.errors import ConfigError

Layout = Literal["padded", "packed"]


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Translation pairs; row i of the target translates row i of the source.

    Attributes:
        source_ids, source_mask: (B, T_source) int64, the pivot side.
        target_ids, target_mask: (B, T_target) int64.
    """

    source_ids: Tensor
    source_mask: Tensor
    target_ids: Tensor
    target_mask: Tensor


@dataclass(frozen=True, slots=True)
class InstructionBatch:
    """Prompts with their responses.

    Attributes:
        input_ids, attention_mask: (B, T) int64.
        labels: (B, T) int64, equal to `input_ids` on response and end-of-sequence, else -100; not shifted.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """What one worker takes in one optimizer step.

    Attributes:
        pairs: this worker's b rows of the global batch; packed, b sources are followed by their b targets. None when
            the trial has no pairs.
        instructions: micro-batches, in order; () when the trial has no instructions.
        num_supervised: supervised positions of the instructions of all workers, the divisor of their summed loss.
    """

    pairs: PairBatch | PackedBatch | None
    instructions: tuple[InstructionBatch | PackedBatch, ...]
    num_supervised: int


@dataclass(frozen=True, slots=True)
class Batching:
    """How rows become batches; sizes count the rows of all workers together unless they say otherwise.

    Attributes:
        batch_size: instructions of one step; a multiple of the number of workers.
        max_length: longest side of a pair and longest instruction, in tokens.
        seed: of the order.
        pair_batch_size: pairs of one step, likewise; None takes `batch_size`.
        micro_batch_size: instructions of one forward pass of a worker; None takes its share at once.
        max_tokens: instead, tokens of one forward pass of a worker, padding included; workers may then differ in their
            number of micro-batches.
        layout: `padded` rows side by side, or one `packed` row without padding.
    """

    batch_size: int
    max_length: int
    seed: int
    pair_batch_size: int | None = None
    micro_batch_size: int | None = None
    max_tokens: int | None = None
    layout: Layout = "padded"


class TrainingBatches:
    """Batches of a trial by step; the same global batches for any number of workers.

    Args:
        pairs, instructions: rows of the trial, tokenised here, or their tokens as the token cache gives them; either
            may be empty.
        tokenizer: callable on a list of texts.
        batching: sizes, order and layout.
        rank, world_size: which worker this is, 0 <= rank < world_size.

    Attributes:
        num_pairs, num_instructions: rows that are trained on.
        refused_pairs, refused_instructions: rows without tokens, or whose response was cut away whole.
        dropped_tokens: tokens of all rows lost to `max_length`, those of refused instructions included.

    Raises: ConfigError when the batch cannot be shared out; DataError when no row of a kind is usable.
    """

    def __init__(
        self,
        pairs: Sequence[TranslationPair] | PairTokens,
        instructions: Sequence[Instruction] | InstructionTokens,
        tokenizer: Tokenizer,
        batching: Batching,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        batch_size, max_length, seed = batching.batch_size, batching.max_length, batching.seed
        pair_batch_size = batching.pair_batch_size or batch_size
        _require_shares("batch_size", batch_size, world_size)
        _require_shares("pair_batch_size", pair_batch_size, world_size)
        _require_micro_batch(batching.micro_batch_size, batching.max_tokens)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
        self._pairs = (
            pairs.cut(max_length)
            if isinstance(pairs, PairTokens)
            else tokenize_pairs(pairs, tokenizer, max_length=max_length)
        )
        self._instructions = (
            instructions.cut(max_length)
            if isinstance(instructions, InstructionTokens)
            else tokenize_instructions(instructions, tokenizer, max_length=max_length)
        )
        self.num_pairs = len(self._pairs.sources)
        self.num_instructions = len(self._instructions.rows)
        self.refused_pairs = self._pairs.refused
        self.refused_instructions = self._instructions.refused
        self.dropped_tokens = self._pairs.dropped_tokens + self._instructions.dropped_tokens
        share, pair_share = batch_size // world_size, pair_batch_size // world_size
        self._own = slice(rank * share, (rank + 1) * share)
        self._own_pairs = slice(rank * pair_share, (rank + 1) * pair_share)
        self._micro = batching.micro_batch_size or share
        self._max_tokens, self._layout = batching.max_tokens, batching.layout
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self._padding = padding or 0  # masked, so any id of the vocabulary serves
        self._pair_order = BatchOrder(self._pairs.keys, batch_size=pair_batch_size, seed=seed, name="pairs")
        self._instruction_order = BatchOrder(
            [()] * self.num_instructions, batch_size=batch_size, seed=seed, name="instructions"
        )

    def batch(self, step: int, *, micro_batch_size: int | None = None) -> TrainBatch:
        """Take this worker's part of the global batch of optimizer step `step`, 0-based; any step at any time.

        Args:
            step: 0-based.
            micro_batch_size: of this batch; None takes what the batches were made with.
        """
        pairs = self._pair_batch(self._pair_order.rows(step)[self._own_pairs]) if self.num_pairs else None
        if not self.num_instructions:
            return TrainBatch(pairs, (), 0)
        rows = self._instruction_order.rows(step)
        num_supervised = sum(self._instructions.num_supervised(row) for row in rows)
        own = rows[self._own]
        micro = [own[part] for part in self._micro_batches(own, micro_batch_size)]
        return TrainBatch(pairs, tuple(self._instruction_batch(part) for part in micro), num_supervised)

    def _micro_batches(self, rows: Sequence[int], micro_batch_size: int | None) -> list[slice]:
        if self._max_tokens is None or micro_batch_size is not None:
            size = micro_batch_size or self._micro
            return [slice(first, first + size) for first in range(0, len(rows), size)]
        lengths = [int(self._instructions.rows.lengths[row]) for row in rows]
        return fill_greedily(lengths, max_tokens=self._max_tokens, is_padded=self._layout == "padded")

    def _pair_batch(self, rows: Sequence[int]) -> PairBatch | PackedBatch:
        sources, targets = ([side[row] for row in rows] for side in (self._pairs.sources, self._pairs.targets))
        if self._layout == "packed":
            return pack([*sources, *targets])
        return PairBatch(*self._padded(sources), *self._padded(targets))

    def _instruction_batch(self, rows: Sequence[int]) -> InstructionBatch | PackedBatch:
        tokens = [self._instructions.rows[row] for row in rows]
        boundaries = [self._instructions.boundaries[row] for row in rows]
        if self._layout == "packed":
            return pack(tokens, boundaries)
        input_ids, mask = self._padded(tokens)
        prompt = torch.arange(input_ids.shape[1]) < torch.tensor(boundaries)[:, None]  # (B, T)
        return InstructionBatch(input_ids, mask, input_ids.masked_fill(prompt | (mask == 0), UNSUPERVISED))

    def _padded(self, rows: Sequence[TokenArray]) -> tuple[Tensor, Tensor]:
        """(B, T) ids and mask of rows of different lengths."""
        lengths = np.array([len(row) for row in rows])
        ids = np.full((len(rows), lengths.max()), self._padding, dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def _require_shares(name: str, size: int, world_size: int) -> None:
    if world_size < 1 or size < 1 or size % world_size:
        raise ConfigError(
            f"a global batch of {size} cannot be shared by {world_size} workers evenly",
            where=f"training.{name}",
            allowed=f"a multiple of the number of workers, {world_size}",
            fix=f"set training.{name} to a multiple of {world_size}, or change runtime.workers_per_trial",
        )


def _require_micro_batch(micro_batch_size: int | None, max_tokens: int | None) -> None:
    if micro_batch_size is not None and micro_batch_size < 1:
        raise ConfigError(
            f"a micro-batch of {micro_batch_size} instructions is none",
            where="runtime.micro_batch_size",
            allowed="1 or more, or null",
            fix="set runtime.micro_batch_size: null",
        )
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError(f"a micro-batch of {max_tokens} tokens is none", allowed="1 or more, or null")
    if micro_batch_size is not None and max_tokens is not None:
        raise ConfigError(
            f"micro-batches have either {micro_batch_size} instructions or {max_tokens} tokens",
            where="runtime.micro_batch_size",
            fix="set runtime.micro_batch_size: null",
        )
