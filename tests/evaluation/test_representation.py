"""Retrieval, alignment and uniformity: closed forms and what must not change them."""

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from afp_ray.data.rows import TranslationPair
from afp_ray.errors import DataError
from afp_ray.evaluation.representation import (
    choose_headline,
    headline_scores,
    language_metrics,
    mean_cosine,
    measure_representation,
    pair_metrics,
)
from afp_ray.records import LayerMetrics

SENTENCES = [
    ("Mina is a doctor.", "米娜是医生。"),
    ("Adam planted some seeds so he watered the garden.", "亚当种下了一些种子。"),
    ("The trophy does not fit.", "奖杯放不进箱子。"),
    ("Clara heard a strange sound in the night.", "克拉拉听到了奇怪的声音。"),
    ("Tom lives.", "汤姆住在欧洲，他学代数。"),
]


def pairs(sentences: list[tuple[str, str]]) -> list[TranslationPair]:
    return [TranslationPair(a, b, "en", "zh", f"pair:{number}") for number, (a, b) in enumerate(sentences)]


def test_orthonormal_pairs_have_their_closed_forms() -> None:
    same = torch.eye(4)
    assert pair_metrics(same, same) == pytest.approx((1.0, 0.0, -4.0))  # all distances squared are 2, t = 2
    assert pair_metrics(same, same.roll(1, 0)) == pytest.approx((0.0, 2.0, -4.0))


def test_retrieval_is_the_mean_of_both_directions() -> None:
    # Both targets look like source 0: it finds its own, source 1 finds 0's or its own; backwards both find source 0.
    source = torch.eye(2)
    target = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.2]]), dim=-1)
    retrieval, _, _ = pair_metrics(source, target)
    assert retrieval == pytest.approx((2 / 2 + 1 / 2) / 2)


def test_vectors_at_one_point_have_uniformity_zero_and_spread_lowers_it() -> None:
    point = normalize(torch.ones(5, 3), dim=-1)
    assert pair_metrics(point, point)[2] == pytest.approx(0, abs=1e-6)
    spread = normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    expected = [
        math.log(sum(math.exp(-2 * (side[i] - side[j]).square().sum().item()) for i in range(5) for j in range(i)) / 10)
        for side in (spread, point)
    ]
    assert pair_metrics(spread, point)[2] == pytest.approx(sum(expected) / 2, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "bloom", "xglm", "gpt2"])
def test_layers_equal_those_of_a_plain_forward(family: str, tokenizer: Any, make_model: Any) -> None:
    model = make_model(family)
    rows = measure_representation(model, tokenizer, {"zh": pairs(SENTENCES)}, split="test").rows
    assert {(row.layer, row.pooling) for row in rows} == {(layer, p) for layer in range(3) for p in ("mean", "last")}

    def embed(text: str, layer: int, pooling: str) -> torch.Tensor:
        with torch.no_grad():
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            states = model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]
        return normalize(states[-1] if pooling == "last" else states.mean(dim=0), dim=-1)

    for row in rows:
        source = torch.stack([embed(a, row.layer, row.pooling) for a, _ in SENTENCES])
        target = torch.stack([embed(b, row.layer, row.pooling) for _, b in SENTENCES])
        expected = pair_metrics(source, target)
        assert (row.retrieval_at_1, row.alignment, row.uniformity) == pytest.approx(expected, abs=2e-4)
        assert (row.n, row.split, row.language) == (5, "test", "zh")


def test_metrics_do_not_depend_on_batches_or_the_order_of_pairs(tokenizer: Any, llama: Any) -> None:
    def measure(sentences: list[tuple[str, str]], max_batch_tokens: int) -> list[float]:
        rows = measure_representation(
            llama, tokenizer, {"zh": pairs(sentences)}, split="test", max_batch_tokens=max_batch_tokens
        ).rows
        return [value for row in rows for value in (row.retrieval_at_1, row.alignment, row.uniformity)]

    # Layer 0 under last pooling ties (one full stop is like another): ties may break either way, so it is left out.
    whole, alone, reverse = measure(SENTENCES, 8192), measure(SENTENCES, 1), measure(SENTENCES[::-1], 40)
    ties = slice(3, 6)
    del whole[ties], alone[ties], reverse[ties]
    assert whole == pytest.approx(alone, abs=1e-4)
    assert whole == pytest.approx(reverse, abs=1e-4)


def test_a_sentence_and_itself_align_perfectly_in_every_layer(tokenizer: Any, llama: Any) -> None:
    same = [(a, a) for a, _ in SENTENCES]
    for row in measure_representation(llama, tokenizer, {"en": pairs(same)}, split="test", poolings=("mean",)).rows:
        assert (row.retrieval_at_1, row.alignment) == (1, 0)


