"""The contrastive term: duplicates are no negatives, and chunks of pairs give the gradient of the whole batch."""

import math
from typing import Any

import pytest
import torch
from tiny_models import build_model
from training_cases import RandomBatches, relative_error

from afp_ray.config.loss import LossConfig
from afp_ray.config.training import LoraConfig
from afp_ray.data.batches import PairBatch, TrainBatch
from afp_ray.data.packing import PackedBatch
from afp_ray.losses import contrastive_loss
from afp_ray.models.adapters import add_adapters
from afp_ray.models.hidden_states import decoder_blocks
from afp_ray.models.recomputing import recomputed
from afp_ray.training.contrastive import ContrastiveTerm
from afp_ray.training.packed_rows import pack_pairs, pair_keys, split_pairs
from afp_ray.training.step import TrainingStep
from afp_ray.training.step_inputs import pair_inputs

CPU = torch.device("cpu")


def random_pairs(size: int = 7, *, seed: int = 0) -> PairBatch:
    pairs = RandomBatches(batch_size=size).batch(seed).pairs
    assert isinstance(pairs, PairBatch)
    return pairs


def chosen(pairs: PairBatch, sources: list[int], targets: list[int]) -> PairBatch:
    """Pairs of these sources and these targets."""
    return PairBatch(
        pairs.source_ids[sources], pairs.source_mask[sources], pairs.target_ids[targets], pairs.target_mask[targets]
    )


