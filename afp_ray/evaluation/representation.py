"""How close the translations of a sentence lie, layer by layer, and how much of the language is left in the states.

Shapes: N pairs, S different sentences, D hidden size, B sentences of a batch, T tokens of the longest, L layers above
the embeddings.
Source: alignment and uniformity, arXiv:2005.10242; anisotropy, arXiv:1909.00512.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from afp_ray.config import Split
from afp_ray.data.rows import TranslationPair
from afp_ray.errors import DataError
from afp_ray.evaluation.probe import LanguageProbe, content_groups
from afp_ray.evaluation.projection import PairRetrieval, SentenceStates, gather_states
from afp_ray.evaluation.scoring import max_positions
from afp_ray.models.hidden_states import all_hidden_states
from afp_ray.models.packing import lengths_of
from afp_ray.models.pooling import pool
from afp_ray.records import LayerMetrics, Score

Pooling = Literal["last", "mean"]
POOLINGS: tuple[Pooling, ...] = ("mean", "last")
LayerPooling = tuple[int, Pooling]

NUM_SAMPLED = 100
"""Pairs of each language, the first ones, that the probe is fitted on and that drawings show."""


@dataclass(frozen=True, slots=True)
class Representation:
    """What was measured, and the states that it was measured on.

    Attributes:
        rows: metrics by language, layer and pooling.
        states: (S, D) float32 unit vectors by layer and pooling.
        sampled: sentences of the probe and of drawings, as rows of `states`.
        languages: their languages.
        retrieval: of every pair, for comparisons with other trials.
    """

    rows: list[LayerMetrics]
    states: Mapping[LayerPooling, Tensor]
    sampled: Tensor
    languages: tuple[str, ...]
    retrieval: PairRetrieval

    def to_keep(self, headline: LayerPooling) -> SentenceStates:
        """What comparisons and drawings need; `headline` is the layer and pooling that is reported."""
        states = {key: vectors[self.sampled].numpy() for key, vectors in self.states.items()}
        by_name = {(layer, str(pooling)): vectors for (layer, pooling), vectors in states.items()}
        return replace(gather_states(by_name, self.languages, headline), retrieval=self.retrieval)


def measure_representation(
    model: Any,
    tokenizer: Any,
    pairs_by_language: Mapping[str, Sequence[TranslationPair]],
    *,
    split: Split,
    poolings: Sequence[Pooling] = POOLINGS,
    max_length: int = 512,
    max_batch_tokens: int = 8192,
) -> Representation:
    """Metrics of every layer, embeddings included, for every language; one forward pass per sentence.

    Args:
        model: a causal LM; its mode and weights are left as they are.
        tokenizer: its tokenizer.
        pairs_by_language: N >= 2 held-out pairs per language.
        split: where the pairs come from.
        poolings: how token states become one vector.
        max_length: longest sentence in tokens; longer ones are cut on the right.
        max_batch_tokens: tokens of a padded batch.

    Returns: one row per language, layer 0..L and pooling, and the states.
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
    row_of = {text: index for index, text in enumerate(dict.fromkeys(texts))}  # each sentence once, as pairs share some
    length = min(max_length, max_positions(model))
    ids = [tokens[:length] for tokens in tokenizer(list(row_of), verbose=False)["input_ids"]] if row_of else []
    vectors = _embed(model, ids, poolings, max_batch_tokens)
    sampled = _sample(pairs_by_language, row_of)
    probed = _probe(vectors, sampled)
    rows = []
    found: dict[tuple[int, str], list[Tensor]] = {}
    for language, pairs in pairs_by_language.items():
        source = torch.tensor([row_of[pair.source] for pair in pairs])
        target = torch.tensor([row_of[pair.target] for pair in pairs])
        for (layer, pooling), states in vectors.items():
            hits = _hits(states[source], states[target])
            found.setdefault((layer, pooling), []).append(hits.sum(dim=0, dtype=torch.uint8))
            rows.append(
                LayerMetrics(
                    split=split,
                    language=language,
                    layer=layer,
                    pooling=pooling,
                    **language_metrics(states[source], states[target], hits),
                    **probed[layer, pooling].get(language, {}),
                    n=len(pairs),
                )
            )
    sampled_rows = torch.tensor([index for index, _, _ in sampled], dtype=torch.long)
    retrieval = PairRetrieval(
        tuple(language for language, pairs in pairs_by_language.items() for _ in pairs),
        tuple(_contents([pair for pairs in pairs_by_language.values() for pair in pairs])),
        {key: torch.cat(parts).numpy() for key, parts in found.items()},
    )
    return Representation(rows, vectors, sampled_rows, tuple(language for _, language, _ in sampled), retrieval)


