"""What one of two workers of a test computes with its weights whole, and shared out."""

import contextlib
from typing import Any

import torch
from tiny_models import build_model
from training_cases import Listener, RandomBatches, make_training

from afp_ray.config.loss import LossConfig
from afp_ray.config.runtime import TrainingRuntime
from afp_ray.models.recomputing import recomputed
from afp_ray.records import Host
from afp_ray.training import loop
from afp_ray.training.bf16_adamw import resident
from afp_ray.training.gather import sum_gradients, sum_over_workers
from afp_ray.training.loop import TrainingRequest
from afp_ray.training.oom_retry import Sizes, fit_sizes
from afp_ray.training.optimizer import clip_gradients, make_optimizer
from afp_ray.training.sharding import free_gathered, sharded
from afp_ray.training.step import TrainingStep

CPU = torch.device("cpu")
OUT = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
CASES: dict[str, dict[str, Any]] = {
    "both": {"loss": LossConfig(layer=2, pooling="mean")},
    "first layer": {"loss": LossConfig(layer=1, instruction_weight=0.0)},
    "all layers": {"loss": LossConfig(layer="all", symmetric=True)},
    "instructions": {"loss": LossConfig(contrastive_weight=0.0)},
    "untied": {"loss": LossConfig(), "family": "qwen2"},
    "gpt2": {"loss": LossConfig(), "family": "gpt2", "steps": 1},
    "chunks": {"loss": LossConfig(layer=2), "pair_chunk_size": 1},
    "recomputed": {"loss": LossConfig(layer=2), "recomputes": True},
    "bf16": {"loss": LossConfig(layer=2), "is_bf16": True, "steps": 1},
    "resident": {"loss": LossConfig(layer=2), "precision": "bf16_resident", "rounding": "compensated", "steps": 1},
    "gathered in bf16": {"loss": LossConfig(layer=2), "gathered_dtype": torch.bfloat16, "steps": 1},
}

ON_ANY_DEVICE = ("both", "all layers", "chunks", "recomputed")
"""Cases that are compared on a GPU too."""


def train(
    rank: int,
    *,
    is_sharded: bool,
    loss: LossConfig,
    family: str = "llama",
    steps: int = 3,
    pair_chunk_size: int | None = None,
    recomputes: bool = False,
    is_bf16: bool = False,
    gathered_dtype: torch.dtype | None = None,
    device: torch.device = CPU,
    num_workers: int = 2,
    **fields: Any,
) -> dict[str, Any]:
    """Losses, gradient norms, gradients of the first step and final weights of this worker, all on the CPU."""
    model = build_model(family).to(device).train()
    identities = {name: id(value) for name, value in model.named_parameters()}
    training = make_training(max_steps=steps, weight_decay=0.1, max_grad_norm=5.0, **fields)
    found: dict[str, Any] = {"losses": [], "norms": []}
    with contextlib.ExitStack() as stack:
        if training.precision == "bf16_resident":
            stack.enter_context(resident(model))
        trained = stack.enter_context(sharded(model, gathered_dtype=gathered_dtype)) if is_sharded else model
        if recomputes:
            stack.enter_context(recomputed(trained))
        step_of = TrainingStep(trained, loss, device=device, is_bf16=is_bf16, pair_chunk_size=pair_chunk_size)
        optimizer = make_optimizer(trained, training, device)
        for step in range(steps):
            torch.manual_seed(step)
            optimizer.zero_grad()
            batches = RandomBatches(rank=rank, world_size=num_workers, micro_batch_size=1)
            losses = step_of.backward(batches.batch(step))
            if is_sharded:
                free_gathered(trained)
            else:
                sum_gradients(trained.parameters())
            if step == 0:
                found["gradients"] = {
                    name: (value.grad.full_tensor() if is_sharded else value.grad).float().cpu().clone()
                    for name, value in trained.named_parameters()
                    if value.grad is not None
                }
                own = [value.to_local() if is_sharded else value for value in trained.parameters()]
                found["held"] = sum(value.numel() for value in own)
            found["norms"].append(float(clip_gradients(trained.parameters(), training.max_grad_norm)))
            optimizer.step()
            values = [value for value in (losses.contrastive, losses.instruction) if value is not None]
            found["losses"] += sum_over_workers(torch.stack(values)).tolist()
    assert {name: id(value) for name, value in model.named_parameters()} == identities, "still the same, tied ones tied"
    with torch.no_grad():
        found["logits"] = model.eval()(input_ids=torch.arange(4, 12, device=device)[None]).logits.cpu()
    found["weights"] = {name: value.detach().cpu().clone() for name, value in model.named_parameters()}
    return found


