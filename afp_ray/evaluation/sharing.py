"""Which requests begin alike, laid out so that shared tokens run through the model once.

A trunk is a long beginning of many requests (the demonstrations of a k-shot cell); a trunk may continue another. Behind
it stand trees: requests that share their next tokens (the context of a question, of which the choices are branches).

    requests, sorted    common    laid out; the last token of a request is never an input
    s s s s q q no .              trunk s s s s
    s s s s q q yes .   6           tree q q - no
    s s s s r yes .     4                    - yes
    t t no .            0           tree r yes
                                  tree t t no

Sorted, requests that share tokens stand beside each other, and what a run of them shares is the least of what its
neighbours share. So one number for each pair of neighbours replaces a trie of all tokens, and planning costs the sort
and some passes over those numbers.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from afp_ray.evaluation.trie import Branches, Request, TreeBuilder, common_prefix

_MIN_TRUNK = 32
"""Tokens of the shortest trunk."""
_MIN_SAVED = 4096
"""Tokens that a trunk must save: one more call of a small model takes as long as some hundreds of them."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A trunk and what follows it.

    Attributes:
        ids: tokens of the trunk behind those of the stretch around it; empty for the outermost.
        trees: requests that end behind this trunk.
        inner: trunks that continue this one.
    """

    ids: tuple[int, ...]
    trees: list[Branches] = field(default_factory=list)
    inner: list["Stretch"] = field(default_factory=list)


def plan(requests: Sequence[Request], *, width: int, largest: int) -> Stretch:
    """Lay out requests by what they share.

    Args:
        requests: distinct.
        width: hidden size of the model; the wider it is, the fewer shared tokens make a tree worth its attention.
        largest: tokens beyond which no request joins a tree.

    Returns: the outermost stretch; every request stands in one tree of it or of a stretch inside.
    """
    ordered = sorted(requests, key=lambda request: (request.ids, request.start))
    shared = [common_prefix(a.ids, b.ids) for a, b in pairwise(ordered)]
    return _Planner(ordered, shared, width, largest).stretch(0, len(ordered), 0, 0)


def packs(trees: Sequence[Branches], budget: int) -> Iterator[list[Branches]]:
    """Trees of like size, the largest first, in rows of up to `budget` tokens; a larger tree stands alone."""
    pack: list[Branches] = []
    tokens = 0
    for tree in sorted(trees, key=lambda tree: -tree.num_tokens):
        if pack and tokens + tree.num_tokens > budget:
            yield pack
            pack, tokens = [], 0
        pack.append(tree)
        tokens += tree.num_tokens
    if pack:
        yield pack


def like_parts(ordered: Sequence[Request], number: int) -> list[int]:
    """The part of each request, when requests in their order are cut into `number` parts of like work.

    The work of a request is its tokens that the request before does not share. Neighbours stay neighbours, so at most
    `number` - 1 shared beginnings are computed twice.

    Args:
        ordered: requests in the order of their tokens.
        number: of parts; some are empty where there are fewer requests.
    Returns: a part, 0 to `number` - 1, for each request.
    """
    if number == 1:
        return [0] * len(ordered)
    shared = [0, *(common_prefix(a.ids, b.ids) for a, b in pairwise(ordered))]
    work = list(accumulate(len(request.ids) - same for request, same in zip(ordered, shared, strict=False)))
    total = work[-1] if work else 0
    # Where a part ends, the request that reaches its share of the work is the last one in it.
    cuts = [sum(done * number <= total * part for done in work) for part in range(1, number)]
    return [bisect_right(cuts, index) for index in range(len(ordered))]


@dataclass(frozen=True, slots=True)
class _Planner:
    """Requests in the order of their tokens, and how many tokens each shares with the next."""

    ordered: Sequence[Request]
    shared: Sequence[int]
    width: int
    largest: int

    def stretch(self, first: int, last: int, begin: int, depth: int) -> Stretch:
        """Requests first to last - 1, which share `depth` tokens, behind a trunk of `begin` tokens."""
        stretch = Stretch(self.ordered[first].ids[begin:depth] if first < last else ())
        rest: list[int] = []
        at = first
        for start, end, length in self._trunks(first, last, depth, depth + _MIN_TRUNK):
            rest += range(at, start)
            stretch.inner.append(self.stretch(start, end, depth, length))
            at = end
        rest += range(at, last)
        stretch.trees.extend(self._trees(rest, depth))
        return stretch

    def _trunks(self, first: int, last: int, depth: int, least: int) -> Iterator[tuple[int, int, int]]:
        """First and last request of each trunk of `least` tokens or more that is worth its call, and its tokens."""
        at = first
        # Keys and values of a trunk are kept, its states are not: it ends before the first state that a request scores.
        while at < last:
            end, length = at + 1, self.ordered[at].start - 1
            while end < last and min(length, self._common(end)) >= least:
                length = min(length, self._common(end))
                end += 1
            if (end - at - 1) * (length - depth) >= _MIN_SAVED:
                yield at, end, length
            elif end - at > 2:  # some of them may share more than all do
                yield from self._trunks(at, end, depth, length + 1)
            at = end

    def _common(self, index: int) -> int:
        """Tokens before the first scored state that a request shares with the one before it."""
        return min(self.shared[index - 1], self.ordered[index].start - 1)

    def _trees(self, indices: Sequence[int], depth: int) -> Iterator[Branches]:
        """Trees of the requests at these indices; a request joins while what it saves outweighs attending to all.

        A tree is masked, not skipped: its new tokens are multiplied with all that it holds already. A token costs a
        block about width * width, a pair of tokens in its attention about width; divided by width, what is saved is
        `saved` * width, and what is added the pairs.
        """
        builder = TreeBuilder(depth)
        for before, index in zip([-1, *indices], indices, strict=False):
            request = self.ordered[index]
            if builder.num_tokens:
                # Requests of a trunk may stand between the two, which share the least that neighbours between them do.
                saved = min([len(request.ids) - 1, *self.shared[before:index]]) - depth
                added = len(request.ids) - 1 - depth - saved
                joint = builder.num_tokens + added
                if saved < 1 or joint > self.largest or saved * self.width < builder.num_tokens * added:
                    yield builder.build()
                    builder = TreeBuilder(depth)
            builder.add(request)
        if builder.num_tokens:
            yield builder.build()
