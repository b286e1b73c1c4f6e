"""Optimizers of a trial's weights: fused AdamW, AdamW on bf16 weights, and either of them inside the backward pass.

Bytes for each trained parameter, gradient included:

| precision | weight | gradient | first moment | second moment | lost bits | together |
|---|---|---|---|---|---|---|
| fp32, bf16 | 4 | 4 | 4 | 4 | - | 16 |
| bf16, with copies of the matrices | 4 + 2 | 4 | 4 | 4 | - | 18 |
| bf16_resident, stochastic | 2 | 2 | 2 | 2 | - | 8 |
| bf16_resident, compensated | 2 | 2 | 2 | 2 | 2 | 10 |

Autocast makes such copies in every forward and holds them until its backward pass is done, beside the 16; those that
stay take their place.

Inside the backward pass gradients stand one parameter at a time instead of all together, where a step is one pass; what
accumulates over several passes stands until the last of them.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from afp_ray.config.training import TrainingConfig
from afp_ray.data.batches import TrainBatch
from afp_ray.models.bf16_copies import Bf16Copies
from afp_ray.training.bf16_adamw import ResidentAdamW
from afp_ray.training.bf16_update import choose_update
from afp_ray.training.gather import sum_over_workers
from afp_ray.training.packed_rows import pack_pairs
from afp_ray.training.sharding import free_gathered
from afp_ray.training.step import StepLosses, TrainingStep

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8

Optimizer: TypeAlias = "torch.optim.Optimizer | BackwardOptimizer"


def make_optimizer(
    model: nn.Module,
    training: TrainingConfig,
    device: torch.device,
    *,
    seed: int = 0,
    copies: Bf16Copies | None = None,
    is_capturable: bool = False,
    is_compiled: bool | None = None,
) -> Optimizer:
    """AdamW for what a model trains; vectors (norms and biases) are not decayed.

    Args:
        model: its trainable parameters are taken, each once; with `precision` `bf16_resident` they are bf16 already.
        training: peak learning rate, weight decay, precision, rounding, and whether updates run in the backward pass.
        device: fused kernels exist for the CPU and for CUDA.
        seed: of stochastic rounding; the step and the parameter enter beside it.
        copies: of the model's matrices, which every step renews; not with updates in the backward pass.
        is_capturable: hold the learning rate on the device, so that a captured step reads it there at each replay; only
            where `refuses_capture` has nothing against it. States are those of an optimizer without it.
        is_compiled: with `bf16_resident`, whether the update is one compiled kernel; None compiles on CUDA, where the
            training is long enough. `describe_update` tells.
    Returns: the optimizer, with `param_groups`, `zero_grad`, `step`, `state_dict` and `load_state_dict` whatever its
        kind.
    """
    assert not (is_capturable and refuses_capture(training)), refuses_capture(training)
    free_gathered(model)
    groups = _groups(model, training)
    if training.precision == "bf16_resident":
        make = _resident_maker(groups, training, device, seed=seed, is_compiled=is_compiled)
    else:
        make = partial(_make_fused, training=training, device=device, is_capturable=is_capturable)
    if not training.optimizer_in_backward:
        optimizer = make(groups)
        if copies is not None:
            optimizer.register_step_post_hook(lambda *ignored: copies.renew())
        return optimizer
    assert copies is None, "gradients of copies are not there before their whole block has been passed"
    alone = [
        {**group, "params": [parameter], "draws": [draw]}
        for group in groups
        for parameter, draw in zip(group["params"], group["draws"], strict=True)
    ]
    return BackwardOptimizer([(group["params"][0], make([group])) for group in alone])


def refuses_capture(training: TrainingConfig) -> str | None:
    """Why the update of these trainings cannot be part of a captured step; None where it can.

    Args:
        training: forward and backward of the second kind may be captured all the same.
    Returns: a reason in words.
    """
    if training.optimizer_in_backward:
        return "weights are updated in the backward pass"
    if training.precision == "bf16_resident":
        return "the host seeds the rounding of bf16 weights in every step"
    return None


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale all gradients down to a global norm, also where they are bf16 or shards of workers; waits for no device.

    Args:
        parameters: those without a gradient are passed over.
        max_norm: the largest norm, > 0; None leaves the gradients.
    Returns: () the norm before, over all parameters and all shards.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    is_sharded = any(isinstance(gradient, DTensor) for gradient in gradients)
    if not is_sharded and all(gradient.dtype == torch.float32 for gradient in gradients):
        norm = nn.utils.get_total_norm(gradients)
        if max_norm is not None:
            nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
        return norm
    own = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    square = torch.stack(torch._foreach_norm(own, dtype=torch.float32)).square().sum() if own else torch.zeros(())
    norm = (sum_over_workers(square) if is_sharded else square).sqrt()
    if max_norm is not None and own:
        torch._foreach_mul_(own, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


class BackwardOptimizer:
    """Updates each parameter in the last backward pass of a step, as soon as its gradient is final, and frees it.

    Gradients accumulate as usual until `last_backward` is entered; in it a parameter whose gradient has arrived is
    stepped at once, and `step` takes those that the last backward pass did not touch. A tied weight is one parameter,
    whose gradient arrives when all its uses have been passed. The weights are those of ordinary steps, bit for bit.

    Args:
        optimizers: one for each parameter.
    """

    def __init__(self, optimizers: Sequence[tuple[nn.Parameter, torch.optim.Optimizer]]) -> None:
        self._optimizers = list(optimizers)
        self._squares: list[Tensor] = []
        self._is_last = False
        self._handles = [
            parameter.register_post_accumulate_grad_hook(self._hook(optimizer))  # type: ignore[no-untyped-call]
            for parameter, optimizer in self._optimizers
        ]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of all parameters, in their order."""
        return [group for _, optimizer in self._optimizers for group in optimizer.param_groups]

    @property
    def first(self) -> torch.optim.Optimizer:
        """The optimizer of the first parameter; the others are like it."""
        return self._optimizers[0][1]

    @property
    def has_stepped(self) -> bool:
        """Whether some weight of the step under way is updated already, so that it cannot be tried again."""
        return bool(self._squares)

    @contextlib.contextmanager
    def last_backward(self) -> Iterator[None]:
        """Step parameters in the backward pass inside of this block; the learning rate must be set before."""
        self._is_last = True
        try:
            yield
        finally:
            self._is_last = False

    def step(self) -> Tensor:
        """Step what the last backward pass left, and end the step.

        Returns: () norm of all gradients of the step.
        """
        for parameter, optimizer in self._optimizers:
            if parameter.grad is not None:
                self._step(parameter, optimizer)
        norm = torch.stack(self._squares).sum().sqrt() if self._squares else torch.zeros(())
        self._squares = []
        return norm

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Free all gradients."""
        for _, optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """State of every parameter's optimizer, in the order of the parameters."""
        return {"optimizers": [optimizer.state_dict() for _, optimizer in self._optimizers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for (_, optimizer), own in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)

    def close(self) -> None:
        """Remove the hooks from the parameters."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, optimizer: torch.optim.Optimizer) -> Callable[[Tensor], None]:
        def update(parameter: Tensor) -> None:
            if self._is_last:
                self._step(parameter, optimizer)

        return update

    def _step(self, parameter: Tensor, optimizer: torch.optim.Optimizer) -> None:
        assert parameter.grad is not None
        self._squares.append(_square_norm(parameter.grad))
        optimizer.step()
        parameter.grad = None


def backward_with_updates(step_of: TrainingStep, batch: TrainBatch, optimizer: BackwardOptimizer) -> StepLosses:
    """Run the passes of a step, the last of them with updates inside; then end the step with `optimizer.step`.

    Every micro-batch is a share of the global loss whatever stands beside it, so the batch is simply cut in two: the
    last micro-batch of instructions, and all before it. Pairs alone that are taken in chunks have several backward
    passes, of which none is the last to touch a weight: there all updates come after them.

    Args:
        step_of: computes the gradients.
        batch: this worker's rows.
        optimizer: has the learning rate of the step.
    Returns: the losses; the terms' gradients are never whole at one time, so they are not compared.
    """
    if not batch.instructions:
        with optimizer.last_backward() if _is_one_pass(step_of, batch) else contextlib.nullcontext():
            return step_of.backward(batch)
    losses = step_of.backward(replace(batch, instructions=batch.instructions[:-1]))
    with optimizer.last_backward():
        last = step_of.backward(replace(batch, pairs=None, instructions=batch.instructions[-1:]))
    shares = [share for share in (losses.instruction, last.instruction) if share is not None]
    return replace(losses, instruction=torch.stack(shares).sum() if shares else None)


def _is_one_pass(step_of: TrainingStep, batch: TrainBatch) -> bool:
    size = step_of.pair_chunk_size
    return size is None or batch.pairs is None or len(pack_pairs(batch.pairs).lengths) <= 2 * size


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Let the next step of every parameter take this rate; one that is held on a device is filled in where it is."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def describe_update(optimizer: Optimizer) -> str | None:
    """How an optimizer updates bf16 weights, in words that follow "updated"; None for one of float32 weights."""
    first = optimizer.first if isinstance(optimizer, BackwardOptimizer) else optimizer
    return first.updated if isinstance(first, ResidentAdamW) else None


def _groups(model: nn.Module, training: TrainingConfig) -> list[dict[str, Any]]:
    """Matrices, then vectors; `draws` numbers the parameters, for the seeds of stochastic rounding."""
    # Weights of norms and biases are not decayed: nothing speaks for a scale or a shift of zero.
    trained = [(index, value) for index, value in enumerate(model.parameters()) if value.requires_grad]
    matrices = [(index, value) for index, value in trained if value.ndim > 1]
    vectors = [(index, value) for index, value in trained if value.ndim <= 1]
    return [
        {"params": [value for _, value in part], "draws": [index for index, _ in part], "weight_decay": decay}
        for part, decay in ((matrices, training.weight_decay), (vectors, 0.0))
        if part
    ]


def _resident_maker(
    groups: Sequence[dict[str, Any]],
    training: TrainingConfig,
    device: torch.device,
    *,
    seed: int,
    is_compiled: bool | None,
) -> Callable[[list[dict[str, Any]]], torch.optim.Optimizer]:
    """What makes an optimizer of bf16 weights for some of these groups, in the form that suits all of them together."""
    weights = [
        value.to_local() if isinstance(value, DTensor) else value for group in groups for value in group["params"]
    ]
    update, words = choose_update(
        device,
        training.rounding,
        num_weights=sum(value.numel() for value in weights),
        num_steps=training.max_steps,
        is_compiled=is_compiled,
    )
    options: dict[str, Any] = {"lr": training.learning_rate, "betas": _BETAS, "eps": _EPSILON, "seed": seed}
    return partial(ResidentAdamW, **options, rounding=training.rounding, update=update, updated=words)


def _make_fused(
    groups: list[dict[str, Any]], *, training: TrainingConfig, device: torch.device, is_capturable: bool
) -> torch.optim.Optimizer:
    plain = [{name: value for name, value in group.items() if name != "draws"} for group in groups]
    options: dict[str, Any] = {"betas": _BETAS, "eps": _EPSILON, "fused": device.type in ("cpu", "cuda")}
    if not is_capturable:
        return torch.optim.AdamW(plain, lr=training.learning_rate, **options)
    # One tensor for all groups, which stays at its address; states say nothing of it.
    rate = torch.tensor(training.learning_rate, dtype=torch.float32, device=device)
    optimizer = torch.optim.AdamW(plain, lr=rate, capturable=True, **options)

    def as_plain(_: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        for group in state["param_groups"]:
            group |= {"lr": float(group["lr"]), "capturable": False}

    def as_own(loaded: torch.optim.Optimizer) -> None:
        for group in loaded.param_groups:
            rate.fill_(group["lr"])
            group |= {"lr": rate, "capturable": True}

    optimizer.register_state_dict_post_hook(as_plain)
    optimizer.register_load_state_dict_post_hook(as_own)
    return optimizer


def _square_norm(gradient: Tensor) -> Tensor:
    """() float32; in bf16 it would have three digits."""
    norm: Tensor = torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32)
    return norm.square()
