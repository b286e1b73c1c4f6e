"""The rows of a step end to end, whatever the layout they came in, and what tells them apart.

Shapes: b pairs of this worker, N tokens of a packed row.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor

from afp_ray.data.batches import InstructionBatch, PairBatch, TrainBatch
from afp_ray.data.packing import PackedBatch
from afp_ray.losses import IGNORED


def pack_pairs(pairs: PairBatch | PackedBatch) -> PackedBatch:
    """The same pairs end to end, first the sources, then the targets."""
    if isinstance(pairs, PackedBatch):
        return pairs
    sides = ((pairs.source_ids, pairs.source_mask), (pairs.target_ids, pairs.target_mask))
    masks = [mask.bool() for _, mask in sides]
    return _packed(
        torch.cat([ids[mask] for (ids, _), mask in zip(sides, masks, strict=True)]),
        torch.cat([mask.sum(dim=1) for mask in masks]),
    )


def pack_instructions(rows: InstructionBatch | PackedBatch) -> PackedBatch:
    """The same instructions end to end; padding is left out."""
    if isinstance(rows, PackedBatch):
        return rows
    mask = rows.attention_mask.bool()
    return _packed(rows.input_ids[mask], mask.sum(dim=1), rows.labels[mask])


def split_pairs(row: PackedBatch, size: int) -> list[PackedBatch]:
    """Chunks of at most `size` pairs, in order; each is a row of its sources, then its targets."""
    samples = torch.split(row.input_ids[0], row.lengths.tolist())
    num_pairs = len(samples) // 2
    sources, targets = samples[:num_pairs], samples[num_pairs:]
    chunks = []
    for start in range(0, num_pairs, size):
        part = slice(start, start + size)
        lengths = torch.cat([row.lengths[:num_pairs][part], row.lengths[num_pairs:][part]])
        chunks.append(_packed(torch.cat([*sources[part], *targets[part]]), lengths))
    return chunks


def num_tokens(batch: TrainBatch) -> int:
    """Real tokens of a batch: both sides of its pairs and its instructions."""
    rows = [pack_instructions(rows) for rows in batch.instructions]
    if batch.pairs is not None:
        rows.append(pack_pairs(batch.pairs))
    return sum(row.num_tokens for row in rows)


def pair_keys(row: PackedBatch) -> Tensor:
    """Keys by which two sides are told to be the same text: those whose tokens are equal.

    Returns: (b, 2) int64 on the CPU, of the source and of the target; equal in every process.
    """
    samples = torch.split(row.input_ids[0].cpu(), row.lengths.tolist())
    digests = [hashlib.blake2b(ids.numpy().tobytes(), digest_size=8).digest() for ids in samples]
    return torch.frombuffer(bytearray(b"".join(digests)), dtype=torch.int64).view(2, -1).T.contiguous()


def _packed(ids: Tensor, lengths: Tensor, labels: Tensor | None = None) -> PackedBatch:
    """A row of (N,) ids and labels of samples of these lengths."""
    first_places = (lengths.cumsum(0) - lengths).cpu().numpy()
    starts = torch.from_numpy(np.repeat(first_places, lengths.cpu().numpy()))  # torch's own wakes all threads for it
    positions = torch.arange(len(ids), device=ids.device) - starts.to(ids.device)
    if labels is not None:
        labels = labels.masked_fill(positions == 0, IGNORED)[None]  # no state predicts the first token of a sample
    return PackedBatch(ids[None], positions[None], lengths, labels)
