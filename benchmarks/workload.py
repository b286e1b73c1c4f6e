"""Models with random weights and batches of random tokens in the shape of the published runs.

Blocks are whole (no padding): samples of about 150 tokens are strung together and cut at the block's end, so both
computations see the same tokens and the same supervised positions. Rows hold one sample each, padded to the longest, as
trainers for instructions make them; about half of their places is padding. Pairs have about 23 tokens a side.
"""

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from afp_ray.data.batches import InstructionBatch, PairBatch, TrainBatch
from afp_ray.models.hidden_states import CausalModel
from afp_ray.training.packed_rows import pack_instructions, pack_pairs

SMALL = {"vocab_size": 32_000, "d_model": 256, "num_layers": 12, "attention_heads": 4, "ffn_dim": 1024}
XGLM_564M = {"vocab_size": 256_008, "d_model": 1024, "num_layers": 24, "attention_heads": 16, "ffn_dim": 4096}
TINY = {"vocab_size": 512, "d_model": 32, "num_layers": 3, "attention_heads": 4, "ffn_dim": 64}
LARGE_VOCABULARY = {**SMALL, "vocab_size": 256_008}
FIRST_TOKEN = 8
_SPREAD = 0.6
"""Standard deviation of the logarithm of a sample's length."""


def build_model(shape: dict[str, int], *, dropout: float = 0.0, device: str = "cpu") -> CausalModel:
    """An XGLM of that shape; equal calls give equal weights."""
    config = transformers.XGLMConfig(
        **shape, max_position_embeddings=2048, dropout=dropout, attention_dropout=dropout, activation_dropout=0.0
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.to(device).train()


def build_batch(shape: dict[str, int], *, num_pairs: int, num_blocks: int, length: int, seed: int = 0) -> TrainBatch:
    """One step's rows; the same for both computations."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = shape["vocab_size"]
    pairs = PairBatch(*_sentences(num_pairs, vocabulary, generator), *_sentences(num_pairs, vocabulary, generator))
    ids = torch.randint(FIRST_TOKEN, vocabulary, (num_blocks, length), generator=generator)
    labels = torch.full_like(ids, -100)
    for row in range(num_blocks):
        at = 0
        while at < length:
            size = int(torch.randint(80, 250, (), generator=generator)) * length // 512 + 2
            answer = at + max(1, size * 2 // 5)  # two fifths are prompt
            labels[row, answer : at + size] = ids[row, answer : at + size]
            at += size
    rows = InstructionBatch(ids, torch.ones_like(ids), labels)
    return TrainBatch(pairs, (rows,), int((labels[:, 1:] != -100).sum()))


def build_rows(shape: dict[str, int], *, num_pairs: int, num_rows: int, longest: int, seed: int = 0) -> TrainBatch:
    """One step's rows with one sample each; lengths have a median of 0.3 of `longest`, as instructions have in 512."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = shape["vocab_size"]
    pairs = PairBatch(*_sentences(num_pairs, vocabulary, generator), *_sentences(num_pairs, vocabulary, generator))
    spread = torch.exp(_SPREAD * torch.randn(num_rows, 1, generator=generator))
    lengths = (0.3 * longest * spread).long().clamp(longest // 32 + 3, longest)
    ids = torch.randint(FIRST_TOKEN, vocabulary, (num_rows, int(lengths.max())), generator=generator)
    place = torch.arange(ids.shape[1])
    mask = (place < lengths).long()
    labels = ids.masked_fill((place < (lengths * 2 // 5).clamp(min=1)) | (mask == 0), -100)  # two fifths are prompt
    rows = InstructionBatch(ids * mask, mask, labels)
    return TrainBatch(pairs, (rows,), int((labels[:, 1:] != -100).sum()))


def num_parameters(model: CausalModel) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def num_tokens(batches: Sequence[TrainBatch]) -> float:
    """Real tokens of a mean step: both sides of its pairs and its instructions."""
    rows = [pack_instructions(rows) for batch in batches for rows in batch.instructions]
    rows += [pack_pairs(batch.pairs) for batch in batches if batch.pairs is not None]
    return sum(row.num_tokens for row in rows) / len(batches)


def useful_flops(shape: dict[str, int], batches: Sequence[TrainBatch], *, layer: int) -> float:
    """Of a mean step: 6 per parameter and token of instructions, of the head where supervised, of pairs up to a layer.

    Attention products and everything that is thrown away are left out, so that it serves every form of a step.
    """
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.XGLMConfig(**shape))
    head = model.get_output_embeddings().weight.numel()
    body = num_parameters(model) - head
    flops = 0.0
    for batch in batches:
        in_blocks = sum(pack_instructions(rows).num_tokens for rows in batch.instructions)
        in_pairs = pack_pairs(batch.pairs).num_tokens if batch.pairs is not None else 0
        of_pairs = layer * body / shape["num_layers"] * in_pairs
        flops += 6 * (body * in_blocks + head * batch.num_supervised + of_pairs)
    return flops / len(batches)


def _sentences(count: int, vocabulary: int, generator: torch.Generator) -> tuple[Any, Any]:
    lengths = torch.randint(12, 35, (count,), generator=generator)
    ids = torch.randint(FIRST_TOKEN, vocabulary, (count, int(lengths.max())), generator=generator)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return ids * mask, mask
