"""The contrastive term of a step: pairs to embeddings to this worker's share of the loss, and its gradient.

Each worker computes its own rows and backpropagates its own share of the global loss; what is gathered carries
gradients back to the worker that owns a row, so the shares and their gradients sum to the whole.

Pairs taken in chunks give the gradient of the whole batch (gradient caching, arXiv:2101.06983). The losses of the
chunks alone would not sum to it, since a pair would then have the negatives of its own chunk only.

    1. each chunk, without gradient   ->  (b, D) embeddings of all
    2. loss over all embeddings       ->  gradient by each embedding
    3. each chunk again               ->  that gradient carried on to the weights, dropout drawn as in 1

Activations take the memory of one chunk, and time grows by one forward pass.

The queue holds candidates of earlier steps beside those of this one (MoCo, arXiv:1911.05722; XlCo, arXiv:2007.07834). A
slow copy of the model makes them, since rows of a model that moves with every step would soon not be comparable.

Pairs that share their source or their target are no negatives of each other.

Shapes: b pairs of this worker, B of all workers, N candidates (B and the rows of the queue), D width.
"""

import contextlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from afp_ray.config.loss import LossConfig
from afp_ray.data.batches import PairBatch
from afp_ray.data.packing import PackedBatch
from afp_ray.losses import Candidates, contrastive_loss
from afp_ray.models.hidden_states import CausalModel, decoder_blocks
from afp_ray.models.packing import packed_hidden_states_at, packed_states_of_every_layer
from afp_ray.models.pooling import pool_samples
from afp_ray.training.gather import gather_rows, sum_over_workers, world_size
from afp_ray.training.negatives import NegativeQueue, SlowCopy
from afp_ray.training.oom_retry import agree
from afp_ray.training.packed_rows import pack_pairs, split_pairs
from afp_ray.training.step_inputs import PairInputs, on_device, pair_inputs

Sides: TypeAlias = tuple[Tensor, Tensor]
"""(b, D) sources and (b, D) targets of one layer."""