def _contents(pairs: Sequence[TranslationPair]) -> list[str]:
    """A pivot's sentence that stands in the pairs of several languages is one content, whatever they call it."""
    return content_groups([(f"text {pair.source}", f"name {pair.content_id}") for pair in pairs])


def _sample(
    pairs_by_language: Mapping[str, Sequence[TranslationPair]], row_of: Mapping[str, int]
) -> list[tuple[int, str, str]]:
    """Row, language and content of the sampled sentences, none twice in a language."""
    pairs = [pair for pairs in pairs_by_language.values() for pair in pairs[:NUM_SAMPLED]]
    contents = _contents(pairs)
    content_of: dict[tuple[int, str], str] = {}
    for pair, content in zip(pairs, contents, strict=True):
        for text, language in ((pair.source, pair.source_language), (pair.target, pair.target_language)):
            content_of.setdefault((row_of[text], language), content)
    return [(index, language, content) for (index, language), content in content_of.items()]


def _probe(
    vectors: Mapping[LayerPooling, Tensor], sampled: Sequence[tuple[int, str, str]]
) -> dict[LayerPooling, dict[str, dict[str, float]]]:
    """Fields of the probe by layer and pooling, then by language; none where there is one language."""
    languages = [language for _, language, _ in sampled]
    if len(set(languages)) < 2:
        return {key: {} for key in vectors}
    probe = LanguageProbe(languages, [content for _, _, content in sampled])
    rows = torch.tensor([index for index, _, _ in sampled])
    return {
        key: {
            language: {"language_probe": share, "language_probe_chance": probe.chance}
            for language, share in probe.accuracy(states[rows].double().numpy()).items()
        }
        for key, states in vectors.items()
    }


