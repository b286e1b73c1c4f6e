"""Slots of a static cache: each keeps the keys and values of one text, at addresses that never change.

When a text ends, its slot is given to the next one while the others go on. A step of decoding reads the last token of
each slot and the length before it, and writes keys and values behind them: one function of tensors at fixed addresses,
which can therefore be captured as a CUDA graph for every number of slots and places that it looks at.

    slot 0   a b c d e . . .     length 5: the token under way goes to place 5
    slot 1   f g . . . . . .     length 2
             <- width ->         places behind the token under way are masked

Shapes: S slots of C places; n of the slots and W of the places are looked at; H heads, D width of a head, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from afp_ray.models.decoding import Decoder
from afp_ray.models.hub import first_line

Step = Callable[[], Tensor]
"""One step of decoding of the first slots: (n, V) float32 logits of the next tokens."""


class Slots:
    """Keys and values of up to S texts.

    Args:
        decoder: of a model that keeps keys and values and nothing else (`DecodingLimits.longest_in_slots`).
        token_states: (1, H, 1, D) keys and values of a token, by layer.
        number: S.
        places: C, the longest text.
        capture: makes of a step one that does the same in a cheaper way; null runs every step as it is.
        warnings: is told why steps are run as they are, though `capture` was given.

    Attributes:
        number, places: S and C.
    """

    def __init__(
        self,
        decoder: Decoder,
        token_states: Sequence[tuple[Tensor, Tensor]],
        *,
        number: int,
        places: int,
        capture: Callable[[Step], Step] | None = None,
        warnings: list[str] | None = None,
    ) -> None:
        self.number, self.places = number, places
        self._warnings = [] if warnings is None else warnings
        self._decoder, self._capture = decoder, capture
        self._captured: dict[tuple[int, int], Step] = {}
        self._tokens = torch.zeros(number, 1, dtype=torch.long, device=decoder.device)
        self._lengths = torch.zeros(number, dtype=torch.long, device=decoder.device)
        self._all_places = torch.arange(places, device=decoder.device)
        self._view = _View(self._lengths, places)
        self._cache = Cache(layers=[_Layer(self._view, *states) for states in token_states])

    def fill(self, slots: Sequence[int], past: Any, mask: Tensor, tokens: Tensor) -> None:
        """Give slots to texts whose prompts have run.

        Args:
            slots: b of them.
            past: keys and values of the prompts, b rows.
            mask: (b, T) 1 for their tokens, 0 for padding, which may stand anywhere.
            tokens: (b,) first token of each text.
        """
        index = torch.tensor(slots, device=self._decoder.device)
        order = mask.argsort(dim=1, descending=True, stable=True)  # tokens first, in their order; then padding
        for layer, prompts in zip(self._cache.layers, past.layers, strict=True):
            for own, states in ((layer.keys, prompts.keys), (layer.values, prompts.values)):
                own[index, :, : mask.shape[1]] = states.gather(2, order[:, None, :, None].expand_as(states))
        self._tokens[index, 0] = tokens.clamp(min=0)
        self._lengths[index] = mask.sum(dim=1)

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Move texts to other slots."""
        source, target = (torch.tensor(slots, device=self._decoder.device) for slots in (sources, targets))
        kept = [part for layer in self._cache.layers for part in (layer.keys, layer.values)]
        for part in (*kept, self._tokens, self._lengths):
            part[target] = part[source]

    def step(self, number: int, width: int) -> Tensor:
        """What follows the last token of each text.

        Args:
            number: n; slots without a text may be among them, and what they give means nothing.
            width: W, more than every length.
        Returns: (n, V) float32 logits, until the next step.
        """
        self._view.number, self._view.width = number, width
        if self._capture is not None and (number, width) not in self._captured:
            self._try_capture(self._capture)
        captured = self._captured.get((number, width))
        return self._run() if captured is None else captured()

    def advance(self, tokens: Tensor) -> None:
        """Write the next token of each of the first n slots; a negative one stands for none."""
        number = len(tokens)
        self._tokens[:number, 0] = tokens.clamp(min=0)
        self._lengths[:number].add_(1).clamp_(max=self.places - 1)  # a slot without a text stays within its places

    def _run(self) -> Tensor:
        """The step, kernel by kernel; running it again changes nothing."""
        number, width = self._view.number, self._view.width
        self._view.rows = {}
        lengths = self._lengths[:number, None]
        mask = (self._all_places[:width] <= lengths).long()
        return self._decoder.forward(self._tokens[:number], mask, self._cache, positions=lengths)[0]

    def _try_capture(self, capture: Callable[[Step], Step]) -> None:
        """Keep the step of this shape as `capture` makes it, where that gives the same logits."""
        expected = self._run().clone()
        try:
            captured = capture(self._run)
            gap = float((captured().nan_to_num() - expected.nan_to_num()).abs().max())
        except RuntimeError as error:
            problem = f"it failed: {first_line(error)}"
        else:
            if gap <= self._decoder.reach(expected.nan_to_num()):
                self._captured[self._view.number, self._view.width] = captured
                return
            problem = f"its logits differ by {gap:.1e}"
        self._warnings.append(f"steps of decoding were not captured but run kernel by kernel: {problem}")
        self._capture = None


class _View:
    """What the layers of a cache know of the step under way.

    Args:
        lengths: (S,) place of the token under way in each slot.
        places: C.

    Attributes:
        number, width: n and W.
        rows: (n * H,) rows of (S * H * C, D) keys and values that the tokens under way go to, by H.
    """

    def __init__(self, lengths: Tensor, places: int) -> None:
        self.lengths, self.places = lengths, places
        self.number, self.width = len(lengths), places
        self.rows: dict[int, Tensor] = {}

    def put(self, kept: Tensor, states: Tensor) -> Tensor:
        """Keys or values of one layer with those of the tokens under way.

        Args:
            kept: (S, H, C, D).
            states: (n, H, 1, D).
        Returns: (n, H, W, D), a view.
        """
        heads = kept.shape[1]
        if heads not in self.rows:  # the same in all layers with as many heads
            firsts = torch.arange(self.number * heads, device=kept.device) * self.places
            self.rows[heads] = firsts + self.lengths[: self.number, None].expand(-1, heads).reshape(-1)
        kept.view(-1, kept.shape[-1]).index_copy_(0, self.rows[heads], states.reshape(-1, states.shape[-1]))
        return kept[: self.number, :, : self.width]


class _Layer(CacheLayerMixin):  # type: ignore[misc, unused-ignore]
    """Keys and values of one layer, as a model finds them in its cache.

    To the model every slot seems to hold W - 1 tokens, so that causality hides nothing; the mask says what is there.
    """

    is_sliding = False

    def __init__(self, view: _View, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self._view = view
        self.keys, self.values = (
            part.new_zeros(len(view.lengths), part.shape[1], view.places, part.shape[3]) for part in (keys, values)
        )
        self.is_initialized = True
        # Then transformers makes the mask without looking whether one is needed, which would wait for the device.
        self.is_compileable = keys.device.type != "cpu"

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Nothing is left to do."""

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Keys and values of all tokens, those under way included."""
        return self._view.put(self.keys, key_states), self._view.put(self.values, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of places, and the first of them."""
        return self._view.width, 0

    def get_seq_length(self) -> int:
        """Tokens before the one under way, as it seems."""
        return self._view.width - 1

    def get_max_length(self) -> int:
        """Places of a slot."""
        return self._view.places
