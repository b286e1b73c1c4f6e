"""Continuous batching: texts side by side in slots, each slot handed to the next prompt as soon as its text ends.

As in Orca (OSDI 2022), a batch changes between two steps and is never run to the end of its longest text. Prompts that
wait are run together once enough slots are free; when none waits, the texts that are left move together.

A device runs ahead: tokens are read `lag` steps after they were chosen, and what was written behind the end of a text
is dropped.
"""

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from afp_ray.models.slots import Slots


@dataclass(slots=True)
class Row:
    """A prompt on its way: its tokens, its draws and what it has written."""

    ids: tuple[int, ...]
    draws: random.Random
    written: list[int]
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """How steps follow each other; nothing here changes a text.

    Attributes:
        lag: steps between the choice of a token and the look at it.
        rows, places: a step looks at a multiple of so many slots, and of so many places of each, so that few different
            steps have to be captured.
        free: share of the slots that are free before prompts are run for them.
        left: share of the slots in use at which the texts that are left move together.
        prompt_tokens: of prompts that are run together.
    """

    lag: int = 0
    rows: int = 1
    places: int = 1
    free: float = 0.125
    left: float = 0.75
    prompt_tokens: int = 8192


ON_DEVICE = Pace(lag=4, rows=8, places=128, left=0.5, prompt_tokens=16_384)
"""Where a step costs about the same for any number of slots, and a look at its tokens a wait."""


class ContinuousBatch:
    """Writes texts in slots.

    Args:
        slots: to use; what they held is overwritten.
        max_new_tokens: longest text.
        prefill: prompts -> (b, V) logits of the first tokens, keys and values, and the (b, T) mask of their tokens.
        choose: (n, V) logits and their rows, None for a free slot -> (n,) tokens, on the device.
        append: adds a token to a row, and says in `is_done` whether that ended it.
        pace: how steps follow each other.
    """

    def __init__(
        self,
        slots: Slots,
        *,
        max_new_tokens: int,
        prefill: Callable[[Sequence[Row]], tuple[Tensor, Any, Tensor]],
        choose: Callable[[Tensor, Sequence[Row | None]], Tensor],
        append: Callable[[Row, int], None],
        pace: Pace,
    ) -> None:
        self._slots, self._max_new_tokens, self._pace = slots, max_new_tokens, pace
        self._prefill, self._choose, self._append = prefill, choose, append
        self._rows: list[Row | None] = []  # of each slot in use
        self._num_chosen: list[int] = []  # tokens of each, read or not
        self._unread: deque[tuple[Callable[[], list[int]], list[Row | None]]] = deque()

    def write(self, rows: Sequence[Row]) -> None:
        """Write the text of every row, in the order given."""
        waiting = deque(rows)
        number = self._whole(min(len(rows), self._slots.number))
        self._rows, self._num_chosen = [None] * number, [0] * number
        while waiting or any(row is not None for row in self._rows):
            self._refill(waiting)
            if not waiting:
                self._move_together()
            if any(row is not None for row in self._rows):
                self._step()
        while self._unread:
            self._read()

    def _whole(self, number: int) -> int:
        """Slots that a step looks at to serve so many."""
        return min(math.ceil(number / self._pace.rows) * self._pace.rows, self._slots.number)

    def _refill(self, waiting: deque[Row]) -> None:
        """Run prompts for the slots that are free, if they are enough of them."""
        free = [slot for slot, row in enumerate(self._rows) if row is None]
        if len(free) < min(max(1.0, self._pace.free * len(self._rows)), len(self._rows)):
            return
        while waiting and free:
            batch: list[Row] = []
            longest = len(waiting[0].ids)
            while waiting and len(batch) < len(free):
                longest = max(longest, len(waiting[0].ids))
                if batch and (len(batch) + 1) * longest > self._pace.prompt_tokens:
                    break
                batch.append(waiting.popleft())
            used = self._start(batch, free)
            free = free[used:]

    def _start(self, batch: list[Row], free: Sequence[int]) -> int:
        """Run prompts and put them into free slots; how many of those are used, for a text may end at once."""
        logits, past, mask = self._prefill(batch)
        tokens = self._choose(logits, batch)
        for row, token in zip(batch, tokens.tolist(), strict=True):
            self._append(row, token)
        going = [index for index, row in enumerate(batch) if not row.is_done]
        if not going or self._max_new_tokens == 1:
            return 0
        if len(going) < len(batch):
            chosen = torch.tensor(going, device=tokens.device)
            past.batch_select_indices(chosen)
            mask, tokens = mask[chosen], tokens[chosen]
        self._slots.fill(free[: len(going)], past, mask, tokens)
        for slot, index in zip(free, going, strict=False):
            self._rows[slot], self._num_chosen[slot] = batch[index], 1
        return len(going)

    def _move_together(self) -> None:
        """Leave slots at the end unused once few texts are left."""
        used = [slot for slot, row in enumerate(self._rows) if row is not None]
        number = self._whole(len(used))
        if not used or len(used) > self._pace.left * len(self._rows) or number == len(self._rows):
            return
        sources = [slot for slot in used if slot >= number]
        targets = [slot for slot, row in enumerate(self._rows[:number]) if row is None][: len(sources)]
        if sources:
            self._slots.move(sources, targets)
        for source, target in zip(sources, targets, strict=True):
            self._rows[target], self._num_chosen[target] = self._rows[source], self._num_chosen[source]
        del self._rows[number:], self._num_chosen[number:]

    def _step(self) -> None:
        """Choose one more token of every text; a text that has its last is out, whatever the token is."""
        lengths = [
            len(row.ids) + chosen for row, chosen in zip(self._rows, self._num_chosen, strict=True) if row is not None
        ]
        width = min(math.ceil(max(lengths) / self._pace.places) * self._pace.places, self._slots.places)
        tokens = self._choose(self._slots.step(len(self._rows), width), self._rows)
        self._slots.advance(tokens)
        self._unread.append((_reader(tokens), list(self._rows)))
        for slot, row in enumerate(self._rows):
            self._num_chosen[slot] += 1
            if row is not None and self._num_chosen[slot] == self._max_new_tokens:
                self._rows[slot] = None
        while len(self._unread) > self._pace.lag:
            self._read()

    def _read(self) -> None:
        """Look at the tokens of the oldest step that was not looked at."""
        read, rows = self._unread.popleft()
        for row, token in zip(rows, read(), strict=True):
            if row is not None and not row.is_done:
                self._append(row, token)
        self._rows = [None if row is None or row.is_done else row for row in self._rows]


def _reader(tokens: Tensor) -> Callable[[], list[int]]:
    """Gives the tokens on the host, waiting for no step behind the one that chose them."""
    if tokens.device.type != "cuda":
        return tokens.tolist  # type: ignore[no-any-return, unused-ignore]
    copied = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
    copied.copy_(tokens, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call, unused-ignore]
    done.record()

    def read() -> list[int]:
        done.synchronize()
        numbers: list[int] = copied.tolist()
        return numbers

    return read
