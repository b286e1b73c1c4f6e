"""The order in which rows enter global batches: every epoch a new permutation, any step at once, no worker involved.

Epochs run on without a gap, so that no row is dropped: a batch may hold the end of one epoch and the start of the
next. With 10 rows and batches of 4:

    epoch    0 0 0 0 | 0 0 0 0 | 0 0 1 1 | 1 1 1 1 | 1 1 1 1 | 2 2 2 2 | ...
    batch    0         1         2         3         4         5
                                 the tail of epoch 0, and the rows missing to a whole batch, of epoch 1

Rows of a batch must not share a key. The tail of an epoch is therefore chosen first, from that epoch's permutation
alone: the next epoch can compute it without arranging this one, which would need the one before, and so on to the
first. So any step costs the arrangement of one or two epochs, a resumed run needs no stored state, and all workers
agree without a message.
"""

import random
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import lru_cache

MAX_TRIES = 1000
"""Rows tried before a clash is accepted. Without this bound and the next, a corpus of repeats would cost its square."""
MAX_TRIES_PER_EPOCH = 200_000


class BatchOrder:
    """Rows of each global batch; row positions run on from one epoch into the next.

    A batch holds no two rows that share a key, where swapping rows within the epoch avoids it: in a contrastive batch,
    a repeated sentence would be a negative of itself.

    Args:
        keys: the keys of each row; rows without keys never clash.
        batch_size: rows of a global batch, >= 1.
        seed: of the permutations.
        name: keeps apart orders that share a seed.
    """

    def __init__(self, keys: Sequence[Sequence[Hashable]], *, batch_size: int, seed: int, name: str) -> None:
        self._keys = [frozenset(row) for row in keys]
        self._batch_size, self._seed, self._name = batch_size, seed, name
        self._epoch = lru_cache(maxsize=3)(self._arrange)  # a list of all rows each; a batch spans two, rarely more

    def rows(self, step: int) -> list[int]:
        """Indices of the rows in the batch of `step` (0-based), `batch_size` of them."""
        num_rows = len(self._keys)
        first = step * self._batch_size
        indices = range(first, first + self._batch_size)
        return [self._epoch(index // num_rows)[index % num_rows] for index in indices]

    def _arrange(self, epoch: int) -> list[int]:
        """The order of one epoch: its first batch completes the tail of the epoch before, its own tail comes last.

        Greedy first, then mended: batches are filled in the order of the permutation, which leaves the clashes to the
        last of them; swaps with other batches then take those away.
        """
        queue = self._permutation(epoch)
        num_rows, size = len(queue), self._batch_size
        if num_rows < size or not any(self._keys):  # repeats cannot be avoided, or there are none
            return queue
        tail = self._tail(epoch)
        taken = set(tail)
        queue = [row for row in queue if row not in taken]
        missing = -(epoch * num_rows) % size
        before = self._tail(epoch - 1) if missing else []
        batches = [self._take(queue, missing, before)] if missing else []
        while queue:
            batches.append(self._take(queue, size, []))
        if missing:
            batches[0] = before + batches[0]
        self._mend(batches, fixed=len(before))
        if missing:
            batches[0] = batches[0][len(before) :]
        return [row for batch in batches for row in batch] + tail

    def _permutation(self, epoch: int) -> list[int]:
        order = list(range(len(self._keys)))
        random.Random(f"{self._seed} {self._name} epoch {epoch}").shuffle(order)  # noqa: S311
        return order

    def _tail(self, epoch: int) -> list[int]:
        """Rows of the epoch's last, incomplete batch; [] when the epoch ends with a whole one."""
        length = (epoch + 1) * len(self._keys) % self._batch_size
        return self._take(self._permutation(epoch), length, []) if length else []

    def _take(self, queue: list[int], count: int, started: Sequence[int]) -> list[int]:
        """Move the first `count` rows of `queue` that clash with none of their batch; clashing ones only if need be."""
        used = {key for row in started for key in self._keys[row]}
        chosen: list[int] = []
        passed: list[int] = []
        index = 0
        while index < len(queue) and len(chosen) < count and len(passed) < MAX_TRIES:
            row = queue[index]
            if used.isdisjoint(self._keys[row]):
                chosen.append(row)
                used |= self._keys[row]
            else:
                passed.append(row)
            index += 1
        queue[:index] = passed  # first in line for the next batch; the list behind moves up, once a batch
        lacking = count - len(chosen)
        chosen += queue[:lacking]
        del queue[:lacking]
        return chosen

    def _mend(self, batches: list[list[int]], *, fixed: int) -> None:
        """Swap rows that clash within their batch with rows of other batches, where both then fit.

        Args:
            batches: rows by batch, changed in place.
            fixed: number of rows at the start of the first batch that must stay.
        """
        counts = [Counter(key for row in batch for key in self._keys[row]) for batch in batches]
        spots = [(number, column) for number, batch in enumerate(batches) for column in range(len(batch))][fixed:]
        tries_left = MAX_TRIES_PER_EPOCH
        for number, column in spots:  # the tail is not among them: the next epoch counts on it
            row = batches[number][column]
            if all(counts[number][key] == 1 for key in self._keys[row]):
                continue
            # From a spot of its own: if all rows tried the same `MAX_TRIES` spots, those would soon be used up.
            start = random.Random(f"{self._seed} {self._name} {row}").randrange(len(spots))  # noqa: S311
            for shift in range(min(len(spots), MAX_TRIES, tries_left)):
                tries_left -= 1
                other, there = spots[(start + shift) % len(spots)]
                swap = batches[other][there]
                if other != number and self._fits(counts[other], row, swap) and self._fits(counts[number], swap, row):
                    batches[number][column], batches[other][there] = swap, row
                    for count, enters, leaves in ((counts[number], swap, row), (counts[other], row, swap)):
                        count.subtract(self._keys[leaves])
                        count.update(self._keys[enters])
                    break

    def _fits(self, count: Counter[Hashable], enters: int, leaves: int) -> bool:
        """Whether row `enters` clashes with nothing in a batch of these key counts once `leaves` has left it."""
        return all(count[key] == (key in self._keys[leaves]) for key in self._keys[enters])
