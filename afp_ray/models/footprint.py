"""How large a model is and what its forward keeps for the backward pass, from its configuration alone.

The packed forward of training runs on tensors without content ("meta"), so no weight is read and no GPU is needed; what
autograd keeps is counted as it is kept. Two samples against one tell what a sample adds, and what a forward keeps
whatever its size (the bf16 copies of the weights that autocast makes). Where a CPU and a GPU differ, the GPU's form is
counted: fused attention without its scores, and a byte for each element that dropout looked at.

Shapes: n samples of T tokens, H heads, D width of a head.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM

from afp_ray.config.model import ModelConfig
from afp_ray.config.training import LayerRange, LoraConfig
from afp_ray.errors import ModelError
from afp_ray.models.adapters import add_adapters
from afp_ray.models.describe import local_folder
from afp_ray.models.hidden_states import CausalModel, decoder_blocks, decoder_of, run_decoder, state_of_layer
from afp_ray.models.hub import first_line, hub_file
from afp_ray.models.packed_attention import Samples
from afp_ray.models.packing import packed_attention_of, supports_packing
from afp_ray.models.trainable import freeze_but

Precision = Literal["fp32", "bf16", "bf16_resident"]


@dataclass(frozen=True, slots=True)
class Saved:
    """Bytes that a forward leaves for its backward pass.

    Attributes:
        fixed: whatever the number of samples.
        sample: for each sample.
    """

    fixed: int
    sample: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """What of a model decides the memory of its training.

    Attributes:
        num_weights: all parameters, tied ones once.
        num_trained: those that training changes.
        largest_weight: elements of the largest one that is trained.
        num_layers: blocks.
        hidden_size, vocab_size: of the projection onto the vocabulary.
        num_lower: of `num_weights`, those of the embeddings and the blocks up to the layer of the contrastive term.
        is_head_trained: whether the projection has a gradient.
        whole: what a forward through all blocks saves.
        lower: what a forward up to the layer of the contrastive term saves.
        block: what a block saves.
        state: bytes of the input of a block, for each sample.
    """

    num_weights: int
    num_trained: int
    largest_weight: int
    num_layers: int
    hidden_size: int
    vocab_size: int
    num_lower: int
    is_head_trained: bool
    whole: Saved
    lower: Saved
    block: Saved
    state: int


def build_without_weights(config: ModelConfig) -> CausalModel:
    """The model of a checkpoint on the device "meta": shapes alone, from config.json.

    Raises: ModelError where transformers does not know its family.
    """
    folder = local_folder(config) or hub_file(config, "config.json").parent
    try:
        shape = AutoConfig.from_pretrained(str(folder), local_files_only=True)
        return from_shape(shape)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the shapes of {config.name!r} cannot be told: {first_line(error)}",
            where="model.name",
            fix="try AutoConfig.from_pretrained on it",
        ) from error


def from_shape(shape: Any) -> CausalModel:
    """The same from a configuration of transformers."""
    with torch.device("meta"):
        model: CausalModel = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    return model.train()


def footprint(
    model: CausalModel,
    *,
    length: int,
    layer: int | Literal["middle", "all"],
    precision: Precision,
    lora: LoraConfig | None,
    trainable: Literal["all", "attention"] | LayerRange = "all",
) -> Footprint:
    """Count what training keeps.

    Args:
        model: of `build_without_weights`; changed in place.
        length: T, tokens of a sample, >= 1.
        layer: of the contrastive term, as in the loss.
        precision: of the training.
        lora: adapters that are trained alone; None trains every weight.
        trainable: weights that are trained.
    """
    if lora is not None:
        add_adapters(model, lora)
    if trainable != "all":
        freeze_but(model, trainable)
    if precision == "bf16_resident":
        model.to(torch.bfloat16)
    blocks = decoder_blocks(model)
    highest = layer if isinstance(layer, int) else {"middle": len(blocks) // 2, "all": len(blocks)}[layer]
    trained = [value for value in model.parameters() if value.requires_grad]
    head: Any = model.get_output_embeddings()
    upper = {id(value) for block in blocks[highest:] for value in block.parameters()}
    lowest = {id(value): value.numel() for value in decoder_of(model).parameters() if id(value) not in upper}

    def saved_at(stop: int) -> Saved:
        one, two = (
            _num_saved(model, num_samples, length, stop, is_autocast=precision == "bf16") for num_samples in (1, 2)
        )
        return Saved(2 * one - two, two - one)

    # The first block also saves what all share, such as rotary angles.
    before, after = (saved_at(1), saved_at(2)) if len(blocks) > 1 else (saved_at(0), saved_at(1))
    state_width = model.config.get_text_config().hidden_size
    return Footprint(
        num_weights=sum(value.numel() for value in model.parameters()),
        num_trained=sum(value.numel() for value in trained),
        largest_weight=max(value.numel() for value in trained),
        num_layers=len(blocks),
        hidden_size=head.weight.shape[1],
        vocab_size=head.weight.shape[0],
        num_lower=sum(lowest.values()),
        is_head_trained=head.weight.requires_grad,
        whole=saved_at(len(blocks)),
        lower=saved_at(highest),
        block=Saved(after.fixed - before.fixed, after.sample - before.sample),
        state=length * state_width * (2 if precision == "bf16_resident" else 4),
    )


def _num_saved(model: CausalModel, num_samples: int, length: int, layer: int, *, is_autocast: bool) -> int:
    """Bytes kept by a forward of so many samples through so many blocks."""
    ids = torch.zeros(1, num_samples * length, dtype=torch.long, device="meta")
    samples = Samples((length,) * num_samples, ids.device)
    row = packed_attention_of(model, samples) if supports_packing(model) is None else contextlib.nullcontext()
    with saved_for_backward(model) as sizes, _AsOnGpu(is_autocast), row:
        state = state_of_layer(model, layer, lambda: run_decoder(model, ids, positions=ids))
    del state
    return sum(sizes.values())


@contextlib.contextmanager
def saved_for_backward(model: nn.Module) -> Iterator[Mapping[int, int]]:
    """Bytes of everything that autograd keeps in the block, by storage, without the weights themselves.

    Args:
        model: its parameters and buffers do not count.
    """
    own = {id(value.untyped_storage()): value for value in (*model.parameters(), *model.buffers())}
    storages: list[Any] = []  # held, so that no storage takes the identity of one that is gone
    sizes: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if id(storage) not in own:
            storages.append(storage)
            sizes[id(storage)] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        yield sizes


class _FusedAttention(torch.autograd.Function):
    """Keeps what a fused kernel keeps: its inputs, its output and a number for each query and head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        tokens_first = query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])
        attended = tokens_first.transpose(1, 2)
        ctx.save_for_backward(query, key, value, attended, query.new_empty(query.shape[:3], dtype=torch.float32))
        return attended

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise AssertionError("what is counted is never differentiated")


