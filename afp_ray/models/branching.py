"""Hidden states of texts that share beginnings, each shared token computed once.

A trunk is a beginning that many texts share: its keys and values are computed once and kept. Behind it stand trees:
texts whose common tokens stand once, in depth-first order. Trees lie end to end in one row, without padding.

    texts    trunk A B C D,  trunk A B E F,  trunk G H
    ids      A B C D E F | G H
    depths   0 1 2 3 2 3 | 0 1      a position counts from the end of the trunk, along the token's own text
    ends     6 6 4 4 6 6 | 2 2      what is below a token ends here, so q sees k where k <= q < ends[k]

Every token attends twice: to the trunk, which is one (N, P) product for the whole row, and to what stands above it in
its own tree. The two softmaxes are joined exactly by the logarithms of their denominators, as in Hydragen
(arXiv:2402.05099); depth-first trees under a mask are those of SpecInfer (arXiv:2305.09781). A cache of keys and values
as it comes with transformers would hold the trunk once for every text. Trees are one more row for the packed attention
of `packing`, so they serve the same families.

Shapes: N tokens of all trees, T of one, P of the trunk, H heads, D width of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from afp_ray.models.attention_totals import attended
from afp_ray.models.hidden_states import CausalModel, decoder_blocks, run_decoder
from afp_ray.models.lengths import difference_beyond_rounding, is_of_library
from afp_ray.models.packed_attention import ScoreForm
from afp_ray.models.packing import FAMILIES, packed_attention_of
from afp_ray.models.tree_rows import Tree, TreeRow, lay_out, on_host, sent

_ALSO = frozenset({"gemma"})
"""Families beside those that pack that are tested to share tokens."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """Keys and values of tokens that trees follow.

    Attributes:
        length: P.
        layers: keys and values of every layer, each (1, H, P, D): repeated to all heads where heads share them.
    """

    length: int
    layers: tuple[tuple[Tensor, Tensor], ...]


def branching_obstacle(model: CausalModel) -> str | None:
    """Why texts of this model cannot share tokens; None where they can, tried on a few tokens in both ways.

    Texts longer than `Lengths.longest_plain` are to be run whole in any case.

    Args:
        model: a causal LM in evaluation mode.
    Returns: a reason in words; the texts of such a model are to be run one by one, whole.
    """
    config = model.config.get_text_config()
    if config.model_type not in FAMILIES | _ALSO:
        return f"attention over shared tokens is not known for the family {config.model_type}"
    if not is_of_library(model):
        return f"attention over shared tokens is not known for code of the checkpoint, {type(model).__name__}"
    if getattr(config, "slow_but_exact", False) and config.pretraining_tp > 1:
        return "slow_but_exact splits the projection of the attention"
    texts = [[index % config.vocab_size for index in text] for text in ((1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 7, 8))]
    device = next(model.parameters()).device
    with torch.no_grad():
        trunk = extend_trunk(model, texts[0][:3], None)
        if len(trunk.layers) != len(decoder_blocks(model)):
            return f"{len(trunk.layers)} of {len(decoder_blocks(model))} blocks let their attention be replaced"
        first, second = texts
        tree = Tree((*first[3:], *second[4:]), (0, 1, 2, 1, 2), (5, 3, 3, 5, 5))
        pieces = branch_states(model, [tree], trunk)
        ids = torch.tensor(texts, device=device)
        positions = torch.arange(ids.shape[1], device=device)[None].expand_as(ids)
        whole = run_decoder(model, ids, positions=positions)
    difference = difference_beyond_rounding(pieces, torch.cat([whole[0, 3:], whole[1, 4:]]))
    if difference is not None:
        return f"shared tokens change the states of {type(model).__name__} by {difference:.1e} of their size"
    return None


def extend_trunk(model: CausalModel, ids: Sequence[int], trunk: Trunk | None) -> Trunk:
    """The trunk that ends with `ids`.

    Args:
        model: a causal LM without a `branching_obstacle`.
        ids: one or more tokens.
        trunk: what they follow; None for nothing.
    Returns: both together.
    """
    length, device = len(ids), _device(model)
    chain = Tree(tuple(ids), tuple(range(length)), (length,) * length)
    row = _Row(lay_out([chain], device), trunk, device, keeps=True)
    _run(model, row)
    own = row.kept
    if trunk is not None:
        # A copy: while both trunks are in use, the beginning that they share is in memory twice.
        pairs = zip(trunk.layers, own, strict=True)
        own = [(torch.cat([old[0], new[0]], 2), torch.cat([old[1], new[1]], 2)) for old, new in pairs]
    return Trunk(length + (0 if trunk is None else trunk.length), tuple(own))


def branch_states(model: CausalModel, trees: Sequence[Tree] | TreeRow, trunk: Trunk | None) -> Tensor:
    """States after the final norm of the tokens of trees.

    Args:
        model: a causal LM without a `branching_obstacle`, in evaluation mode.
        trees: one or more, or what `lay_out` made of them.
        trunk: what all of them follow; None for nothing.
    Returns: (N, width) in the order of the trees, without padding, each equal to that of its text run alone.
    """
    device = _device(model)
    row = trees if isinstance(trees, TreeRow) else lay_out(trees, device)
    return _run(model, _Row(row, trunk, device))[: row.num_tokens]


def _device(model: CausalModel) -> torch.device:
    parameter: Tensor = next(model.parameters())
    return parameter.device


def _run(model: CausalModel, row: "_Row") -> Tensor:
    with packed_attention_of(model, row):
        return run_decoder(model, sent(row.row.ids, row.device), positions=row.positions[None])[0]


class _Row:
    """Trees end to end, as the packed attention sees them.

    Args:
        row: the trees.
        trunk: what they follow, if anything.
        device: of the model.
        keeps: whether the keys and values of every layer are kept.
    """

    def __init__(self, row: TreeRow, trunk: Trunk | None, device: torch.device, *, keeps: bool = False) -> None:
        self.row, self.trunk, self.device, self.keeps = row, trunk, device, keeps
        self.kept: list[tuple[Tensor, Tensor]] = []
        self._start = 0 if trunk is None else trunk.length
        self.sizes = row.sizes
        self.positions = sent(row.depths, device) + self._start  # (N,)
        self.longest = self._start + int(row.depths.max()) + 1
        self._layer = 0
        self._biases: dict[tuple[int | None, bool], list[Tensor | None]] = {}
        self._hidden: dict[int, tuple[Tensor, Tensor]] = {}
        self._places = None if row.grid is None else sent(row.grid.places, device)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, form: ScoreForm) -> Tensor:
        """(1, N, H, D) from queries, keys and values (1, H, N, D); called by one layer after another."""
        query, key = query.to(value.dtype), key.to(value.dtype)  # autocast leaves what was rotated in float32
        if self.keeps:
            self.kept.append((key.contiguous(), value.contiguous()))
        if form.window is not None and form.window >= self.longest:
            form = replace(form, window=None)
        own, own_total = self._within(query, key, value, form)
        if self.trunk is None:
            return own
        past, past_total = self._before(query, form)
        self._layer += 1
        # e^own / (e^own + e^past), the tree's part of the joint denominator, in the form that cannot overflow.
        share = torch.sigmoid(own_total - past_total).transpose(1, 2)[..., None].to(own.dtype)  # (1, N, H, 1)
        return torch.lerp(past, own, share)

    def _before(self, query: Tensor, form: ScoreForm) -> tuple[Tensor, Tensor]:
        """Attention of all tokens to the trunk: (1, N, H, D), and (1, H, N) logarithms of its denominators."""
        assert self.trunk is not None
        window, slopes = form.window, form.slopes
        keys, values = self.trunk.layers[self._layer]
        bias = nothing = None
        if slopes is not None:
            # ALiBi adds slope * (k - q) = slope * (k - P) - slope * (q - P). The second part is the same for all keys
            # of a query: it moves the denominator alone, below, and the bias is one row of P instead of N.
            key_index = torch.arange(self._start, device=self.device) - self._start
            bias = (slopes.float()[:, None] * key_index)[None, :, None]  # (1, H, 1, P)
        if window is not None:
            if window not in self._hidden:
                key_index = torch.arange(self._start, device=self.device)
                hidden = key_index <= self.positions[:, None] - window  # (N, P)
                zeros = torch.zeros(1, 1, *hidden.shape, device=self.device)
                self._hidden[window] = zeros.masked_fill(hidden, float("-inf")), hidden.all(dim=1)
            unseen, nothing = self._hidden[window]
            bias = unseen if bias is None else bias + unseen
        past, total = attended(query, keys, values, form=form, bias=bias)
        if slopes is not None:
            total = total - slopes.float()[None, :, None] * (self.positions - self._start)
        if nothing is not None:  # the window ends behind the trunk: all weight goes to the tree
            total = total.masked_fill(nothing, float("-inf"))
        return past.transpose(1, 2), total

    def _within(self, query: Tensor, key: Tensor, value: Tensor, form: ScoreForm) -> tuple[Tensor, Tensor]:
        """Attention of every tree with itself: (1, N, H, D), and (1, H, N) logarithms of its denominators."""
        biases = self._own_biases(form.window, form.slopes)
        if self._places is None or self.row.grid is None:
            parts = zip(*(torch.split(tensor, self.sizes, dim=2) for tensor in (query, key, value)), strict=True)
            joined = [
                attended(*part, form=form, bias=bias, is_causal=bias is None)
                for part, bias in zip(parts, biases, strict=True)
            ]
            return torch.cat([own.transpose(1, 2) for own, _ in joined], 1), torch.cat(
                [total for _, total in joined], 2
            )
        # One call for all trees costs as much as if each were the largest; callers put trees of like size in a row.
        shape, places = self.row.grid.depths.shape, self._places
        padded = []
        for tensor in (query, key, value):
            tokens = tensor[0].transpose(0, 1)  # (N, H, D)
            row = tokens.new_zeros(shape[0] * shape[1], *tokens.shape[1:]).index_copy(0, places, tokens)
            padded.append(row.view(*shape, *tokens.shape[1:]).transpose(1, 2))
        bias = biases[0]  # of all trees together
        own, total = attended(*padded, form=form, bias=bias, is_causal=bias is None)
        own = own.transpose(1, 2).flatten(0, 1).index_select(0, places)
        total = total.transpose(1, 2).flatten(0, 1).index_select(0, places)
        return own[None], total.transpose(0, 1)[None]

    def _own_biases(self, window: int | None, slopes: Tensor | None) -> list[Tensor | None]:
        """What is added to the scores within each tree, or within all of them side by side; None for a chain.

        Made once a row: layers differ in their windows, and ALiBi's slopes are the same in all of them. A chain is
        plainly causal, which the kernels do without a mask, and without most of the products that it would hide.
        """
        key = (window, slopes is not None)
        if key not in self._biases:
            is_plain, grid = window is None and slopes is None, self.row.grid
            if grid is not None:
                whole = is_plain and all(tree.is_chain for tree in self.row.trees)
                shape = sent(grid.depths, self.device), sent(grid.ends, self.device)
                self._biases[key] = [None if whole else _bias(*shape, window=window, slopes=slopes)]
            else:
                self._biases[key] = [
                    None if is_plain and tree.is_chain else self._bias_of(tree, window=window, slopes=slopes)
                    for tree in self.row.trees
                ]
        return self._biases[key]

    def _bias_of(self, tree: Tree, *, window: int | None, slopes: Tensor | None) -> Tensor:
        shape = (on_host(np.array([numbers]), self.device) for numbers in (tree.depths, tree.ends))
        return _bias(*(sent(numbers, self.device) for numbers in shape), window=window, slopes=slopes)


def _bias(depths: Tensor, ends: Tensor, *, window: int | None, slopes: Tensor | None) -> Tensor:
    """(n, 1 or H, T, T) float32 from trees of (n, T) tokens, -inf where a token is not seen."""
    count, size = depths.shape
    index = torch.arange(size, device=depths.device)
    hidden = (index[:, None] < index) | (index[:, None] >= ends[:, None, :])  # (n, T of queries, T of keys)
    distance = depths[:, None, :] - depths[:, :, None]
    if window is not None:
        hidden = hidden | (distance <= -window)
    bias = torch.zeros(count, 1, size, size, device=depths.device)
    if slopes is not None:
        bias = slopes.float()[:, None, None] * distance[:, None]
    return bias.masked_fill(hidden[:, None], float("-inf"))