def test_fewer_than_two_pairs_are_refused(tokenizer: Any, llama: Any) -> None:
    with pytest.raises(DataError, match="1 held-out test pairs in 'zh'"):
        measure_representation(llama, tokenizer, {"zh": pairs(SENTENCES[:1])}, split="test")


def test_anisotropy_is_the_mean_cosine_of_two_different_sentences() -> None:
    assert mean_cosine(torch.ones(4, 1)) == 1
    assert mean_cosine(torch.eye(4)) == 0
    assert mean_cosine(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == -1
    vectors = normalize(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    pairs_of = [float(vectors[i] @ vectors[j]) for i in range(6) for j in range(i)]
    assert mean_cosine(vectors) == pytest.approx(sum(pairs_of) / 15, abs=1e-6)


def test_both_ways_of_retrieval_and_both_sides_of_anisotropy_are_kept_apart(tokenizer: Any, llama: Any) -> None:
    source = torch.eye(2)
    target = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.2]]), dim=-1)
    found = language_metrics(source, target)
    assert (found["retrieval_from_pivot"], found["retrieval_to_pivot"]) == (1.0, 0.5)
    assert found["retrieval_at_1"] == 0.75
    assert found["anisotropy"] == pytest.approx((0 + float(target[0] @ target[1])) / 2)
    for row in measure_representation(llama, tokenizer, {"zh": pairs(SENTENCES)}, split="test").rows:
        assert row.retrieval_from_pivot is not None
        assert row.retrieval_to_pivot is not None
        assert row.retrieval_at_1 == pytest.approx((row.retrieval_from_pivot + row.retrieval_to_pivot) / 2)


def test_the_probe_names_its_chance_and_tells_scripts_apart(tokenizer: Any, llama: Any) -> None:
    by_language = {"zh": pairs(SENTENCES), "sw": [replaced(pair, "sw") for pair in pairs(SENTENCES)]}
    measured = measure_representation(llama, tokenizer, by_language, split="test")
    assert {row.language_probe_chance for row in measured.rows} == {1 / 3}
    assert sorted(set(measured.languages)) == ["en", "sw", "zh"]
    # English stands in the pairs of both and counts once; Swahili has the very sentences of Chinese here.
    assert len(measured.languages) == 15
    shares = {row.language: row.language_probe for row in measured.rows if (row.layer, row.pooling) == (0, "mean")}
    assert shares["zh"] == shares["sw"]
    assert shares["zh"] is not None
    assert 0.3 <= shares["zh"] <= 0.5  # at best it tells them from English, and two languages share each sentence
    drawn = measured.to_keep((1, "mean"))
    assert drawn.languages == measured.languages
    assert drawn.states.shape == (15, 32)


def replaced(pair: TranslationPair, language: str) -> TranslationPair:
    return TranslationPair(pair.source, pair.target, "en", language, f"{language} {pair.content_id}")


def layer(number: int, pooling: Any, language: str, retrieval: float, split: Any = "validation") -> LayerMetrics:
    return LayerMetrics(
        split=split,
        language=language,
        layer=number,
        pooling=pooling,
        retrieval_at_1=retrieval,
        alignment=0.5,
        uniformity=-1,
        n=10,
    )


def test_the_headline_is_chosen_on_validation_and_read_on_the_split_asked() -> None:
    validation = [
        layer(0, "mean", "zh", 0.9), layer(0, "mean", "th", 0.1),
        layer(1, "last", "zh", 0.6), layer(1, "last", "th", 0.6),
    ]  # fmt: skip
    test = [
        layer(0, "mean", "zh", 1.0, "test"), layer(0, "mean", "th", 1.0, "test"),
        layer(1, "last", "zh", 0.2, "test"), layer(1, "last", "th", 0.3, "test"),
    ]  # fmt: skip
    scores = {(s.language, s.metric, s.split): s.value for s in headline_scores(validation, test)}
    assert scores["zh", "retrieval@1", "test"] == 0.2
    assert scores["th", "retrieval@1", "test"] == 0.3
    assert len(scores) == 6
    assert {s.value for s in headline_scores(validation, validation) if s.metric == "retrieval@1"} == {0.6}


def test_the_lower_layer_and_mean_pooling_win_a_tie() -> None:
    rows = [layer(2, "mean", "zh", 0.5), layer(1, "last", "zh", 0.5), layer(1, "mean", "zh", 0.5)]
    rows[2] = rows[2].model_copy(update={"alignment": 0.125})
    assert {s.value for s in headline_scores(rows, rows) if s.metric == "alignment"} == {0.125}
    assert choose_headline(rows) == (1, "mean")
    assert headline_scores([], []) == []
    assert choose_headline([]) is None
