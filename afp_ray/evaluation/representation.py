"""How close the translations of a sentence lie, layer by layer: retrieval, alignment, uniformity.

Shapes: N pairs, D hidden size, B sentences of a batch, T tokens of the longest, L layers above the embeddings.
Source: alignment and uniformity, arXiv:2005.10242.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from afp_ray.data.rows import TranslationPair
from afp_ray.errors import DataError
from afp_ray.evaluation.scoring import max_positions
from afp_ray.evaluation.task import Split
from afp_ray.models.hidden_states import all_hidden_states
from afp_ray.models.pooling import pool
from afp_ray.records import LayerMetrics, Score

Pooling = Literal["last", "mean"]
POOLINGS: tuple[Pooling, ...] = ("mean", "last")


def measure_representation(
    model: Any,
    tokenizer: Any,
    pairs_by_language: Mapping[str, Sequence[TranslationPair]],
    *,
    split: Split,
    poolings: Sequence[Pooling] = POOLINGS,
    max_length: int = 512,
    max_batch_tokens: int = 8192,
) -> list[LayerMetrics]:
    """Metrics of every layer, embeddings included, for every language.

    Args:
        model: a causal LM; its mode and weights are left as they are.
        tokenizer: its tokenizer.
        pairs_by_language: N >= 2 held-out pairs per language.
        split: where the pairs come from.
        poolings: how token states become one vector.
        max_length: longest sentence in tokens; longer ones are cut on the right.
        max_batch_tokens: tokens of a padded batch.

    Returns: one row per language, layer 0..L and pooling.
    Raises: DataError for a language with fewer than two pairs.
    """
    for language, pairs in pairs_by_language.items():
        if len(pairs) < 2:
            raise DataError(
                f"{len(pairs)} held-out {split} pairs in {language!r}",
                where="evaluation.representation",
                allowed="at least 2",
                fix="choose a source with more pairs, or set evaluation.representation: null",
            )
    texts = [text for pairs in pairs_by_language.values() for pair in pairs for text in (pair.source, pair.target)]
    unique = list(dict.fromkeys(texts))
    place = {text: index for index, text in enumerate(unique)}
    length = min(max_length, max_positions(model))
    ids = [tokens[:length] for tokens in tokenizer(unique, verbose=False)["input_ids"]]
    vectors = _embed(model, ids, poolings, max_batch_tokens)
    rows = []
    for language, pairs in pairs_by_language.items():
        source = torch.tensor([place[pair.source] for pair in pairs])
        target = torch.tensor([place[pair.target] for pair in pairs])
        for (layer, pooling), states in vectors.items():
            retrieval, alignment, uniformity = pair_metrics(states[source], states[target])
            rows.append(
                LayerMetrics(
                    split=split,
                    language=language,
                    layer=layer,
                    pooling=pooling,
                    retrieval_at_1=retrieval,
                    alignment=alignment,
                    uniformity=uniformity,
                    n=len(pairs),
                )
            )
    return rows


@torch.inference_mode()
def _embed(
    model: Any, ids: Sequence[Sequence[int]], poolings: Sequence[Pooling], max_batch_tokens: int
) -> dict[tuple[int, Pooling], Tensor]:
    """(number of sentences, D) float32 unit vectors by layer and pooling; one forward pass per batch."""
    device = next(model.parameters()).device
    parts: dict[tuple[int, Pooling], list[Tensor]] = {}
    order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
    was_training = model.training
    model.eval()
    try:
        begin = 0
        while begin < len(order):
            width = max(1, len(ids[order[begin]]))
            batch = order[begin : begin + max(1, max_batch_tokens // width)]
            inputs = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros(len(batch), width, dtype=torch.long)
            for row, index in enumerate(batch):
                inputs[row, : len(ids[index])] = torch.tensor(ids[index])
                mask[row, : len(ids[index])] = 1
            mask = mask.to(device)
            pool_layer = partial(_pool_all, mask=mask, poolings=poolings)
            pooled = all_hidden_states(model, inputs.to(device), mask, reduce=pool_layer)
            for layer, by_pooling in enumerate(pooled):
                for pooling, rows in by_pooling.items():
                    parts.setdefault((layer, pooling), []).append(rows)
            begin += len(batch)
    finally:
        model.train(was_training)
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return {key: torch.cat(rows)[back] for key, rows in parts.items()}


def _pool_all(states: Tensor, mask: Tensor, poolings: Sequence[Pooling]) -> dict[Pooling, Tensor]:
    """(B, D) float32 unit vectors on the CPU of each pooling of (B, T, D) states."""
    return {name: normalize(pool(states, mask, name).float(), dim=-1).cpu() for name in poolings}


def pair_metrics(source: Tensor, target: Tensor) -> tuple[float, float, float]:
    """Retrieval@1, alignment and uniformity of N >= 2 pairs of (N, D) unit vectors, row i with row i.

    Returns: share of rows whose translation is the nearest neighbour by cosine, mean of both directions, in [0, 1];
        mean squared distance of a pair, in [0, 4]; log of the mean of exp(-2 squared distance) over the pairs i < j of
        a side, mean of both sides, in [-8, 0].
    Source: arXiv:2005.10242, with alpha = 2 and t = 2.
    """
    cosine = source @ target.T  # (N, N)
    gold = torch.arange(len(source))
    forward = (cosine.argmax(dim=1) == gold).float().mean()
    backward = (cosine.argmax(dim=0) == gold).float().mean()
    alignment = (source - target).square().sum(dim=1).mean()
    uniformity = (_uniformity(source) + _uniformity(target)) / 2
    return float((forward + backward) / 2), float(alignment), uniformity


def _uniformity(vectors: Tensor) -> float:
    squared = torch.pdist(vectors.double()).square()
    return float((-2 * squared).logsumexp(dim=0)) - math.log(len(squared))


def headline(validation: Sequence[LayerMetrics], asked: Sequence[LayerMetrics]) -> list[Score]:
    """The scores of one layer and pooling, for every language.

    Layer and pooling are those with the best retrieval@1 on validation, mean over languages; the lower layer, then
    mean pooling, wins a tie.

    Args:
        validation: metrics of the validation pairs, from which layer and pooling are chosen.
        asked: metrics of the split whose scores are wanted; may be `validation` itself.

    Returns: `retrieval@1`, `alignment` and `uniformity` per language, as the task `retrieval`.
    """
    if not validation:
        return []
    by_place: dict[tuple[int, Pooling], list[float]] = {}
    for row in validation:
        by_place.setdefault((row.layer, row.pooling), []).append(row.retrieval_at_1)
    layer, pooling = min(by_place, key=lambda key: (-fmean(by_place[key]), key[0], POOLINGS.index(key[1])))
    return [
        Score(task="retrieval", language=row.language, split=row.split, metric=metric, value=value, n=row.n)
        for row in asked
        if (row.layer, row.pooling) == (layer, pooling)
        for metric, value in (
            ("retrieval@1", row.retrieval_at_1),
            ("alignment", row.alignment),
            ("uniformity", row.uniformity),
        )
    ]
