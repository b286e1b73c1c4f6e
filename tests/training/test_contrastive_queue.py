"""Negatives from a queue: the ring, the slow copy that fills it, and the loss over batch and queue."""

import copy
import json
from typing import Any

import pytest
import torch
from tiny_models import build_model
from torch.nn import functional as F
from training_cases import Listener, RandomBatches, make_training, relative_error

from afp_ray.config.loss import LossConfig
from afp_ray.config.training import LoraConfig
from afp_ray.data.batches import PairBatch
from afp_ray.models.adapters import add_adapters
from afp_ray.models.hidden_states import decoder_blocks
from afp_ray.records import Host
from afp_ray.training.bf16_adamw import resident
from afp_ray.training.contrastive import ContrastiveTerm
from afp_ray.training.loop import TrainingRequest, train
from afp_ray.training.negatives import NegativeQueue, SlowCopy
from afp_ray.training.state_tree import flatten, restore
from afp_ray.training.step import TrainingStep
from afp_ray.training.step_inputs import pair_inputs

CPU = torch.device("cpu")


def pairs_of(seed: int, size: int = 4) -> PairBatch:
    pairs = RandomBatches(batch_size=size).batch(seed).pairs
    assert isinstance(pairs, PairBatch)
    return pairs


def term_of(model: Any, **fields: Any) -> ContrastiveTerm:
    return ContrastiveTerm(
        model, LossConfig(**{"negatives": "queue", "queue_size": 6, "queue_momentum": 0.5, **fields}), device=CPU
    )


def take_steps(model: Any, term: ContrastiveTerm, seeds: range, *, chunk_size: int | None = None) -> list[float]:
    """Steps of plain gradient descent; the losses."""
    values = []
    for seed in seeds:
        model.zero_grad(set_to_none=True)
        values.append(term.backward(pairs_of(seed), chunk_size=chunk_size).item())
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.05 * parameter.grad
        term.after_step()
    return values


def test_the_ring_holds_the_last_rows() -> None:
    queue = NegativeQueue(3)
    assert len(queue) == 0
    numbers = torch.arange(12.0)
    for start, end in ((0, 2), (2, 4), (4, 5), (5, 12)):
        rows = numbers[start:end, None]
        queue.push([rows, -rows], torch.cat([rows, 2 * rows], dim=1).long())
        held = set(numbers[max(0, end - 3) : end].tolist())
        assert len(queue) == len(held)
        assert set(queue.rows[0].flatten().tolist()) == held
        assert torch.equal(queue.rows[1], -queue.rows[0])
        assert torch.equal(queue.keys, torch.cat([queue.rows[0], 2 * queue.rows[0]], dim=1).long())


@pytest.mark.parametrize("symmetric", [False, True])
def test_with_an_empty_queue_the_loss_is_that_of_the_batch(symmetric: bool) -> None:
    fields: dict[str, Any] = {"layer": "all", "symmetric": symmetric, "negatives_from": "both"}
    ours, plain = build_model("llama"), build_model("llama")
    term, other = term_of(ours, **fields), term_of(plain, **fields, negatives="global")
    assert term.backward(pairs_of(0)).item() == other.backward(pairs_of(0)).item()
    for name, value in plain.named_parameters():
        found = ours.get_parameter(name).grad
        assert (found is None) == (value.grad is None)
        assert value.grad is None or torch.equal(found, value.grad)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_over_batch_and_queue_has_its_closed_form(symmetric: bool) -> None:
    model = build_model("llama")
    term = term_of(model, layer=2, symmetric=symmetric, temperature=0.2)
    slow = copy.deepcopy(model)
    term.backward(pairs_of(7))
    term.after_step()  # nothing was updated, so the slow copy is still the model
    cosines = []
    with torch.no_grad():
        (old,), (new,) = term.embed(pair_inputs(pairs_of(7)), model=slow), term.embed(pair_inputs(pairs_of(8)))
        for here, there in ((0, 1), (1, 0)):
            candidates = torch.cat([new[there], old[there]])
            cosines.append(F.normalize(new[here], dim=-1) @ F.normalize(candidates, dim=-1).T / 0.2)  # (4, 8)
    terms = [-(cosine.diag() - cosine.exp().sum(dim=1).log()).mean().item() for cosine in cosines]
    expected = sum(terms) / 2 if symmetric else terms[0]
    assert term.share(pair_inputs(pairs_of(8))).item() == pytest.approx(expected, rel=1e-5)


def test_a_queue_of_both_sides_has_its_closed_form() -> None:
    model = build_model("llama")
    term = term_of(model, layer=2, negatives_from="both", temperature=0.2)
    slow = copy.deepcopy(model)
    term.backward(pairs_of(7))
    term.after_step()
    with torch.no_grad():
        (old,), (new,) = term.embed(pair_inputs(pairs_of(7)), model=slow), term.embed(pair_inputs(pairs_of(8)))
    candidates = F.normalize(torch.cat([new[1], old[1], new[0], old[0]]), dim=-1)
    cosine = F.normalize(new[0], dim=-1) @ candidates.T / 0.2  # (4, 16)
    cosine[range(4), range(8, 12)] = -torch.inf  # a sentence is no negative of itself
    expected = (cosine.logsumexp(dim=1) - cosine.diag()).mean()
    assert term.share(pair_inputs(pairs_of(8))).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_pair_that_comes_again_is_no_negative_of_itself() -> None:
    term = term_of(build_model("llama"))
    again, other = pairs_of(3, 1), pairs_of(4, 1)
    term.backward(again)
    term.after_step()
    assert term.share(pair_inputs(again)).item() == 0
    assert term.share(pair_inputs(other)).item() > 0.01
    same_source = PairBatch(again.source_ids, again.source_mask, other.target_ids, other.target_mask)
    same_target = PairBatch(other.source_ids, other.source_mask, again.target_ids, again.target_mask)
    assert term.share(pair_inputs(same_source)).item() == 0
    assert term.share(pair_inputs(same_target)).item() == 0


