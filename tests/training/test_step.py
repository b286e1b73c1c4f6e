"""The gradient of a step is exact: against the plain computation, across micro-batches, term by term."""

import math

import pytest
import torch
from tiny_models import FAMILIES, build_model
from training_cases import RandomBatches, gradients, relative_error

from afp_ray.config.loss import LossConfig
from afp_ray.data.batches import InstructionBatch, PairBatch, TrainBatch
from afp_ray.losses import contrastive_loss, instruction_loss
from afp_ray.models import packing
from afp_ray.models.hidden_states import position_ids
from afp_ray.models.pooling import pool
from afp_ray.training.packed_rows import num_tokens, pack_instructions, pack_pairs
from afp_ray.training.step import TrainingStep
from afp_ray.training.step_inputs import instruction_inputs_of, pair_inputs

CPU = torch.device("cpu")


def plain_gradients(batch: TrainBatch, loss: LossConfig, family: str) -> tuple[dict[str, torch.Tensor], float, float]:
    """Whole forwards with all hidden states and all logits, one backward: what a step must be equal to."""
    model = build_model(family)

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> object:
        positions = {} if family == "bloom" else {"position_ids": position_ids(mask)}
        return model(input_ids=ids, attention_mask=mask, output_hidden_states=True, **positions)

    assert isinstance(batch.pairs, PairBatch)
    of_sides = [
        [pool(states, mask, loss.pooling) for states in forward(ids, mask).hidden_states]  # type: ignore[attr-defined]
        for ids, mask in (
            (batch.pairs.source_ids, batch.pairs.source_mask),
            (batch.pairs.target_ids, batch.pairs.target_mask),
        )
    ]
    layers = {"middle": (1,), "all": (0, 1, 2, 3)}.get(str(loss.layer), (loss.layer,))  # of three blocks
    of_layers = [
        contrastive_loss(of_sides[0][layer], of_sides[1][layer], loss.temperature, symmetric=loss.symmetric)
        for layer in layers  # type: ignore[misc]
    ]
    contrastive = torch.stack(of_layers).mean()
    instruction = torch.zeros(())
    for rows in batch.instructions:
        logits = forward(rows.input_ids, rows.attention_mask).logits  # type: ignore[attr-defined]
        instruction = instruction + instruction_loss(logits, rows.labels, batch.num_supervised)
    (loss.contrastive_weight * contrastive + loss.instruction_weight * instruction).backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return found, contrastive.item(), instruction.item()


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("layer, pooling", [(0, "mean"), (1, "last"), (3, "max"), ("middle", "mean"), ("all", "last")])
def test_a_step_equals_the_plain_computation(family: str, layer: int | str, pooling: str) -> None:
    loss = LossConfig(layer=layer, pooling=pooling, temperature=0.2, symmetric=layer == 3)  # type: ignore[arg-type]
    batch = RandomBatches(micro_batch_size=2).batch(0)
    expected, contrastive, instruction = plain_gradients(batch, loss, family)
    model = build_model(family)
    losses = TrainingStep(model, loss, device=CPU).backward(batch)
    assert losses.contrastive is not None
    assert losses.instruction is not None
    assert losses.contrastive.item() == pytest.approx(contrastive, rel=1e-5)
    assert losses.instruction.item() == pytest.approx(instruction, rel=1e-5)
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert relative_error(found, expected) <= 2e-6


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_layout_of_the_batch_never_changes_the_step(side: str) -> None:
    batch = RandomBatches().batch(0)
    assert isinstance(batch.pairs, PairBatch)
    (rows,) = batch.instructions
    assert isinstance(rows, InstructionBatch)
    packed = TrainBatch(pack_pairs(batch.pairs), (pack_instructions(rows),), batch.num_supervised)
    if side == "left":
        sides = (batch.pairs.source_ids, batch.pairs.source_mask, batch.pairs.target_ids, batch.pairs.target_mask)
        pairs = PairBatch(*(to_the_left(values, sides[number // 2 * 2 + 1]) for number, values in enumerate(sides)))
        texts = (rows.input_ids, rows.attention_mask, rows.labels)
        rows = InstructionBatch(*(to_the_left(values, rows.attention_mask) for values in texts))
        batch = TrainBatch(pairs, (rows,), batch.num_supervised)
    assert relative_error(gradients(packed, LossConfig()), gradients(batch, LossConfig())) == 0
    assert num_tokens(packed) == num_tokens(batch) == int(rows.attention_mask.sum()) + packed.pairs.num_tokens  # type: ignore[union-attr]


def to_the_left(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Rows whose padding moved from the right to the left."""
    return torch.stack([torch.roll(row, int((real == 0).sum())) for row, real in zip(values, mask, strict=True)])


def test_packing_drops_no_token_and_supervises_no_first_one() -> None:
    ids = torch.tensor([[5, 6, 7, 0], [8, 9, 0, 0], [10, 11, 12, 13]])
    mask = (ids > 0).long()
    row = pack_instructions(InstructionBatch(ids, mask, ids.masked_fill(mask == 0, -100)))
    assert row.input_ids.tolist() == [[5, 6, 7, 8, 9, 10, 11, 12, 13]]
    assert row.positions.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 3]]
    assert row.lengths.tolist() == [3, 2, 4]
    assert row.labels is not None
    assert row.labels.tolist() == [[-100, 6, 7, -100, 9, -100, 11, 12, 13]]
    pairs = pack_pairs(PairBatch(ids, mask, ids[:, :2], mask[:, :2]))
    assert pairs.lengths.tolist() == [3, 2, 4, 2, 2, 2]
    assert pairs.labels is None


def test_a_family_that_cannot_be_packed_says_why_and_takes_equal_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, loss = RandomBatches().batch(0), LossConfig(layer="all", pooling="mean")
    packed = gradients(batch, loss)
    monkeypatch.setattr(packing, "FAMILIES", frozenset())
    step = TrainingStep(build_model("llama"), loss, device=CPU)
    assert step.padded_because == "packed attention is not known for the family llama"
    assert relative_error(gradients(batch, loss), packed) <= 2e-6


@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_micro_batches_never_change_the_gradient(micro_batch_size: int) -> None:
    whole = gradients(RandomBatches(batch_size=6).batch(0), LossConfig())
    parts = gradients(RandomBatches(batch_size=6, micro_batch_size=micro_batch_size).batch(0), LossConfig())
    assert relative_error(parts, whole) <= 1e-6


def test_a_weight_of_zero_removes_its_term_exactly() -> None:
    batch = RandomBatches().batch(0)
    without_rows = TrainBatch(None, batch.instructions, batch.num_supervised)
    left = gradients(batch, LossConfig(contrastive_weight=0.0))
    assert relative_error(left, gradients(without_rows, LossConfig())) == 0
    without_rows = TrainBatch(batch.pairs, (), 0)
    left = gradients(batch, LossConfig(instruction_weight=0.0))
    assert relative_error(left, gradients(without_rows, LossConfig(instruction_weight=0.0))) == 0
    assert not any("layers.1" in name or "model.norm" in name for name in left), "nothing above the layer is touched"


def test_weights_multiply_their_terms() -> None:
    batch = RandomBatches().batch(0)
    once = gradients(batch, LossConfig(contrastive_weight=1.0, instruction_weight=0.0))
    thrice = gradients(batch, LossConfig(contrastive_weight=3.0, instruction_weight=0.0))
    assert relative_error(thrice, {name: 3 * value for name, value in once.items()}) <= 1e-6


def test_the_gradient_by_finite_differences() -> None:
    loss, batch = LossConfig(temperature=0.5), RandomBatches().batch(0)
    found = gradients(batch, loss)
    model = build_model("llama").double()
    step = TrainingStep(model, loss, device=CPU)

    def value() -> float:
        with torch.no_grad():
            assert batch.pairs is not None
            shares = [step.instruction_share(inputs).item() for inputs in instruction_inputs_of(batch)]
            return step.contrastive.share(pair_inputs(batch.pairs)).item() + 1.5 * sum(shares)

    for name in (
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.2.mlp.up_proj.weight",
    ):
        parameter = model.get_parameter(name)
        index = divmod(int(found[name].abs().argmax()), parameter.shape[1])
        with torch.no_grad():
            parameter[index] += 2e-3
            above = value()
            parameter[index] -= 4e-3
            below = value()
            parameter[index] += 2e-3
        assert found[name][index].item() == pytest.approx((above - below) / 4e-3, rel=5e-3), name


def test_the_cosine_is_measured_without_changing_the_gradient() -> None:
    batch, model = RandomBatches().batch(0), build_model("llama")
    losses = TrainingStep(model, LossConfig(), device=CPU).backward(batch, measure_cosine=True)
    measured = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert relative_error(measured, gradients(batch, LossConfig())) == 0
    first = gradients(batch, LossConfig(instruction_weight=0.0))
    second = gradients(batch, LossConfig(contrastive_weight=0.0))
    dot = sum(float((first[name] * second[name]).sum()) for name in first)
    norms = [math.sqrt(sum(float(value.square().sum()) for value in part.values())) for part in (first, second)]
    assert losses.gradient_cosine == pytest.approx(dot / norms[0] / norms[1], abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "xglm", "bloom", "gpt_neo"])
def test_bf16_is_near_and_keeps_float32_gradients(family: str) -> None:
    batch = RandomBatches().batch(0)
    loss = LossConfig(temperature=1.0, pooling="mean")
    half = gradients(batch, loss, family=family, is_bf16=True)
    assert {value.dtype for value in half.values()} == {torch.float32}
    assert relative_error(half, gradients(batch, loss, family=family)) < 0.05


def test_a_batch_without_supervised_positions_gives_no_nan() -> None:
    batch = RandomBatches().batch(0)
    rows = batch.instructions[0]
    rows.labels.fill_(-100)
    model = build_model("llama")
    losses = TrainingStep(model, LossConfig(contrastive_weight=0.0), device=CPU).backward(TrainBatch(None, (rows,), 0))
    assert losses.instruction is not None
    assert losses.instruction.item() == 0
    assert all(parameter.grad is None for parameter in model.parameters())
