"""On a card: copies of matrices give the step of autocast, and a captured update is the eager one."""

from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, build_model
from training_cases import RandomBatches, make_training, relative_error

from afp_ray.config.loss import LossConfig
from afp_ray.config.runtime import TrainingRuntime
from afp_ray.models.bf16_copies import Bf16Copies
from afp_ray.training.bf16_adamw import ResidentAdamW
from afp_ray.training.bf16_update import choose_update, joined, update_plainly
from afp_ray.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from afp_ray.training.setup import copies_for
from afp_ray.training.step import TrainingStep

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
GPU = torch.device("cuda:0")
LOSS = LossConfig(layer=2, pooling="mean")


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_give_the_losses_and_gradients_of_autocast(family: str) -> None:
    """Sums over positions have no fixed order on a card, which is all that may differ."""
    found = []
    for uses_copies in (False, True):
        model = build_model(family).to(GPU)  # without dropout
        terms = TrainingStep(model, LOSS, device=GPU, is_bf16=True)
        copies = Bf16Copies(model) if uses_copies else None
        losses = terms.backward(RandomBatches(micro_batch_size=2).batch(0))
        assert losses.contrastive is not None
        assert losses.instruction is not None
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        found.append((float(losses.contrastive), float(losses.instruction), gradients))
        if copies is not None:
            copies.close()
    (contrastive, instruction, gradients), own = found
    assert own[:2] == pytest.approx((contrastive, instruction), rel=1e-4)
    assert relative_error(own[2], gradients) < 2e-3
    assert {value.dtype for value in own[2].values()} == {torch.float32}


def test_copies_are_the_rule_on_a_card() -> None:
    copies, words = copies_for(
        build_model("xglm").to(GPU), make_training(precision="bf16"), TrainingRuntime(), GPU, is_asked=None
    )
    assert copies is not None
    assert words == "bf16 copies of float32 weights, cast once a step"


@pytest.mark.parametrize("uses_copies", [False, True])
def test_a_captured_step_is_the_eager_one(uses_copies: bool) -> None:
    """Forward, backward, clipping, update and renewed copies as one graph, at a rate that changes between replays."""
    ids = torch.randint(4, 60, (2, 12), generator=torch.Generator().manual_seed(0)).to(GPU)
    found = []
    for is_captured in (False, True):
        model = build_model("llama").to(GPU)
        copies = Bf16Copies(model) if uses_copies else None
        optimizer = make_optimizer(
            model, make_training(precision="bf16", weight_decay=0.1), GPU, copies=copies, is_capturable=True
        )
        out = torch.zeros(2, device=GPU)

        def step(model: Any = model, optimizer: Any = optimizer, out: torch.Tensor = out) -> None:
            with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
                state = model.get_decoder()(ids, use_cache=False).last_hidden_state
            loss = state.float().square().mean()
            loss.backward()
            out[0], out[1] = loss.detach(), clip_gradients(model.parameters(), 1.0)
            optimizer.step()

        values, graph = [], None
        for number in range(6):
            set_learning_rate(optimizer, 1e-3 / (number + 1))
            if number < 3 or not is_captured:  # on a side stream, as what follows is captured
                side = torch.cuda.Stream()
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    optimizer.zero_grad(set_to_none=True)
                    step()
                torch.cuda.current_stream().wait_stream(side)
            else:
                if graph is None:
                    optimizer.zero_grad(set_to_none=True)  # the graph makes its own, at addresses of its own
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph):
                        step()
                graph.replay()
            values.append(out.tolist())
        found.append((values, {name: value.detach() for name, value in model.named_parameters()}))
        if copies is not None:
            copies.close()
    (eager, weights), (captured, own) = found
    for expected, actual in zip(eager, captured, strict=True):
        assert actual == pytest.approx(expected, rel=1e-3)
    for name, value in weights.items():
        torch.testing.assert_close(own[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("rounding", ["stochastic", "compensated"])
def test_one_compiled_kernel_updates_as_plain_operations_do(rounding: Any) -> None:
    """Large weights alone, small ones together; what is drawn is the same, and few roundings differ by one place."""
    update, words = choose_update(GPU, rounding, num_weights=564_000_000, num_steps=5000)
    assert words == "by one compiled kernel, which saves about 226 s on a card"
    generator = torch.Generator(GPU).manual_seed(0)
    shapes = [(3000, 6000), (200, 300), (7,), (2048,)]
    begin = [torch.randn(shape, generator=generator, device=GPU).bfloat16() for shape in shapes]
    gradients = [(0.01 * torch.randn(shape, generator=generator, device=GPU)).bfloat16() for shape in shapes]
    found = []
    for form in (update_plainly, update):
        weights = [torch.nn.Parameter(value.clone()) for value in begin]
        groups = [{"params": weights, "draws": [*range(len(weights))]}]
        optimizer = ResidentAdamW(groups, lr=1e-3, weight_decay=0.1, rounding=rounding, update=form)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
        found.append([{"weight": weight.detach().view(-1), **optimizer.state[weight]} for weight in weights])
    for plain, compiled in zip(*found, strict=True):
        for values in (plain, compiled):
            if "lost" in values:
                values["whole"] = joined(values["weight"], values.pop("lost"))
        assert plain.pop("step") == compiled.pop("step")
        for name, expected in plain.items():
            place = 2**-7 if expected.dtype == torch.bfloat16 else 2**-20
            torch.testing.assert_close(compiled[name], expected, rtol=place, atol=1e-9, msg=name)
            assert name == "whole" or float((compiled[name] != expected).float().mean()) < 1e-2


def test_clipping_and_update_wait_for_no_card() -> None:
    model = build_model("llama").to(GPU)
    copies = Bf16Copies(model)
    optimizer = make_optimizer(model, make_training(precision="bf16"), GPU, copies=copies, is_capturable=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    clip_gradients(model.parameters(), 1.0)
    optimizer.step()  # makes its state
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        set_learning_rate(optimizer, 1e-4)
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    copies.close()
