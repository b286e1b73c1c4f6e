"""What generation_config.json says that decides a greedy text: the ids that end it, and changes of its logits."""

from collections.abc import Mapping
from typing import Any

_CHANGE_LOGITS = (
    *("repetition_penalty", "no_repeat_ngram_size", "min_length", "min_new_tokens", "bad_words_ids", "sequence_bias"),
    *("suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
    "exponential_decay_length_penalty",
)
"""Fields that change which token is likeliest; the others draw, search or cut."""
_NOTHING: dict[str, Any] = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": 0}
"""Values with which a field changes nothing, beside None."""


def logit_changes(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that change logits, with their values; empty for most models."""
    stated_fields = {name: stated.get(name) for name in _CHANGE_LOGITS}
    return {name: value for name, value in stated_fields.items() if value is not None and value != _NOTHING.get(name)}


def ends_of(stated: Mapping[str, Any]) -> list[int]:
    """Ids that end a text, as generation_config.json or config.json states them."""
    text = stated.get("text_config")
    ends = stated.get("eos_token_id", text.get("eos_token_id") if isinstance(text, dict) else None)
    return sorted({number for number in (ends if isinstance(ends, list) else [ends]) if isinstance(number, int)})
