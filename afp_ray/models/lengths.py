"""Which lengths of text a model treats alike, so that texts of them run side by side as each does alone.

What a configuration says of it stands in `stated_lengths`; families that are not known are tried out.
"""

import inspect
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from afp_ray.models.hidden_states import CausalModel, decoder_of, forget_lengths, position_ids
from afp_ray.models.stated_lengths import FIELDS, Lengths, stated_lengths

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_TOLERANCE_OF_HALVES = 0.05
"""Relative difference of states beyond which two ways to compute them are taken to differ: several times what rounding
makes of deep models in these types, and far below what a wrong neighbour does."""
_FAR = 4096
"""A position far away, for models whose positions have no end."""
_EACH = Lengths(grows_from=0)
_tried: WeakKeyDictionary[nn.Module, Lengths] = WeakKeyDictionary()


def find_lengths(model: CausalModel, *, is_known: bool) -> Lengths:
    """How the treatment of texts by `model` depends on their lengths.

    Args:
        model: a causal LM.
        is_known: whether its family is tested, so that its configuration tells all; another one is tried out once, on
            a few tokens, and given rows of equal length where padding or a far position changes its states.
    """
    config = model.config.get_text_config()
    stated = stated_lengths({name: getattr(config, name, None) for name in FIELDS})
    if is_known:
        return stated
    if model not in _tried:
        _tried[model] = stated if _is_like_alone(model, stated) else _EACH
    return _tried[model]


def is_of_library(model: nn.Module) -> bool:
    """Whether a model's code is that of transformers, not code that came with a checkpoint."""
    return any(kind.__module__.startswith("transformers.models.") for kind in type(model).__mro__)


def reads_ahead(model: CausalModel) -> bool:
    """Whether the state of a token depends on what stands behind it, tried on a few tokens."""
    first, second = _tokens(model, 8), _tokens(model, 8)
    second[-1] = first[0]
    states = _states(model, torch.tensor([first, second]))
    return difference_beyond_rounding(states[0, :-1], states[1, :-1]) is not None


def difference_beyond_rounding(found: Tensor, expected: Tensor) -> float | None:
    """Relative difference of two computations of the same states; None where it is rounding or cannot be told.

    Args:
        found, expected: of one shape, in the type in which the model gives its states.
    """
    exact = found.dtype in _TOLERANCE and not torch.is_autocast_enabled(found.device.type)
    limit = _TOLERANCE[found.dtype] if exact else _TOLERANCE_OF_HALVES
    found, expected = found.float(), expected.float()
    if not bool(expected.isfinite().all()):
        return None  # nothing to compare with; the scores tell that the weights are no numbers
    difference = float((found - expected).norm() / expected.norm().clamp(min=1e-12))
    return None if difference <= limit else difference


def _is_like_alone(model: CausalModel, stated: Lengths) -> bool:
    """Whether a text has the same states alone, before padding, and before a token at a far position."""
    long, short = _tokens(model, 9), _tokens(model, 9)[4:]
    alone = _states(model, torch.tensor([short]))[0]
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    padded = _states(model, torch.tensor([long, [*short, 0, 0, 0, 0]]), mask)
    if difference_beyond_rounding(padded[1, :5], alone) is not None:
        return False
    if "position_ids" not in inspect.signature(decoder_of(model).forward).parameters:
        return True
    reach = getattr(model.config.get_text_config(), "max_position_embeddings", None) or _FAR
    far = min(int(reach), stated.longest_plain) - 1
    if far <= len(short):
        return True
    positions = torch.tensor([[*range(len(short)), far]])
    states = _states(model, torch.tensor([[*short, 1]]), positions=positions)[0, :-1]
    return difference_beyond_rounding(states, alone) is None


def _tokens(model: CausalModel, number: int) -> list[int]:
    size = int(model.get_input_embeddings().weight.shape[0])
    return [1 + place % (size - 1) for place in range(number)]


def _states(model: CausalModel, ids: Tensor, mask: Tensor | None = None, *, positions: Tensor | None = None) -> Tensor:
    """(B, T, D) in evaluation mode, from a model that has seen no text yet."""
    device = next(model.parameters()).device
    mask = torch.ones_like(ids) if mask is None else mask
    arguments: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": mask.to(device), "use_cache": False}
    decoder = decoder_of(model)
    if "position_ids" in inspect.signature(decoder.forward).parameters:
        arguments["position_ids"] = (position_ids(mask) if positions is None else positions).to(device)
    was_training = model.training
    model.eval()
    forget_lengths(model)
    try:
        with torch.no_grad():
            return decoder(**arguments, return_dict=True).last_hidden_state  # type: ignore[no-any-return]
    finally:
        model.train(was_training)
