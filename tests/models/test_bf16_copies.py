"""Layers that compute from bf16 copies give the losses and gradients of autocast over float32 weights, bit for bit."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_workers import run_workers
from resume_cases import Run, differ, numbers
from tiny_models import FAMILIES, build_model
from torch import Tensor
from training_cases import RandomBatches, make_training

from afp_ray.config.loss import LossConfig
from afp_ray.config.runtime import TrainingRuntime
from afp_ray.config.training import LoraConfig
from afp_ray.models.adapters import add_adapters
from afp_ray.models.bf16_copies import Bf16Copies, refuses_copies
from afp_ray.models.recomputing import recomputed
from afp_ray.training.captured_step import StepForm
from afp_ray.training.optimizer import clip_gradients, make_optimizer
from afp_ray.training.setup import copies_for
from afp_ray.training.step import TrainingStep

CPU = torch.device("cpu")
LOSSES: dict[str, LossConfig] = {
    "one layer": LossConfig(layer=2, pooling="mean"),
    "every layer": LossConfig(layer="all"),
    "queue": LossConfig(layer=2, negatives="queue", queue_size=10, queue_momentum=0.9),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of equal order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def steps(
    model: Any, *, uses_copies: bool, loss: LossConfig, count: int = 3, pair_chunk_size: int | None = None
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Losses, cosines and norms of a few steps, and the last gradients; the model is trained as it goes."""
    training = make_training(precision="bf16", weight_decay=0.1)
    terms = TrainingStep(model, loss, device=CPU, is_bf16=True, pair_chunk_size=pair_chunk_size)
    copies = Bf16Copies(model) if uses_copies else None
    optimizer = make_optimizer(model, training, CPU, copies=copies)
    values: list[Tensor] = []
    for step in range(count):
        torch.manual_seed(step)
        optimizer.zero_grad()
        losses = terms.backward(RandomBatches(micro_batch_size=2).batch(step), measure_cosine=True)
        norm = clip_gradients(model.parameters(), training.max_grad_norm)
        optimizer.step()  # type: ignore[no-untyped-call]
        terms.after_step()
        assert losses.contrastive is not None
        assert losses.instruction is not None
        assert losses.gradient_cosine is not None
        values += [losses.contrastive, losses.instruction, torch.tensor(losses.gradient_cosine), norm.clone()]
    if copies is not None:
        copies.close()
    return values, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def assert_equal(first: tuple[list[Tensor], dict[str, Tensor]], second: tuple[list[Tensor], dict[str, Tensor]]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(first[0], second[0], strict=True))
    assert not differ(first[1], second[1])
    assert {value.dtype for value in second[1].values()} == {torch.float32}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("family", FAMILIES)
def test_steps_are_those_of_autocast_over_float32_weights(family: str, loss: LossConfig) -> None:
    """Several passes a step, dropout where the family has it, tied heads and heads of their own."""
    models = [build_model(family).train() for _ in range(2)]
    found = [steps(model, uses_copies=uses, loss=loss) for uses, model in enumerate(models)]
    assert_equal(*found)
    weights = [dict(model.state_dict()) for model in models]
    assert not differ(*weights)
    assert {value.dtype for value in models[1].parameters()} == {torch.float32}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_pairs_in_chunks_and_recomputed_blocks_are_those_of_autocast(family: str) -> None:
    found = []
    for uses_copies in (False, True):
        model = build_model(family).train()
        with recomputed(model):
            found.append(steps(model, uses_copies=uses_copies, loss=LOSSES["one layer"], pair_chunk_size=1))
    assert_equal(*found)


@pytest.mark.parametrize("family", ["llama", "gpt2", "xglm"])
def test_adapters_learn_the_same_beside_frozen_copies(family: str) -> None:
    found = []
    for uses_copies in (False, True):
        model = add_adapters(build_model(family), LoraConfig(rank=2, dropout=0.1)).train()
        found.append(steps(model, uses_copies=uses_copies, loss=LOSSES["one layer"]))
    assert_equal(*found)
    assert all("lora_" in name for name in found[1][1])


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("case", [{}, {"training": {"lora": {"rank": 2}}}], ids=["all weights", "adapters"])
def test_a_state_of_either_form_goes_on_in_the_other(case: dict[str, Any], first: bool, tmp_path: Path) -> None:
    fields = {**case, "training": {"precision": "bf16", **case.get("training", {})}}
    straight, parted = Run(tmp_path / "straight", **fields), Run(tmp_path / "parted", **fields)
    whole = straight.go()
    assert parted.go(stop_after=10, form=StepForm(uses_copies=first)) is None
    rest = parted.go(form=StepForm(uses_copies=not first))
    assert not differ(straight.weights, parted.weights)
    assert numbers(straight.listener) == numbers(parted.listener)
    assert whole is not None
    assert rest is not None
    assert whole.computed_from == "float32 weights, cast in every forward"
    assert (rest.computed_from == "bf16 copies of float32 weights, cast once a step") == (not first)


