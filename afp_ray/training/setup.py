"""What stands around the steps of a training: adapters, precision and shares of the weights, mode, random state."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import nn

from afp_ray.config.runtime import TrainingRuntime
from afp_ray.config.training import TrainingConfig
from afp_ray.models.adapters import add_adapters, merge_adapters
from afp_ray.models.bf16_copies import Bf16Copies, refuses_copies
from afp_ray.models.hidden_states import CausalModel
from afp_ray.models.packing import lengths_of
from afp_ray.models.recomputing import recomputed
from afp_ray.models.trainable import partly_trained
from afp_ray.training.bf16_adamw import resident
from afp_ray.training.gather import rank, world_size
from afp_ray.training.option_conflicts import check_lengths
from afp_ray.training.sharding import sharded


@contextlib.contextmanager
def prepared(
    model: CausalModel, training: TrainingConfig, runtime: TrainingRuntime, *, seed: int
) -> Iterator[CausalModel]:
    """What is trained: the model itself, with adapters, in bf16 or shared out, and afterwards as it was.

    Args:
        model: float32; in the block it holds no weights where they are shared out. After an error it is of no use.
        training: precision, adapters, and which weights are trained.
        runtime: sharding and gradient checkpointing.
        seed: of the adapters' first weights.
    Raises: ConfigError where shared weights cannot serve texts of these lengths.
    """
    check_lengths(lengths_of(model).longest_plain, training, runtime)
    if training.lora is not None:
        add_adapters(model, training.lora, seed=seed)
    with contextlib.ExitStack() as stack:
        stack.enter_context(partly_trained(model, training.trainable))
        if training.precision == "bf16_resident":
            stack.enter_context(resident(model))
        trained = stack.enter_context(sharded(model)) if runtime.sharding == "full" else model
        if runtime.gradient_checkpointing:
            stack.enter_context(recomputed(trained))
        yield trained
    if training.lora is not None:
        merge_adapters(model)


def copies_for(
    model: CausalModel,
    training: TrainingConfig,
    runtime: TrainingRuntime,
    device: torch.device,
    *,
    is_asked: bool | None = None,
) -> tuple[Bf16Copies | None, str]:
    """The bf16 copies from which products are computed, where they serve; and in words what they are computed from.

    Args:
        model: what is trained, once the training step and whatever it copies of the model are made.
        training: precision, and whether weights are updated in the backward pass.
        runtime: sharding.
        device: on CUDA copies are the rule.
        is_asked: whether to make them where they can be; None leaves it to the device.
    Returns: None where autocast casts in every forward, or nothing is cast; the words say which, and why.
    """
    if training.precision != "bf16":
        return None, "bf16 weights" if training.precision == "bf16_resident" else "float32 weights"
    plain = "float32 weights, cast in every forward"
    if not (device.type == "cuda" if is_asked is None else is_asked):
        return None, plain
    because = refuses_copies(model)
    if training.optimizer_in_backward:
        because = "weights are updated in the backward pass"
    elif runtime.sharding == "full":
        because = "weights are shared out among workers"
    if because is not None:
        return None, f"{plain}: {because}"
    return Bf16Copies(model), "bf16 copies of float32 weights, cast once a step"


@contextlib.contextmanager
def train_mode(model: nn.Module) -> Iterator[None]:
    """Train mode in the block; afterwards the mode that was."""
    was_training = model.training
    model.train()
    try:
        yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Leave the global generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed_step(device: torch.device, seed: int, step: int) -> None:
    """Seed the generators that dropout draws from, so that a step's masks depend on nothing before it."""
    digest = hashlib.sha256(f"{seed}:{step}:{rank()}:{world_size()}".encode()).digest()
    number = int.from_bytes(digest[:7], "little")
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)