@torch.inference_mode()
def _embed(
    model: Any, ids: Sequence[Sequence[int]], poolings: Sequence[Pooling], max_batch_tokens: int
) -> dict[LayerPooling, Tensor]:
    """(number of sentences, D) float32 unit vectors by layer and pooling; one forward pass per batch."""
    device = next(model.parameters()).device
    parts: dict[LayerPooling, list[Tensor]] = {}
    order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
    was_training = model.training
    model.eval()
    lengths = lengths_of(model)
    try:
        begin = 0
        while begin < len(order):  # longest first: what takes most memory fails at once, and little is padded
            width = max(1, len(ids[order[begin]]))
            batch = order[begin : begin + max(1, max_batch_tokens // width)]
            batch = [index for index in batch if lengths.kind(len(ids[index])) == lengths.kind(len(ids[batch[0]]))]
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
    restored = torch.empty(len(order), dtype=torch.long)  # from the order of lengths to that of the sentences
    restored[torch.tensor(order)] = torch.arange(len(order))
    return {key: torch.cat(rows)[restored] for key, rows in parts.items()}


def _pool_all(states: Tensor, mask: Tensor, poolings: Sequence[Pooling]) -> dict[Pooling, Tensor]:
    """(B, D) float32 unit vectors on the CPU of each pooling of (B, T, D) states."""
    return {name: normalize(pool(states, mask, name).float(), dim=-1).cpu() for name in poolings}


def language_metrics(source: Tensor, target: Tensor, hits: Tensor | None = None) -> dict[str, float]:
    """The fields of `LayerMetrics` that N >= 2 pairs of (N, D) unit vectors decide, row i with row i.

    `hits` are what `_hits` gives of them, where it is known.
    """
    hits = _hits(source, target) if hits is None else hits
    retrieval, alignment, uniformity = pair_metrics(source, target, hits)
    from_pivot, to_pivot = hits.float().mean(dim=1)
    return {
        "retrieval_at_1": retrieval,
        "retrieval_from_pivot": float(from_pivot),
        "retrieval_to_pivot": float(to_pivot),
        "alignment": alignment,
        "uniformity": uniformity,
        "anisotropy": (mean_cosine(source) + mean_cosine(target)) / 2,
    }


def pair_metrics(source: Tensor, target: Tensor, hits: Tensor | None = None) -> tuple[float, float, float]:
    """Retrieval@1, alignment and uniformity of N >= 2 pairs of (N, D) unit vectors, row i with row i.

    Returns: share of rows whose translation is the nearest neighbour by cosine, mean of both directions, in [0, 1];
        mean squared distance of a pair, in [0, 4]; log of the mean of exp(-2 squared distance) over the pairs i < j of
        a side, mean of both sides, in [-8, 0].
    Source: arXiv:2005.10242, with alpha = 2 and t = 2.
    """
    forward, backward = (_hits(source, target) if hits is None else hits).float().mean(dim=1)
    alignment = (source - target).square().sum(dim=1).mean()
    uniformity = (_uniformity(source) + _uniformity(target)) / 2
    return float((forward + backward) / 2), float(alignment), uniformity


def _hits(source: Tensor, target: Tensor) -> Tensor:
    """(2, N) whether the own row of `target` is the nearest to each of `source` by cosine, and the other way round."""
    cosine = source @ target.T  # (N, N)
    gold = torch.arange(len(source))
    return torch.stack([cosine.argmax(dim=1) == gold, cosine.argmax(dim=0) == gold])


def mean_cosine(vectors: Tensor) -> float:
    """Anisotropy: mean cosine of two different sentences, over all pairs of N >= 2 (N, D) unit vectors.

    Returns: 1 where all point the same way, 0 in expectation where directions are uniform, at least -1 / (N - 1).
    Source: arXiv:1909.00512, with sentences for words and every pair for a random draw of pairs.
    """
    wide = vectors.double()
    whole = wide.sum(dim=0).square().sum() - wide.square().sum()
    return float(whole) / (len(wide) * (len(wide) - 1))


def _uniformity(vectors: Tensor) -> float:
    squared = torch.pdist(vectors.double()).square()
    return float((-2 * squared).logsumexp(dim=0)) - math.log(len(squared))


def choose_headline(validation: Sequence[LayerMetrics]) -> LayerPooling | None:
    """Layer and pooling to report, those that retrieve best on validation; None where nothing was measured."""
    retrieval: dict[LayerPooling, list[float]] = {}
    for row in validation:
        retrieval.setdefault((row.layer, row.pooling), []).append(row.retrieval_at_1)
    return min(retrieval, key=lambda key: (-fmean(retrieval[key]), key[0], POOLINGS.index(key[1])), default=None)


def headline_scores(validation: Sequence[LayerMetrics], asked: Sequence[LayerMetrics]) -> list[Score]:
    """The scores of one layer and pooling, for every language.

    Layer and pooling are those with the best retrieval@1 on validation, mean over languages; the lower layer, then
    mean pooling, wins a tie.

    Args:
        validation: metrics of the validation pairs, from which layer and pooling are chosen.
        asked: metrics of the split whose scores are wanted; may be `validation` itself.

    Returns: `retrieval@1`, `alignment` and `uniformity` per language, as the task `retrieval`.
    """
    chosen = choose_headline(validation)
    return [
        Score(task="retrieval", language=row.language, split=row.split, metric=metric, value=value, n=row.n)
        for row in asked
        if (row.layer, row.pooling) == chosen
        for metric, value in (
            ("retrieval@1", row.retrieval_at_1),
            ("alignment", row.alignment),
            ("uniformity", row.uniformity),
        )
    ]
