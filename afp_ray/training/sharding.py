"""Weights, gradients and optimizer state shared out among the workers of a trial (FSDP2).

Each block is gathered for its own forward and backward and freed again; what stands around the blocks (embedding, head,
norms) is gathered once a pass, since the loss reads the head's weight itself. Gradients are summed over the workers,
never averaged, as in `gather`: shares of one global loss. The weights that are gathered are float32 by default, so that
sharding changes no number but by the order of sums.

The forward that stops at a layer ends by an exception below the outermost module, whose own end therefore never comes.
That leaves nothing behind: blocks that ran have freed their weights, the one that it stopped at has not yet gathered
any, and the backward pass ends every open pass.
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from afp_ray.models.hidden_states import CausalModel, decoder_blocks, decoder_of
from afp_ray.training.gather import world_size


@contextlib.contextmanager
def sharded(model: CausalModel, *, gathered_dtype: torch.dtype | None = None) -> Iterator[CausalModel]:
    """A model of the same weights, of which each worker holds its share; all workers enter and leave alike.

    In the block `model` holds no weights. When it ends well, the trained ones are in `model` again, whole, on every
    worker, and saving and evaluating them is as without sharding; after an error they are lost.

    Args:
        model: equal on all workers; tied weights stay tied.
        gathered_dtype: of gathered weights and of the states they make; None leaves that of `model`. Gradients are
            summed in the dtype of `model` either way.
    """
    whole = dict(model.named_parameters())
    memo: dict[int, object] = {id(parameter): parameter for parameter in whole.values()}
    shares: CausalModel = copy.deepcopy(model, memo)
    _shard(shares, next(iter(whole.values())).device, gathered_dtype)
    for parameter in whole.values():
        parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
        parameter.grad = None
    yield shares
    free_gathered(shares)
    for name, parameter in shares.named_parameters():
        whole[name].data = _whole(parameter)


def free_gathered(model: nn.Module) -> None:
    """Put the shares back where a forward without a backward pass has left gathered weights.

    The parameters of a model are its shares then, and no others: what an optimizer must hold. Without sharding nothing
    happens.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _shard(model: CausalModel, device: torch.device, gathered_dtype: torch.dtype | None) -> None:
    mesh = init_device_mesh(device.type, (world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=gathered_dtype, reduce_dtype=next(model.parameters()).dtype)
    for block in decoder_blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    ends = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    # The loss reads the head's weight after the forward of the decoder, so it must still be there.
    fully_shard(ends, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    decoder_of(model).register_forward_hook(_detach_view)  # runs before the hooks of the next line
    fully_shard(decoder_of(model), mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum


def _whole(parameter: nn.Parameter) -> Tensor:
    share = parameter.data
    assert isinstance(share, DTensor)
    whole: Tensor = share.full_tensor()
    return whole


def _detach_view(decoder: nn.Module, inputs: Any, output: Any) -> Any:
    """Copy states that are a view of others (GPT-2): a hook on a view is lost when it is written to."""
    if output.last_hidden_state._base is not None:
        output.last_hidden_state = output.last_hidden_state.clone()
    return output