class _AsOnGpu(TorchFunctionMode):
    """Lets functions keep what they keep on a GPU, where tensors have no content.

    Args:
        is_autocast: products in bf16, each weight cast once; powers and norms in float32.
    """

    def __init__(self, is_autocast: bool) -> None:
        super().__init__()
        self._is_autocast = is_autocast
        self._copies: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            inputs = [self._narrow(value) if self._is_autocast else value for value in args[:3]]
            return _FusedAttention.apply(*inputs)  # type: ignore[no-untyped-call]
        if function is F.dropout:
            return _dropout(*args, **kwargs)
        if self._is_autocast and function in _IN_BF16:
            args = tuple(self._narrow(value) for value in args)
            kwargs = {name: self._narrow(value) for name, value in kwargs.items()}
        elif self._is_autocast and function in _IN_FLOAT32:
            args = tuple(value.float() if isinstance(value, Tensor) else value for value in args)
        return function(*args, **kwargs)

    def _narrow(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(torch.bfloat16)
        if id(value) not in self._copies:
            self._copies[id(value)] = value.to(torch.bfloat16)
        return self._copies[id(value)]


def _dropout(values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """As torch.nn.functional.dropout, with the mask of a GPU: a byte an element."""
    return torch.native_dropout(values, p, True)[0] if training and p > 0 else values


_IN_BF16 = frozenset({F.linear, torch.addmm, torch.matmul, torch.bmm, torch.baddbmm, Tensor.matmul, Tensor.__matmul__})
_IN_FLOAT32 = frozenset({torch.pow, Tensor.pow, F.layer_norm})
