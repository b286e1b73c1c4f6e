"""Pooled states of many texts at one layer of a causal LM: length-sorted batches, nothing above the layer runs.

Shapes: R texts, B texts of a batch, T tokens of the longest, D hidden size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from afp_ray.config.loss import Pooling
from afp_ray.models.hidden_states import CausalModel, hidden_states_at
from afp_ray.models.pooling import pool


def embed_texts(
    model: CausalModel,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    layer: int,
    pooling: Pooling = "mean",
    max_length: int = 256,
    max_batch_tokens: int = 8192,
) -> NDArray[np.float32]:
    """States of `texts`, as a similarity of sentences takes them.

    A text is embedded once however often it is given, and its state does not depend on the others beyond float
    rounding.

    Args:
        model: a causal LM; its mode and weights are left as they are, no gradient is kept.
        tokenizer: its tokenizer.
        texts: R texts, each with at least one token.
        layer: 0 (the embedding output) to the number of blocks.
        pooling: how token states become one vector.
        max_length: longest text in tokens; longer ones are cut on the right.
        max_batch_tokens: tokens of a padded batch.
    Returns: (R, D) float32, of any scale.
    Raises: ValueError for a layer that the model lacks, or a text without tokens.
    """
    unique = list(dict.fromkeys(texts))
    if not unique:
        return np.zeros((0, model.config.get_text_config().hidden_size), np.float32)
    ids = [list(row[:max_length]) for row in tokenizer(unique, verbose=False)["input_ids"]]
    if not all(ids):
        raise ValueError(f"the text {unique[[bool(row) for row in ids].index(False)]!r} has no tokens")
    order = sorted(range(len(ids)), key=lambda place: -len(ids[place]))
    states: NDArray[np.float32] | None = None
    was_training = model.training
    model.eval()
    try:
        begin = 0
        while begin < len(order):
            batch = order[begin : begin + max(1, max_batch_tokens // len(ids[order[begin]]))]
            rows = _embed_batch(model, [ids[place] for place in batch], layer, pooling)
            if states is None:
                states = np.empty((len(unique), rows.shape[1]), np.float32)
            states[batch] = rows
            begin += len(batch)
    finally:
        model.train(was_training)
    assert states is not None
    rows_of = {text: place for place, text in enumerate(unique)}
    return states[[rows_of[text] for text in texts]]


@torch.inference_mode()
def _embed_batch(model: CausalModel, ids: Sequence[Sequence[int]], layer: int, pooling: Pooling) -> NDArray[np.float32]:
    """(B, D) of rows that are padded on the right."""
    inputs = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.long)
    mask = torch.zeros_like(inputs)
    for row, tokens in enumerate(ids):
        inputs[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    device = next(model.parameters()).device
    inputs, mask = inputs.to(device), mask.to(device)
    states = hidden_states_at(model, inputs, mask, layer=layer)
    return np.asarray(pool(states, mask, pooling).float().cpu().numpy(), np.float32)
