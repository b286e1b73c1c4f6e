"""The projection of a causal LM onto its vocabulary, as weights and numbers that a loss can apply to chosen rows."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from afp_ray.errors import ModelError
from afp_ray.models.hidden_states import CausalModel, last_hidden_state

_LIMIT_OF_HALVES = 2e-2
"""Difference from a model's own logits that rounding to bf16 or fp16 makes, several times over."""


@dataclass(frozen=True, slots=True)
class VocabularyHead:
    """logits = softcap(scale * (states @ weight.T + bias)).

    Attributes:
        layer: holds the weights. They are asked for at each use, since sharding puts others into its place.
        scale: multiplies the logits.
        softcap: logits become softcap * tanh(logits / softcap); None leaves them.
    """

    layer: nn.Module
    scale: float = 1.0
    softcap: float | None = None

    @property
    def weight(self) -> Tensor:
        """(V, D); the embedding itself where they are tied."""
        return self.layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """(V,) or None."""
        return getattr(self.layer, "bias", None)

    def logits(self, states: Tensor, first: int = 0, last: int | None = None, *, is_exact: bool = False) -> Tensor:
        """Project `states` (..., D) to (..., V) in float32, or onto the tokens `first` to `last` - 1 alone.

        Args:
            states: (..., D); (N, D) where `is_exact`.
            first, last: of the tokens; all of them by default.
            is_exact: where states and weights are bf16, their products are summed to float32 and never rounded to bf16,
                which has steps of 0.06 for logits of 8 to 16.
        """
        weight = self.weight[first:last]
        bias = None if self.bias is None else self.bias[first:last]
        if not is_exact or states.dtype == torch.float32:
            logits = torch.nn.functional.linear(states, weight, bias).float()
        else:
            logits = _exact_product(states, weight)
            logits = logits if bias is None else logits + bias.float()
        logits = logits if self.scale == 1.0 else logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def _exact_product(states: Tensor, weight: Tensor) -> Tensor:
    """(N, V) float32 from states (N, D) and weights (V, D) of a shorter type."""
    if states.device.type == "cuda":
        return torch.mm(states, weight.T, out_dtype=torch.float32)
    return states.float() @ weight.float().T


def vocabulary_head(model: CausalModel) -> VocabularyHead:
    """The head of a model, checked against the model's own logits so that no family's extra step is lost.

    Raises: ModelError when the family does something else with its logits.
    """
    layer: Any = model.get_output_embeddings()
    config: Any = model.config.get_text_config()
    scale = 1.0
    if getattr(config, "logits_scaling", None):  # Granite divides
        scale = 1.0 / float(config.logits_scaling)
    if getattr(config, "logit_scale", None):  # Cohere multiplies
        scale = float(config.logit_scale)
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
    head = VocabularyHead(layer, scale, float(softcap) if softcap else None)
    _compare(model, head)
    return head


def _compare(model: CausalModel, head: VocabularyHead) -> None:
    ids = torch.arange(4, device=head.weight.device).remainder(len(head.weight)).unsqueeze(0)
    mask, was_training = torch.ones_like(ids), model.training
    model.eval()
    try:
        with torch.no_grad():
            given = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            actual = head.logits(last_hidden_state(model, ids, mask))
    finally:
        model.train(was_training)
    expected, limit = given.float(), 1e-3 if given.dtype == torch.float32 else _LIMIT_OF_HALVES
    if not bool(expected.isfinite().all()):
        return  # nothing to compare with; the first step of training names the quantity that is no number
    if not torch.allclose(actual, expected, rtol=limit, atol=limit * float(expected.abs().max().clamp(min=1.0))):
        raise ModelError(
            f"{type(model).__name__} changes its logits in a way that training does not know",
            allowed="a linear head with an optional bias, scale and soft cap",
            fix="choose another model.name, or a method without the instruction term",
        )
