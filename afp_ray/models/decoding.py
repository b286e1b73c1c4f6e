"""Rows of text side by side, padded on the left: the next token of each.

Shapes: B rows of a batch, T tokens of the longest row, V vocabulary.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_PADDING = 0
"""Any id will do: padding is masked."""


class Decoder:
    """A causal language model as decoding runs it.

    Args:
        model: a causal LM in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device: torch.device = next(model.parameters()).device
        names = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in names
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in names else {}

    def forward(self, ids: Tensor, mask: Tensor, past: Any, *, positions: Tensor | None = None) -> tuple[Tensor, Any]:
        """The next token of every row.

        Args:
            ids: (B, t) tokens that follow those of `past`.
            mask: (B, T) 1 for every token, 0 for padding; those of `past` first.
            past: keys and values of the tokens before; null for none.
            positions: (B, t) of `ids` in their texts; null counts the tokens of the mask.
        Returns: (B, V) float32 logits, and keys and values with those of `ids` added.
        """
        options: dict[str, Any] = dict(self._last_only)
        if self.takes_positions:
            counted = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :] if positions is None else positions
            options["position_ids"] = counted
        out = self.model(input_ids=ids, attention_mask=mask, past_key_values=past, use_cache=True, **options)
        return out.logits[:, -1].float(), getattr(out, "past_key_values", None)

    def first_tokens(self, number: int) -> list[int]:
        """Tokens to try a model out with: 1, 2, 3 and so on, within the vocabulary."""
        size = int(self.model.get_input_embeddings().weight.shape[0])
        return [1 + index % (size - 1) for index in range(number)]

    def reach(self, logits: Tensor) -> float:
        """The largest difference of logits that counts as rounding."""
        exact = next(self.model.parameters()).dtype == torch.float32
        return (1e-3 if exact else 0.1) * max(1.0, float(logits.abs().max()))


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, T) ids and mask; padding stands on the left, so that the next token follows every row."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), _PADDING, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(row)
        mask[index, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def fork(past: Any, rows: int) -> Any:
    """A copy of the keys and values of one sequence for `rows` sequences."""
    copied = copy.deepcopy(past)
    copied.batch_repeat_interleave(rows)
    return copied