def compared(rank: int, folder: Path) -> tuple[list[str], bool]:
    """What a worker of two finds: weights and metrics that differ between the forms."""
    runs = []
    for uses_copies in (False, True):
        fields = {"training": {"precision": "bf16", "max_steps": 4}, "micro": 1, "rank": rank, "world_size": 2}
        runs.append(Run(folder / str(uses_copies), **fields))  # type: ignore[arg-type]
        runs[-1].go(form=StepForm(uses_copies=uses_copies))
    return differ(runs[0].weights, runs[1].weights), numbers(runs[0].listener) == numbers(runs[1].listener)


def test_workers_sum_the_gradients_of_copies(tmp_path: Path) -> None:
    assert run_workers(compared, tmp_path, tmp_path) == [([], True)] * 2


def test_the_stock_model_is_back_when_they_are_closed() -> None:
    model = build_model("gpt2")
    before, ids = {name: value.clone() for name, value in model.state_dict().items()}, torch.arange(8)[None]
    logits = model(ids).logits
    with closing(Bf16Copies(model)) as copies, torch.autocast("cpu", dtype=torch.bfloat16):
        assert copies.nbytes == 2 * sum(
            value.numel()
            for name, value in model.named_parameters()
            if "ln_" not in name and "wte" not in name and "wpe" not in name
        )
        assert not torch.equal(model(ids).logits, logits)
        assert model.transformer.h[0].mlp.c_fc.weight.dtype == torch.bfloat16
    assert torch.equal(model(ids).logits, logits)
    assert not differ(before, dict(model.state_dict()))
    assert all("weight" not in vars(module) and "bias" not in vars(module) for module in model.modules())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at all inputs
def test_blocks_compiled_one_by_one_share_their_code_beside_copies() -> None:
    """Copies are attributes that change with every forward, and still one compilation serves all blocks."""
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    found = []
    for is_compiled in (False, True):
        model = build_model("xglm")  # in eval mode, without dropout
        for block in model.model.layers if is_compiled else ():
            block.forward = torch.compile(block.forward, backend=backend, fullgraph=True, dynamic=False)
        with closing(Bf16Copies(model)) as copies:
            for _ in range(2):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    states = model.get_decoder()(torch.arange(4, 16)[None], use_cache=False).last_hidden_state
                states.float().square().mean().backward()
                copies.renew()
        found.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert len(compiled) == 1
    assert not differ(*found)


def test_a_block_whose_copies_are_old_is_seen() -> None:
    """What `renew` is for: a weight that has changed since enters no product before it."""
    model = build_model("llama").train()
    terms = TrainingStep(model, LOSSES["one layer"], device=CPU, is_bf16=True)
    copies, batch = Bf16Copies(model), RandomBatches().batch(0)
    before = terms.backward(batch).instruction
    with torch.no_grad():
        dict(model.named_parameters())["model.layers.0.mlp.up_proj.weight"].mul_(1.5)
    old = terms.backward(batch).instruction
    copies.renew()
    new = terms.backward(batch).instruction
    assert before is not None
    assert old is not None
    assert new is not None
    assert torch.equal(before, old)
    assert not torch.equal(before, new)


def test_what_forbids_copies_is_said() -> None:
    def said(model: Any = None, *, asked: bool | None = True, sharding: Any = "none", **fields: Any) -> str:
        training, runtime = make_training(**{"precision": "bf16", **fields}), TrainingRuntime(sharding=sharding)
        copies, words = copies_for(model or build_model("llama"), training, runtime, CPU, is_asked=asked)
        assert (copies is not None) == (words == "bf16 copies of float32 weights, cast once a step")
        return words

    assert said() == "bf16 copies of float32 weights, cast once a step"
    assert said(asked=None) == "float32 weights, cast in every forward", "a CPU has them where they are asked for"
    assert said(precision="fp32") == "float32 weights"
    assert said(precision="bf16_resident") == "bf16 weights"
    assert said(optimizer_in_backward=True, max_grad_norm=None).endswith(": weights are updated in the backward pass")
    assert said(sharding="full").endswith(": weights are shared out among workers")
    assert said(build_model("llama").double()).endswith(": the weights are not float32")
    model = build_model("llama")
    model.config.model_type = "unknown"
    assert said(model).endswith(": bf16 copies are not known for LlamaForCausalLM")
    assert refuses_copies(build_model("xglm")) is None