class ContrastiveTerm:
    """Computes the contrastive loss of pairs, and holds the queue of negatives where one is asked for.

    Args:
        model: on `device`.
        loss: shape and weight of the term.
        device: where batches go.
        is_bf16: run the model under bf16 autocast; similarities and softmaxes stay float32.
    """

    def __init__(self, model: CausalModel, loss: LossConfig, *, device: torch.device, is_bf16: bool = False) -> None:
        self.model, self.loss, self.device, self.is_bf16 = model, loss, device, is_bf16
        num_blocks = len(decoder_blocks(model))
        named = {"middle": num_blocks // 2, "all": num_blocks}
        self._layer = named[loss.layer] if isinstance(loss.layer, str) else loss.layer  # the highest that is run
        self._queue: NegativeQueue | None = None
        if loss.contrastive_weight > 0 and loss.negatives == "queue":
            self._queue = NegativeQueue(loss.queue_size)
            self._slow = SlowCopy(model, layer=self._layer, momentum=loss.queue_momentum)
        self._waiting: list[PairInputs] = []

    def backward(self, pairs: PairBatch | PackedBatch, *, chunk_size: int | None = None) -> Tensor:
        """Add the gradient of this worker's weighted share to `.grad`.

        Args:
            pairs: this worker's b pairs.
            chunk_size: pairs of one forward pass, equal on all workers; None takes all at once. The value and the
                gradient are those of the whole batch either way, the memory that of a chunk.
        Returns: () nats, this worker's share, unweighted, without gradient.
        """
        row = pack_pairs(pairs)
        is_whole = chunk_size is None or 2 * chunk_size >= len(row.lengths)
        chunks = [pair_inputs(part) for part in ([row] if is_whole else split_pairs(row, chunk_size or 1))]
        self.wait_for_update(chunks)
        return self._backward_in_chunks(chunks) if len(chunks) > 1 else self.pass_backward(chunks[0])

    def wait_for_update(self, chunks: list[PairInputs]) -> None:
        """Remember the pairs of this step: they enter the queue, where there is one, once the weights are updated."""
        if self._queue is not None:
            self._waiting = chunks

    def pass_backward(self, pairs: PairInputs) -> Tensor:
        """Likewise of pairs that are taken in one pass; a function of tensors alone where there is one worker."""
        share = self.share(pairs)
        (self.loss.contrastive_weight * share).backward()  # type: ignore[no-untyped-call]
        return share.detach()

    def share(self, pairs: PairInputs) -> Tensor:
        """Share of this worker in the mean contrastive loss over the B pairs of all workers, mean over the layers.

        Args:
            pairs: this worker's b pairs.
        Returns: () nats, unweighted, with gradient.
        """
        return self._share(self.embed(pairs), pairs.keys)

    def embed(self, pairs: PairInputs, *, model: CausalModel | None = None) -> list[Sides]:
        """Pooled states of both sides, from one forward that stops at the highest layer of the loss.

        Args:
            pairs: this worker's b pairs.
            model: None takes the one that is trained.
        Returns: (b, D) sources and (b, D) targets for each layer of the loss, the lowest first.
        """
        row, num_pairs = on_device(pairs.row, self.device), len(pairs.keys)
        inputs = (model or self.model, row.input_ids, row.positions, row.lengths)

        def sides(states: Tensor) -> Sides:
            pooled = pool_samples(states, pairs.pooled, self.loss.pooling)
            return pooled[:num_pairs], pooled[num_pairs : 2 * num_pairs]

        with self._autocast():
            if self.loss.layer == "all":
                return packed_states_of_every_layer(*inputs, reduce=sides)
            return [sides(packed_hidden_states_at(*inputs, layer=self._layer))]

    def after_step(self) -> None:
        """Move the slow copy on and push what it makes of this step's pairs; call it once the weights are updated.

        Does nothing without a queue; all workers call this alike.
        """
        if self._queue is None:
            return
        self._slow.update(self.model)
        if not self._waiting:
            return
        with torch.no_grad():
            states = _joined([self.embed(chunk, model=self._slow.model) for chunk in self._waiting])
            keys = torch.cat([chunk.keys for chunk in self._waiting])
            columns, keys, _ = self._of_all_workers(self._sides_of_candidates(states), self._here(keys))
            self._queue.push([F.normalize(column.float(), dim=-1) for column in columns], keys)
        self._waiting = []

    def state_dict(self) -> dict[str, Any]:
        """Slow copy and queue, equal on all workers; empty without a queue."""
        return {} if self._queue is None else {"slow": self._slow.state_dict(), "queue": self._queue.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises: KeyError when a part or a weight is missing.
        """
        if self._queue is not None:
            self._slow.load_state_dict(state["slow"])
            self._queue.load_state_dict(state["queue"], device=self.device)

    def _backward_in_chunks(self, chunks: list[PairInputs]) -> Tensor:
        """The three steps of the drawing above; this worker's share, without gradient."""
        random_states, chunk_states = [], []
        with torch.no_grad():
            for chunk in chunks:
                random_states.append(_random_state(self.device))
                chunk_states.append(self.embed(chunk))
        states = _joined(chunk_states)
        # Leaves of a graph of their own: the loss gives its gradient by them, and no model stands behind them.
        leaves = [side.requires_grad_() for sides in states for side in sides]
        share = self._share(states, torch.cat([chunk.keys for chunk in chunks]))
        (self.loss.contrastive_weight * share).backward()  # type: ignore[no-untyped-call]
        start = 0
        for chunk, random_state in zip(chunks, random_states, strict=True):
            _set_random_state(random_state, self.device)  # dropout draws the same again
            again = [side for sides in self.embed(chunk) for side in sides]
            part = slice(start, start + len(again[0]))
            moved = [(side, leaf.grad[part]) for side, leaf in zip(again, leaves, strict=True) if leaf.grad is not None]
            moved = [(side, gradient) for side, gradient in moved if side.requires_grad]  # frozen embeddings do not
            torch.autograd.backward([side for side, _ in moved], [gradient for _, gradient in moved])
            start = part.stop
        return share.detach()

    def _share(self, states: list[Sides], keys: Tensor) -> Tensor:
        keys = self._here(keys)
        num_own = len(keys)
        count: int | Tensor = num_own
        if world_size() > 1:
            agree(self.device)
        if self.loss.negatives == "batch":
            # Candidates of this worker alone, yet still a share of the mean over the B pairs of all workers.
            columns, all_keys, first = self._sides_of_candidates(states), keys, 0
            if world_size() > 1:
                count = sum_over_workers(torch.tensor(num_own, device=self.device))
        else:
            columns, all_keys, first = self._of_all_workers(self._sides_of_candidates(states), keys)
            count = len(all_keys)
        if self._queue is not None and len(self._queue):  # behind the batch, so that the labels stay
            columns = [
                torch.cat([column, rows.to(column)]) for column, rows in zip(columns, self._queue.rows, strict=True)
            ]
            all_keys = torch.cat([all_keys, self._queue.keys])
        ignored = (keys[:, None] == all_keys[None]).any(dim=-1)  # (b, N): equal sources or equal targets
        labels = torch.arange(first, first + num_own, device=self.device)
        temperature, symmetric = self.loss.temperature, self.loss.symmetric
        has_own_side, rest = self.loss.negatives_from == "both", iter(columns)
        shares = []
        for source, target in states:
            targets, sources = next(rest), next(rest) if self._needs_sources else None
            among = Candidates(sources, targets, labels, ignored, has_own_side)
            shares.append(
                contrastive_loss(source, target, temperature, symmetric=symmetric, candidates=among, reduction="sum")
            )
        return torch.stack(shares).mean() / count

    @property
    def _needs_sources(self) -> bool:
        """Whether sources are candidates, too."""
        return self.loss.symmetric or self.loss.negatives_from == "both"

    def _sides_of_candidates(self, states: list[Sides]) -> list[Tensor]:
        """Of every layer the (b, D) targets, and the sources after them where those are candidates."""
        return [side for source, target in states for side in ((target, source) if self._needs_sources else (target,))]

    def _of_all_workers(self, columns: list[Tensor], keys: Tensor) -> tuple[list[Tensor], Tensor, int]:
        """The same columns and keys with B rows, and which of them is this worker's first."""
        if world_size() == 1:
            return columns, keys, 0
        gathered, first = gather_rows(torch.cat(columns, dim=1))  # one exchange for all layers
        return list(torch.split(gathered, [column.shape[1] for column in columns], dim=1)), gather_rows(keys)[0], first

    def _here(self, rows: Tensor) -> Tensor:
        return rows.to(self.device, non_blocking=True)

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        if not self.is_bf16:
            return contextlib.nullcontext()
        return torch.autocast(device_type=self.device.type, dtype=torch.bfloat16)


def _joined(chunks: list[list[Sides]]) -> list[Sides]:
    """States of all chunks by layer."""
    return [
        (torch.cat([source for source, _ in of_layer]), torch.cat([target for _, target in of_layer]))
        for of_layer in zip(*chunks, strict=True)
    ]


def _random_state(device: torch.device) -> list[Tensor]:
    """State of the generators that dropout draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
