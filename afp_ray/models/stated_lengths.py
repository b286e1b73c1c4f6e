"""What a configuration says of the lengths of text that a model treats alike; no torch.

Rotary frequencies may depend on how long the whole input is: `longrope` has one set for inputs up to the length of
pretraining and one beyond it, `dynamic` a set for every length beyond it. Both look at the largest position of a batch,
so that a long text would change the numbers of a short one beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FIELDS = (
    *("rope_parameters", "rope_scaling", "max_position_embeddings", "original_max_position_embeddings"),
    *("layer_types", "attention_chunk_size"),
)
"""What is read of a configuration."""
UNENDING = 1 << 30
_SWITCHING = ("longrope", "su")
"""Kinds of frequencies with two sets; `su` is what older files call `longrope`."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Where the treatment of a text changes with its length.

    Attributes:
        switches: lengths beyond which other frequencies or chunks begin, the same for all longer texts.
        grows_from: length beyond which every length is treated in a way of its own; None for none.
    """

    switches: tuple[int, ...] = ()
    grows_from: int | None = None

    def kind(self, length: int) -> tuple[int, int]:
        """What two lengths have in common when texts of them may run side by side."""
        grown = length if self.grows_from is not None and length > self.grows_from else 0
        return sum(length > switch for switch in self.switches), grown

    @property
    def longest_plain(self) -> int:
        """The longest text that is treated as the shortest one is."""
        return min([*self.switches, *([] if self.grows_from is None else [self.grows_from])], default=UNENDING)


def stated_lengths(config: Mapping[str, Any]) -> Lengths:
    """What a configuration says of rotary frequencies and of attention in chunks.

    Args:
        config: of the text model; config.json as it is, or `FIELDS` of it.
    """
    stated = config.get("rope_parameters") or config.get("rope_scaling")
    rope = stated if isinstance(stated, Mapping) else {}
    before, longest = "original_max_position_embeddings", config.get("max_position_embeddings")
    switches: list[int] = []
    grows_from = None
    for one in [part for part in rope.values() if isinstance(part, Mapping)] or [rope]:  # one for each kind of layer
        kind = str(one.get("rope_type", one.get("type", "")))
        if "dynamic" in kind:
            grows_from = _first_number(longest)
        elif kind in _SWITCHING or "long_mscale" in one:
            switches.append(_first_number(one.get(before), config.get(before), longest))
    if "chunked_attention" in (config.get("layer_types") or ()):
        switches.append(_first_number(config.get("attention_chunk_size")))
    return Lengths(tuple(sorted(set(switches))), grows_from)


def _first_number(*values: Any) -> int:
    return next((value for value in values if isinstance(value, int) and value > 0), UNENDING)
