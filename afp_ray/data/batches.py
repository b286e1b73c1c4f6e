"""Token batches of a trial: step in, tensors of this worker's rows out.

Shapes: B rows of this worker, T tokens of the longest of them. Rows are padded on the right, whatever side the
tokenizer would choose; the mask is 1 on tokens and 0 on padding; labels are -100 where nothing is supervised.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from afp_ray.data.order import BatchOrder
from afp_ray.data.rows import Instruction, TranslationPair
from afp_ray.data.tokens import TokenArray, Tokenizer, tokenize_instructions, tokenize_pairs
from afp_ray.errors import ConfigError

UNSUPERVISED = -100
"""Label of positions that the loss leaves out."""


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
        pairs: this worker's rows of the global batch; None when the trial has no pairs.
        instructions: micro-batches, in order; () when the trial has no instructions.
        num_supervised: supervised positions of the instructions of all workers, the divisor of their summed loss.
    """

    pairs: PairBatch | None
    instructions: tuple[InstructionBatch, ...]
    num_supervised: int


class TrainingBatches:
    """Batches of a trial by step; the same global batches for any number of workers.

    Args:
        pairs, instructions: rows of the trial; either may be empty. They are tokenised here, once.
        tokenizer: callable on a list of texts.
        batch_size: instructions of one step over all workers together; a multiple of `world_size`.
        pair_batch_size: pairs of one step over all workers together, likewise; None takes `batch_size`.
        max_length: longest side of a pair and longest instruction, in tokens.
        seed: of the order.
        rank, world_size: which worker this is, 0 <= rank < world_size.
        micro_batch_size: instructions of one forward pass; None takes the worker's share at once.

    Attributes:
        num_pairs, num_instructions: rows that are trained on.
        refused_pairs, refused_instructions: rows without tokens, or whose response was cut away whole.
        dropped_tokens: tokens of all rows lost to `max_length`, those of refused instructions included.

    Raises: ConfigError when the batch cannot be shared out; DataError when no row of a kind is usable.
    """

    def __init__(
        self,
        pairs: Sequence[TranslationPair],
        instructions: Sequence[Instruction],
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        pair_batch_size: int | None = None,
        max_length: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        micro_batch_size: int | None = None,
    ) -> None:
        pair_batch_size = pair_batch_size or batch_size
        _require_shares("batch_size", batch_size, world_size)
        _require_shares("pair_batch_size", pair_batch_size, world_size)
        _require_micro_batch(micro_batch_size)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
        self._pairs = tokenize_pairs(pairs, tokenizer, max_length=max_length)
        self._instructions = tokenize_instructions(instructions, tokenizer, max_length=max_length)
        self.num_pairs = len(self._pairs.sources)
        self.num_instructions = len(self._instructions.rows)
        self.refused_pairs = self._pairs.refused
        self.refused_instructions = self._instructions.refused
        self.dropped_tokens = self._pairs.dropped_tokens + self._instructions.dropped_tokens
        share, pair_share = batch_size // world_size, pair_batch_size // world_size
        self._own = slice(rank * share, (rank + 1) * share)
        self._own_pairs = slice(rank * pair_share, (rank + 1) * pair_share)
        self._micro = micro_batch_size or share
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self._padding = padding or 0  # masked, so any id of the vocabulary serves
        keys = [(("source", source), ("target", target)) for source, target in self._pairs.texts]
        self._pair_order = BatchOrder(keys, batch_size=pair_batch_size, seed=seed, name="pairs")
        self._instruction_order = BatchOrder(
            [()] * self.num_instructions, batch_size=batch_size, seed=seed, name="instructions"
        )

    def batch(self, step: int) -> TrainBatch:
        """Take this worker's part of the global batch of optimizer step `step`, 0-based; any step at any time."""
        pairs = self._pair_batch(self._pair_order.rows(step)[self._own_pairs]) if self.num_pairs else None
        if not self.num_instructions:
            return TrainBatch(pairs, (), 0)
        rows = self._instruction_order.rows(step)
        num_supervised = sum(self._instructions.num_supervised(row) for row in rows)
        own = rows[self._own]
        micro = [own[first : first + self._micro] for first in range(0, len(own), self._micro)]
        return TrainBatch(pairs, tuple(self._instruction_batch(part) for part in micro), num_supervised)

    def _pair_batch(self, rows: Sequence[int]) -> PairBatch:
        source_ids, source_mask = self._padded([self._pairs.sources[row] for row in rows])
        target_ids, target_mask = self._padded([self._pairs.targets[row] for row in rows])
        return PairBatch(source_ids, source_mask, target_ids, target_mask)

    def _instruction_batch(self, rows: Sequence[int]) -> InstructionBatch:
        input_ids, mask = self._padded([self._instructions.rows[row] for row in rows])
        boundaries = torch.tensor([self._instructions.boundaries[row] for row in rows])  # (B,)
        prompt = torch.arange(input_ids.shape[1]) < boundaries[:, None]  # (B, T)
        return InstructionBatch(input_ids, mask, input_ids.masked_fill(prompt | (mask == 0), UNSUPERVISED))

    def _padded(self, rows: Sequence[TokenArray]) -> tuple[Tensor, Tensor]:
        """(B, T) ids and mask of rows of different lengths."""
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.full((len(rows), int(lengths.max())), self._padding, dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.from_numpy(row)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        return ids, mask.long()


def _require_shares(name: str, size: int, world_size: int) -> None:
    if world_size < 1 or size < 1 or size % world_size:
        raise ConfigError(
            f"a global batch of {size} cannot be shared by {world_size} workers evenly",
            where=f"training.{name}",
            allowed=f"a multiple of the number of workers, {world_size}",
            fix=f"set training.{name} to a multiple of {world_size}, or change runtime.workers_per_trial",
        )


def _require_micro_batch(micro_batch_size: int | None) -> None:
    if micro_batch_size is not None and micro_batch_size < 1:
        raise ConfigError(
            f"a micro-batch of {micro_batch_size} instructions is none",
            where="runtime.micro_batch_size",
            allowed="1 or more, or null",
            fix="set runtime.micro_batch_size: null",
        )
