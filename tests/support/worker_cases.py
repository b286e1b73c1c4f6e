"""What one worker of a test computes: gradients of a batch, steps with a queue, and a short training."""

from itertools import product
from typing import Any

import torch
from tiny_models import build_model
from training_cases import Listener, RandomBatches, make_training

from afp_ray.config.loss import LossConfig
from afp_ray.data.batches import PairBatch
from afp_ray.records import Host
from afp_ray.training.contrastive import ContrastiveTerm
from afp_ray.training.gather import gather_rows, sum_gradients, sum_over_workers
from afp_ray.training.loop import TrainingRequest, train
from afp_ray.training.oom_retry import Sizes, fit_sizes
from afp_ray.training.state_tree import flatten
from afp_ray.training.step import TrainingStep

CASES = {
    "both": LossConfig(layer=2, pooling="mean"),
    "symmetric": LossConfig(layer=1, symmetric=True, instruction_weight=0.0),
    "instructions": LossConfig(contrastive_weight=0.0),
}
CONTRASTIVE_CASES = {
    f"layer {layer}, {'both ways' if symmetric else 'one way'}, {'whole' if chunk_size is None else 'in chunks'}": (
        LossConfig(layer=layer, symmetric=symmetric, pooling="mean", temperature=0.2),  # type: ignore[arg-type]
        chunk_size,
    )
    for layer, symmetric, chunk_size in product((2, "all"), (False, True), (None, 1))
}
BATCH_SIZE = 8
NUM_QUEUE_STEPS = 4


def compute(rank: int, world_size: int) -> dict[str, Any]:
    """Gradients, losses and weights of this worker; (0, 1) is a worker alone, without a process group."""
    found: dict[str, Any] = {}
    for name, loss in CASES.items():
        model = build_model("llama")
        batch = RandomBatches(batch_size=BATCH_SIZE, rank=rank, world_size=world_size, micro_batch_size=1).batch(3)
        losses = TrainingStep(model, loss, device=torch.device("cpu")).backward(batch, measure_cosine=True)
        sum_gradients(model.parameters())
        found[f"{name}.gradients"] = _gradients(model)
        found[f"{name}.cosine"] = losses.gradient_cosine
    for name, (loss, chunk_size) in CONTRASTIVE_CASES.items():
        found[f"{name}.loss"], found[f"{name}.gradients"] = contrastive(
            loss, pairs_with_duplicates(rank, world_size), chunk_size
        )
    found["batch"] = contrastive(LossConfig(negatives="batch"), pairs_with_duplicates(rank, world_size), None)
    found["queue"] = queue_steps(rank, world_size)
    found["short"] = short_of_memory(rank, world_size)
    found["uneven"] = uneven_rows(rank, world_size) if world_size > 1 else None
    model, listener = build_model("llama"), Listener()
    batches = RandomBatches(batch_size=BATCH_SIZE, rank=rank, world_size=world_size)
    training = make_training(batch_size=BATCH_SIZE, weight_decay=0.1)
    summary = train(model, batches, TrainingRequest(LossConfig(), training), Host(reporter=listener))
    found["weights"] = dict(model.state_dict())
    found["losses"] = [row[name] for row in listener.metrics for name in ("contrastive_loss", "instruction_loss")]
    found["tokens"] = summary.tokens
    return found


def pairs_with_duplicates(rank: int, world_size: int, step: int = 3) -> PairBatch:
    """Rows of a worker; sources and targets of the global batch come twice, on the same worker and on others."""
    pairs = RandomBatches(batch_size=BATCH_SIZE).batch(step).pairs
    assert isinstance(pairs, PairBatch)
    sources, targets = torch.tensor([0, 1, 2, 3, 4, 5, 1, 7]), torch.tensor([0, 0, 2, 3, 4, 2, 6, 7])
    share = BATCH_SIZE // world_size
    own = slice(rank * share, (rank + 1) * share)
    source, target = sources[own], targets[own]
    return PairBatch(
        pairs.source_ids[source], pairs.source_mask[source], pairs.target_ids[target], pairs.target_mask[target]
    )


def contrastive(loss: LossConfig, pairs: PairBatch, chunk_size: int | None) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients over all workers."""
    model = build_model("llama")
    share = ContrastiveTerm(model, loss, device=torch.device("cpu")).backward(pairs, chunk_size=chunk_size)
    sum_gradients(model.parameters())
    return float(sum_over_workers(share.double())), _gradients(model)


def queue_steps(rank: int, world_size: int) -> dict[str, Any]:
    """Steps of gradient descent with a queue that runs over: losses, the last gradient, queue and slow copy."""
    model = build_model("llama").double()
    loss = LossConfig(negatives="queue", queue_size=20, queue_momentum=0.5, symmetric=True, layer="all")
    term = ContrastiveTerm(model, loss, device=torch.device("cpu"))
    losses = []
    for step in range(NUM_QUEUE_STEPS):
        model.zero_grad(set_to_none=True)
        share = term.backward(pairs_with_duplicates(rank, world_size, step), chunk_size=1 if step % 2 else None)
        losses.append(float(sum_over_workers(share)))
        sum_gradients(model.parameters())
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
        term.after_step()
    return {"losses": losses, "gradients": _gradients(model), "state": flatten(term.state_dict())[0]}


class LittleMemory(ContrastiveTerm):
    """Has no room for the states of two pairs where a gradient is to come; one worker is enough to stop all."""

    is_short = True

    def embed(self, pairs: Any, *, model: Any = None) -> Any:
        if self.is_short and torch.is_grad_enabled() and len(pairs.keys) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return super().embed(pairs, model=model)


def short_of_memory(rank: int, world_size: int) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss and gradients over all workers, of which the last is short of memory before an exchange and after one."""
    model, device = build_model("llama"), torch.device("cpu")
    term = LittleMemory(model, LossConfig(symmetric=True), device=device)
    term.is_short = rank == world_size - 1

    def attempt(sizes: Sizes) -> torch.Tensor:
        model.zero_grad()
        return term.backward(pairs_with_duplicates(rank, world_size), chunk_size=sizes.pair_chunk_size)

    share, sizes = fit_sizes(attempt, Sizes(1, BATCH_SIZE // world_size), model=model, device=device)
    sum_gradients(model.parameters())
    return float(sum_over_workers(share.double())), _gradients(model), sizes.pair_chunk_size


def uneven_rows(rank: int, world_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Worker r gives r + 1 rows of the value r + 1 and weighs row i of the whole by (r + 1) * (i + 1)."""
    rows = torch.full((rank + 1, 2), float(rank + 1), requires_grad=True)
    gathered, first = gather_rows(rows)
    assert first == rank * (rank + 1) // 2
    weights = (rank + 1) * torch.arange(1.0, len(gathered) + 1)[:, None]
    (gathered * weights).sum().backward()
    assert rows.grad is not None
    return gathered.detach(), rows.grad


def _gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