def compute(rank: int) -> dict[str, Any]:
    """Every case with whole and with shared weights."""
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        plain = {key: value for key, value in case.items() if key != "gathered_dtype"}
        found[name] = {
            "whole": train(rank, is_sharded=False, **plain),
            "shares": train(rank, is_sharded=True, **case),
        }
    found["memory"] = {place: halve(rank, place) for place in ("pairs", "instructions", "nowhere")}
    return found


def compute_on(rank: int, device: str, num_workers: int, is_sharded: bool) -> dict[str, Any]:
    """Some cases of a worker on a device that it may share with others; with weights whole and perhaps shared out."""
    torch.backends.cuda.matmul.allow_tf32 = False
    forms = {"whole": False, **({"shares": True} if is_sharded else {})}
    return {
        name: {
            form: train(rank, is_sharded=shares, device=torch.device(device), num_workers=num_workers, **CASES[name])
            for form, shares in forms.items()
        }
        for name in ON_ANY_DEVICE
    }


def captured_on(rank: int, device: str, num_workers: int, step: str) -> dict[str, Any]:
    """Six steps of the training loop on instructions, each captured in two halves with the exchange between them."""
    model, listener = build_model("llama").to(device), Listener()
    training = make_training(precision="bf16", max_steps=10_000, warmup_ratio=0.0)
    request = TrainingRequest(LossConfig(contrastive_weight=0.0), training, is_rung=lambda done, tokens: done >= 6)
    runtime = TrainingRuntime.model_validate({"step": step, "checkpoint_every_s": None})
    batches = RandomBatches(rank=rank, world_size=num_workers)
    summary = loop.train(model, batches, request, Host(reporter=listener, runtime=runtime))
    return {
        "form": summary.step_form,
        "notes": summary.notes,
        "losses": [metrics["instruction_loss"] for metrics in listener.metrics],
        "weights": {name: value.detach().cpu() for name, value in model.named_parameters()},
    }


class LittleMemory(TrainingStep):
    """Memory runs out on the second worker, with more than one instruction or before the pairs are exchanged."""

    place, rank = "nowhere", 0

    def instruction_share(self, inputs: Any) -> torch.Tensor:
        if self.place == "instructions" and self.rank == 1 and len(inputs.row.lengths) > 1:
            raise RuntimeError(OUT)
        return super().instruction_share(inputs)

    def backward(self, batch: Any, **options: Any) -> Any:
        if self.place == "pairs" and self.rank == 1 and len(batch.instructions[0].input_ids) > 1:
            raise RuntimeError(OUT)
        return super().backward(batch, **options)


def halve(rank: int, place: str) -> dict[str, Any]:
    """Sizes and weights of a worker, where the memory of the second runs out at one place."""
    model = build_model("llama").train()
    step_of = LittleMemory(model, LossConfig(), device=CPU)
    step_of.place, step_of.rank = place, rank
    optimizer = make_optimizer(model, make_training(), CPU)
    sizes = Sizes(1, 2) if place == "nowhere" else Sizes(2, 2)
    for step in range(2):

        def attempt(sizes: Sizes, step: int = step) -> None:
            optimizer.zero_grad()
            batches = RandomBatches(rank=rank, world_size=2)
            step_of.backward(batches.batch(step, micro_batch_size=sizes.micro_batch_size))

        _, sizes = fit_sizes(attempt, sizes, model=model, device=CPU)
        sum_gradients(model.parameters())
        optimizer.step()
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    return {"sizes": [sizes.micro_batch_size, sizes.num_halvings], "weights": weights}
