"""Low-rank adapters on a frozen causal LM, put in place for training and merged into the weights afterwards."""

import warnings
from typing import Any, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from afp_ray.config.training import LoraConfig
from afp_ray.errors import ConfigError, ModelError
from afp_ray.models.hidden_states import CausalModel, decoder_blocks
from afp_ray.models.trainable import ATTENTION


def add_adapters(model: CausalModel, config: LoraConfig, *, seed: int = 0) -> CausalModel:
    """Freeze a model and put trainable adapters beside the linear layers of its blocks.

    An adapter starts as the identity: the model gives the same states as before. Embeddings, norms and the head have
    none, so a tied head stays tied.

    Args:
        model: any family; changed in place.
        config: rank, scale, dropout and which layers.
        seed: of the adapters' first weights; the global random state is left as it was.
    Returns: the same model; its class, its names of blocks and its forward stay.
    Raises: ConfigError when peft is not installed; ModelError when the blocks have no such layer.
        Source: arXiv:2106.09685.
    """
    peft = _peft()
    names, is_transposed = _targets(model, config.targets)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=names,
        fan_in_fan_out=is_transposed,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model)
    return model


def merge_adapters(model: CausalModel) -> CausalModel:
    """Add the adapters to the weights they stand beside and take them out.

    Args:
        model: as `add_adapters` left it; changed in place. Merge in float32: in bf16 the sum is rounded.
    Returns: the same model with the modules, parameter names and classes of its family, all weights trainable again.
    """
    layer_kind = _peft().tuners.tuners_utils.BaseTunerLayer
    for name, module in list(model.named_modules()):
        if isinstance(module, layer_kind):
            layer = cast(Any, module)
            layer.merge()
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model.requires_grad_(True)


def num_trainable(model: nn.Module) -> int:
    """Weights that training changes, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _targets(model: CausalModel, targets: str) -> tuple[list[str], bool]:
    """Whole names of the layers that get adapters, and whether their weights are (in, out), as in GPT-2."""
    blocks = decoder_blocks(model)
    prefix = next(name for name, module in model.named_modules() if module is blocks)
    modules = {
        f"{prefix}.{name}": module
        for name, module in blocks.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and (targets == "linear" or ATTENTION.search(name))
    }
    if not modules:
        raise ModelError(
            f"the blocks of {type(model).__name__} have no linear layer for targets {targets!r}",
            where="training.lora.targets",
            allowed="linear, attention",
            fix="set training.lora.targets: linear, or training.lora: null",
        )
    return list(modules), isinstance(next(iter(modules.values())), Conv1D)


def _peft() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import peft
    except ImportError as error:
        raise ConfigError(
            "LoRA adapters need the library peft, which is not installed",
            where="training.lora",
            fix="pip install 'afp-ray[lora]', or set training.lora: null",
        ) from error
    return peft
