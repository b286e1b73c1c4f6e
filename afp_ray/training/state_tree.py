"""Optimizer and loss state as safetensors: nested containers become named tensors and a JSON plan, and come back.

Nothing is pickled. Of a tensor that the workers share out among them, each stores its own part.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard


def flatten(value: Any, *, path: str = "") -> tuple[dict[str, Tensor], Any]:
    """Part nested state into tensors by name and the rest as JSON.

    Args:
        value: tensors, numbers, texts, booleans and None in dictionaries, lists and tuples; keys are texts or integers.
        path: name that the names of all tensors begin with.
    Returns: tensors by name, those of this worker; and the plan, equal on all workers.
    """
    if isinstance(value, DTensor):
        (placement,) = value.placements
        shape, stride = list(value.shape), list(value.stride())
        return {path: value.to_local().detach()}, {
            "part": path,
            "shape": shape,
            "stride": stride,
            "dim": getattr(placement, "dim", None),
        }
    if isinstance(value, Tensor):
        return {path: value.detach()}, {"tensor": path}
    if isinstance(value, Mapping):
        kind, items = "dict", list(value.items())
    elif isinstance(value, list | tuple):
        kind, items = type(value).__name__, list(enumerate(value))
    else:
        assert value is None or isinstance(value, bool | int | float | str), f"{path} is a {type(value).__name__}"
        return {}, {"value": value}
    tensors: dict[str, Tensor] = {}
    plan = []
    for key, inner in items:
        assert isinstance(key, int | str), f"{path} has the key {key!r}"
        inner_tensors, planned = flatten(inner, path=f"{path}/{key}" if path else str(key))
        assert not tensors.keys() & inner_tensors.keys(), f"{path} has two entries of one name"
        tensors |= inner_tensors
        plan.append([key, planned])
    return tensors, {kind: plan}


def restore(tensors: Mapping[str, Tensor], plan: Any, *, mesh: DeviceMesh | None = None) -> Any:
    """Put together what `flatten` parted.

    Args:
        tensors: by name, those of this worker.
        plan: what `flatten` gave, once through JSON.
        mesh: the workers among which tensors are shared out; None where none is.
    Returns: the nested state.
    Raises: KeyError when a tensor is missing.
    """
    ((kind, content),) = [(key, value) for key, value in plan.items() if key not in ("shape", "stride", "dim")]
    if kind == "value":
        return content
    if kind == "tensor":
        return tensors[content]
    if kind == "part":
        assert mesh is not None, "parts of a tensor need the workers that hold the others"
        placement = Replicate() if plan["dim"] is None else Shard(plan["dim"])
        return DTensor.from_local(
            tensors[content].to(mesh.device_type),
            mesh,
            [placement],
            shape=torch.Size(plan["shape"]),
            stride=tuple(plan["stride"]),
        )
    values = [(key, restore(tensors, inner, mesh=mesh)) for key, inner in content]
    if kind == "dict":
        return dict(values)
    return tuple(value for _, value in values) if kind == "tuple" else [value for _, value in values]