def test_the_slow_copy_is_a_moving_average_of_the_lower_layers() -> None:
    model = build_model("llama")
    first = {name: value.detach().clone() for name, value in model.named_parameters()}
    slow = SlowCopy(model, layer=2, momentum=0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    slow.update(model)
    slow.update(model)
    copied = slow.state_dict()
    assert {name for name in copied if "layers." in name} == {name for name in first if ".0." in name or ".1." in name}
    assert "model.embed_tokens.weight" in copied
    for name, value in copied.items():
        torch.testing.assert_close(value, first[name] + 1 - 0.9**2)
    upper = [part.parameters() for part in (decoder_blocks(model)[2], decoder_blocks(slow.model)[2])]
    assert all(ours is theirs for ours, theirs in zip(*upper, strict=True)), "what is not run is not copied"
    assert not any(parameter.requires_grad for name, parameter in slow.model.named_parameters() if name in copied)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_of_a_frozen_model_the_adapters_alone_are_copied() -> None:
    model = add_adapters(build_model("llama"), LoraConfig(rank=2))
    slow = SlowCopy(model, layer=1, momentum=0.5)
    assert slow.state_dict()
    assert all("lora" in name and ".0." in name for name in slow.state_dict())


def test_the_average_of_bf16_weights_does_not_stand_still() -> None:
    model = build_model("llama")
    with resident(model):
        slow = SlowCopy(model, layer=1, momentum=0.999)
        weight = model.model.embed_tokens.weight
        before = weight.detach().float().clone()
        with torch.no_grad():
            weight += 1
        slow.update(model)
        torch.testing.assert_close(
            slow.state_dict()["model.embed_tokens.weight"], before.lerp(weight.detach().float(), 0.001)
        )
        term = term_of(model, queue_momentum=0.999)
        for seed in (0, 1):
            assert torch.isfinite(term.backward(pairs_of(seed)))
            term.after_step()


def test_the_slow_copy_has_no_dropout_and_leaves_random_numbers_alone() -> None:
    model = build_model("gpt2").train()
    term = term_of(model, layer=2)
    term.backward(pairs_of(0))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    term.after_step()
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    ((_, target),) = ContrastiveTerm(build_model("gpt2"), LossConfig(layer=2), device=CPU).embed(
        pair_inputs(pairs_of(0))
    )
    torch.testing.assert_close(term.state_dict()["queue"]["rings"][1], F.normalize(target.detach(), dim=-1))


@pytest.mark.parametrize("fields", [{}, {"symmetric": True, "layer": "all"}])
def test_chunks_change_neither_losses_nor_queue_nor_slow_copy(fields: dict[str, Any]) -> None:
    whole, parts = build_model("llama"), build_model("llama")
    first, second = term_of(whole, **fields), term_of(parts, **fields)
    values = take_steps(whole, first, range(4))
    assert take_steps(parts, second, range(4), chunk_size=3) == pytest.approx(values, rel=1e-5)
    found, expected = (flatten(term.state_dict())[0] for term in (second, first))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_a_state_that_was_stored_goes_on_bit_for_bit() -> None:
    model = build_model("llama")
    term = term_of(model, symmetric=True)
    take_steps(model, term, range(3))
    tensors, plan = flatten(term.state_dict())
    stored = {name: value.clone() for name, value in tensors.items()}
    weights = copy.deepcopy(model.state_dict())
    expected = take_steps(model, term, range(3, 6))
    again = build_model("llama", seed=9)
    other = term_of(again, symmetric=True)
    again.load_state_dict(weights)
    other.load_state_dict(restore(stored, json.loads(json.dumps(plan))))
    assert take_steps(again, other, range(3, 6)) == expected
    for name, value in flatten(term.state_dict())[0].items():
        assert torch.equal(flatten(other.state_dict())[0][name], value), name
    with pytest.raises(KeyError):
        other.load_state_dict({})


def test_without_a_queue_there_is_nothing_to_store() -> None:
    for fields in ({"negatives": "global"}, {"contrastive_weight": 0.0}):
        step = TrainingStep(build_model("llama"), LossConfig(**{"negatives": "queue", **fields}), device=CPU)
        step.after_step()
        assert step.state_dict() == {}
        step.load_state_dict({})


def test_training_fills_the_queue() -> None:
    values = {}
    for negatives in ("global", "queue"):
        loss = LossConfig(negatives=negatives, queue_size=16, schedule="alternate", temperature=0.2)  # type: ignore[arg-type]
        listener = Listener()
        train(
            build_model("llama"),
            RandomBatches(),
            TrainingRequest(loss, make_training(max_steps=6)),
            Host(reporter=listener),
        )
        values[negatives] = [row["contrastive_loss"] for row in listener.metrics if "contrastive_loss" in row]
    assert values["queue"][0] == values["global"][0]
    assert all(ours > theirs for ours, theirs in zip(values["queue"][1:], values["global"][1:], strict=True))


def test_a_step_without_pairs_moves_the_slow_copy_alone() -> None:
    model = build_model("llama")
    term = term_of(model, queue_momentum=0.9)
    before = {name: value.clone() for name, value in term.state_dict()["slow"].items()}
    with torch.no_grad():
        for value in model.parameters():
            value += 1
    term.after_step()
    found = term.state_dict()
    assert relative_error(found["slow"], {name: value + 0.1 for name, value in before.items()}) <= 1e-6
    assert found["queue"]["num_pushed"] == 0
