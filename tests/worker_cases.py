"""What one worker of a test computes: gradients of a batch, and a short training."""

from typing import Any

import torch
from tiny_models import build_model
from training_cases import Listener, RandomBatches, make_training

from afp_ray.config.loss import LossConfig
from afp_ray.training.gather import gather_rows, sum_gradients
from afp_ray.training.loop import train
from afp_ray.training.step import TrainingStep

CASES = {
    "both": LossConfig(layer=2, pooling="mean"),
    "symmetric": LossConfig(layer=1, symmetric=True, instruction_weight=0.0),
    "instructions": LossConfig(contrastive_weight=0.0),
}


def compute(rank: int, world_size: int) -> dict[str, Any]:
    """Gradients, losses and weights of this worker; (0, 1) is a worker alone, without a process group."""
    found: dict[str, Any] = {}
    for name, loss in CASES.items():
        model = build_model("llama")
        batch = RandomBatches(rank=rank, world_size=world_size, micro_batch_size=1).batch(3)
        losses = TrainingStep(model, loss, device=torch.device("cpu")).backward(batch, measure_cosine=True)
        sum_gradients(model.parameters())
        found[f"{name}.gradients"] = {
            key: value.grad for key, value in model.named_parameters() if value.grad is not None
        }
        found[f"{name}.cosine"] = losses.gradient_cosine
    found["uneven"] = uneven_rows(rank) if world_size > 1 else None
    model, listener = build_model("llama"), Listener()
    batches = RandomBatches(rank=rank, world_size=world_size)
    summary = train(model, batches, loss=LossConfig(), training=make_training(weight_decay=0.1), reporter=listener)
    found["weights"] = dict(model.state_dict())
    found["losses"] = [row[name] for row in listener.metrics for name in ("contrastive_loss", "instruction_loss")]
    found["tokens"] = summary.tokens
    return found


def uneven_rows(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Worker 0 gives one row, worker 1 two; worker 0 weighs row i of the whole by i + 1, worker 1 each by 10."""
    rows = torch.full((rank + 1, 2), float(rank + 1), requires_grad=True)
    gathered, first = gather_rows(rows)
    assert first == rank
    weights = torch.tensor([[1.0], [2.0], [3.0]]) if rank == 0 else torch.full((3, 1), 10.0)
    (gathered * weights).sum().backward()
    assert rows.grad is not None
    return gathered.detach(), rows.grad