def term_of(model: Any, **fields: Any) -> ContrastiveTerm:
    return ContrastiveTerm(model, LossConfig(**fields), device=CPU)


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def backward(
    model: Any, pairs: PairBatch | PackedBatch, *, chunk_size: int | None = None, is_bf16: bool = False, **fields: Any
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one batch."""
    model.zero_grad(set_to_none=True)
    term = ContrastiveTerm(model, LossConfig(**fields), device=CPU, is_bf16=is_bf16)
    value = term.backward(pairs, chunk_size=chunk_size)
    return value.item(), gradients_of(model)


def test_keys_are_those_of_the_tokens_whatever_the_layout() -> None:
    pairs = chosen(random_pairs(), [0, 1, 2, 0], [3, 4, 3, 5])
    wider = PairBatch(
        *(
            torch.nn.functional.pad(part, (0, 3))
            for part in (pairs.source_ids, pairs.source_mask, pairs.target_ids, pairs.target_mask)
        )
    )
    keys = pair_keys(pack_pairs(pairs))
    assert torch.equal(keys, pair_keys(pack_pairs(wider)))
    assert keys.shape == (4, 2)
    assert (keys[0] == keys[3]).tolist() == [True, False]
    assert (keys[0] == keys[2]).tolist() == [False, True]
    assert len(set(keys.flatten().tolist())) == 6
    chunks = torch.cat([pair_keys(chunk) for chunk in split_pairs(pack_pairs(pairs), 3)])
    assert torch.equal(chunks, keys)


@pytest.mark.parametrize("symmetric", [False, True])
def test_pairs_that_share_a_side_are_no_negatives_of_each_other(symmetric: bool) -> None:
    pairs = chosen(random_pairs(), [0, 1, 2, 0, 4], [0, 1, 2, 3, 1])  # 0 and 3 share the source, 1 and 4 the target
    term = term_of(build_model("llama"), symmetric=symmetric, temperature=0.2)
    ((source, target),) = term.embed(pair_inputs(pairs))
    cosine = torch.nn.functional.normalize(source, dim=-1) @ torch.nn.functional.normalize(target, dim=-1).T / 0.2
    counted = torch.ones(5, 5)
    for row, other in ((0, 3), (1, 4)):
        counted[row, other] = counted[other, row] = 0
    forward, reverse = (-(part.diag() - (part.exp() * counted).sum(dim=1).log()).mean() for part in (cosine, cosine.T))
    expected = (forward + reverse) / 2 if symmetric else forward
    assert term.share(pair_inputs(pairs)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_negatives_of_the_own_side_leave_out_what_shares_a_side() -> None:
    pairs = chosen(random_pairs(), [0, 1, 2, 0, 4], [0, 1, 2, 3, 1])
    term = term_of(build_model("llama"), negatives_from="both", temperature=0.2)
    ((source, target),) = (tuple(map(torch.nn.functional.normalize, sides)) for sides in term.embed(pair_inputs(pairs)))
    to_targets, to_sources = source @ target.T / 0.2, source @ source.T / 0.2
    related = torch.eye(5)
    for row, other in ((0, 3), (1, 4)):
        related[row, other] = related[other, row] = 1
    of_others = to_targets.exp() * (1 - related + torch.eye(5)) + to_sources.exp() * (1 - related)
    expected = (of_others.sum(dim=1).log() - to_targets.diag()).mean()
    assert term.share(pair_inputs(pairs)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_batch_of_one_pair_over_and_over_has_nothing_to_tell_apart() -> None:
    pairs = chosen(random_pairs(), [2] * 4, [2] * 4)
    value, gradients = backward(build_model("llama"), pairs, symmetric=True)
    assert value == 0
    assert all(float(gradient.abs().max()) == 0 for gradient in gradients.values())


def test_the_order_of_the_pairs_does_not_matter() -> None:
    model, pairs, order = build_model("llama"), random_pairs(), [4, 0, 6, 2, 5, 1, 3]
    value, expected = backward(model, pairs, layer="all", symmetric=True)
    permuted, gradients = backward(model, chosen(pairs, order, order), layer="all", symmetric=True)
    assert permuted == pytest.approx(value, rel=1e-6)
    assert relative_error(gradients, expected) <= 1e-6


@pytest.mark.parametrize("layer", [0, 1, 3, "middle", "all"])
@pytest.mark.parametrize("chunk_size, is_packed", [(1, False), (3, True), (6, False)])
def test_chunks_give_the_loss_and_gradient_of_the_whole_batch(
    layer: int | str, chunk_size: int, is_packed: bool
) -> None:
    model = build_model("llama")
    fields: dict[str, Any] = {
        "layer": layer,
        "symmetric": chunk_size != 1,
        "negatives_from": "both" if chunk_size == 3 else "other",
        "pooling": "mean",
        "contrastive_weight": 0.7,
    }
    pairs = chosen(random_pairs(), [0, 1, 2, 3, 4, 0, 6], [0, 1, 2, 3, 1, 5, 6])
    value, expected = backward(model, pairs, **fields)
    rows = pack_pairs(pairs) if is_packed else pairs
    chunked, gradients = backward(model, rows, chunk_size=chunk_size, **fields)
    assert chunked == pytest.approx(value, rel=1e-6)
    assert relative_error(gradients, expected) <= 1e-6


@pytest.mark.parametrize("family", ["bloom", "xglm", "gpt2"])
def test_chunks_give_the_gradient_of_the_whole_batch_in_other_families(family: str) -> None:
    model, pairs = build_model(family), random_pairs()
    value, expected = backward(model, pairs, layer=2)
    chunked, gradients = backward(model, pairs, chunk_size=2, layer=2)
    assert chunked == pytest.approx(value, rel=1e-6)
    assert relative_error(gradients, expected) <= 1e-6


def test_a_chunk_draws_the_same_dropout_in_both_passes() -> None:
    model, pairs = build_model("gpt2").train(), random_pairs()  # drops a tenth
    term = term_of(model, layer=2)
    torch.manual_seed(5)
    parts = [term.embed(pair_inputs(chunk))[0] for chunk in split_pairs(pack_pairs(pairs), 3)]
    sides = [torch.cat([part[side] for part in parts]) for side in (0, 1)]
    expected = contrastive_loss(sides[0], sides[1], 0.05)
    expected.backward()
    after, reference = torch.rand(3), {name: value.clone() for name, value in gradients_of(model).items()}
    torch.manual_seed(5)
    value, gradients = backward(model, pairs, chunk_size=3, layer=2)
    assert value == pytest.approx(expected.item(), rel=1e-6)
    assert relative_error(gradients, reference) <= 1e-6
    assert torch.equal(torch.rand(3), after)
    torch.manual_seed(6)
    assert backward(model, pairs, chunk_size=3, layer=2)[0] != pytest.approx(value, rel=1e-3)


def test_chunks_and_recomputed_blocks_go_together() -> None:
    model, pairs = build_model("llama").train(), random_pairs()
    value, expected = backward(model, pairs, layer=2)
    with recomputed(model):
        chunked, gradients = backward(model, pairs, chunk_size=3, layer=2)
    assert chunked == pytest.approx(value, rel=1e-6)
    assert relative_error(gradients, expected) <= 1e-6


def test_chunks_are_exact_under_autocast_too() -> None:
    model, pairs = build_model("llama"), random_pairs()
    value, expected = backward(model, pairs, is_bf16=True, temperature=1.0)
    chunked, gradients = backward(model, pairs, chunk_size=3, is_bf16=True, temperature=1.0)
    assert chunked == pytest.approx(value, rel=1e-3)
    assert relative_error(gradients, expected) <= 2e-2  # bf16 rounds the sum of each chunk's gradients


def test_frozen_layers_are_passed_over_in_chunks() -> None:
    model, pairs = add_adapters(build_model("llama"), LoraConfig(rank=2)), random_pairs()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.fill_(0.1)
    loss, expected = backward(model, pairs, layer="all")
    chunked, gradients = backward(model, pairs, chunk_size=2, layer="all")
    assert all("lora" in name for name in gradients)
    assert chunked == pytest.approx(loss, rel=1e-6)
    assert relative_error(gradients, expected) <= 1e-6


def test_no_pass_with_gradient_is_larger_than_a_chunk() -> None:
    model, pairs = build_model("llama"), random_pairs(16)
    widths: list[tuple[bool, int]] = []
    decoder_blocks(model)[0].register_forward_pre_hook(
        lambda block, args: widths.append((torch.is_grad_enabled(), args[0].shape[1]))
    )
    backward(model, pairs, chunk_size=4)
    most = max(chunk.num_tokens for chunk in split_pairs(pack_pairs(pairs), 4))
    assert [has_gradient for has_gradient, _ in widths] == [False] * 4 + [True] * 4
    assert max(width for _, width in widths) == most
    widths.clear()
    backward(model, pairs, chunk_size=16)
    assert widths == [(True, pack_pairs(pairs).num_tokens)], "a chunk as large as the batch is one pass"


def test_the_step_takes_pairs_in_chunks() -> None:
    batch, loss = TrainBatch(random_pairs(), (), 0), LossConfig(instruction_weight=0.0)
    model = build_model("llama")
    step = TrainingStep(model, loss, device=CPU, pair_chunk_size=2)
    passes: list[int] = []
    decoder_blocks(model)[0].register_forward_pre_hook(lambda block, args: passes.append(1))
    value = step.backward(batch).contrastive
    assert value is not None
    assert len(passes) == 8
    gradients = gradients_of(model)
    whole, expected = backward(build_model("llama"), random_pairs(), **loss.model_dump())
    assert value.item() == pytest.approx(whole, rel=1e-6)
    assert relative_error(gradients, expected) <= 1e-6


def test_all_layers_are_the_mean_of_the_layers() -> None:
    model, pairs = build_model("llama"), random_pairs()
    values = [term_of(model, layer=layer, symmetric=True).share(pair_inputs(pairs)).item() for layer in range(4)]
    share = term_of(model, layer="all", symmetric=True).share(pair_inputs(pairs)).item()
    assert share == pytest.approx(sum(values) / 4, rel=1e-5)
    assert len({round(value, 3) for value in values}) == 4
    assert math.isfinite(share)
