"""A large contrastive batch at layer 1: ours against the published computation, whole and in chunks.

In chunks the gradient is still that of the whole batch (arXiv:2101.06983): memory is that of a chunk, and every pair is
run twice. Times are CPU seconds of one thread.

Usage: PYTHONPATH=. python benchmarks/contrastive.py [--tiny] [--rounds N]
"""

import functools
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from afp_ray.config.loss import LossConfig
from afp_ray.data.batches import PairBatch
from afp_ray.models.hidden_states import CausalModel
from afp_ray.training.contrastive import ContrastiveTerm
from afp_ray.training.gather import sum_gradients
from benchmarks import authors, equality, memory, workload
from benchmarks.figures import Figure, Scale, interleave, run

LOSS = LossConfig(instruction_weight=0.0, layer=1)
CPU = torch.device("cpu")
NUM_WORKERS = 2


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 7 when a floor is missed or the results differ."""
    return run(measure, __doc__, arguments)


def measure(scale: Scale) -> list[Figure]:
    """All figures of the contrastive term."""
    torch.set_num_threads(1)
    shape, size, chunk = (workload.TINY, 8, 4) if scale.is_tiny else (workload.SMALL, 128, 64)
    return [*_times(shape, size, chunk, scale.rounds), *_memory(scale.is_tiny, size, chunk), _workers(shape, size)]


def _times(shape: dict[str, int], size: int, chunk: int, rounds: int) -> list[Figure]:
    """Seconds of a forward and backward, whole and in chunks."""
    pairs = _pairs(shape, size)
    ours, theirs = workload.build_model(shape), workload.build_model(shape)
    term = ContrastiveTerm(ours, LOSS, device=CPU)

    def whole() -> torch.Tensor:
        ours.zero_grad(set_to_none=True)
        return term.backward(pairs)

    def in_chunks() -> torch.Tensor:
        ours.zero_grad(set_to_none=True)
        return term.backward(pairs, chunk_size=chunk)

    def published() -> torch.Tensor:
        theirs.zero_grad(set_to_none=True)
        return _published(theirs, pairs)

    expected = published()
    are_equal = [
        equality.are_equal(ours, theirs, losses=([found()], [expected]))  # the gradient is that of the last call
        for found in (whole, in_chunks)
    ]
    times = functools.partial(interleave, rounds=rounds)
    return [
        Figure(f"contrastive.{size}_pairs_s", *times(whole, published), floor=4.5, equal=are_equal[0]),
        Figure(f"contrastive.{size}_pairs_in_chunks_s", *times(in_chunks, published), floor=4.5, equal=are_equal[1]),
        Figure("contrastive.whole_over_in_chunks_s", *times(whole, in_chunks), equal=are_equal[1]),
    ]


def _memory(is_tiny: bool, size: int, chunk: int) -> list[Figure]:
    """Peaks at the batch of the promise; and that in chunks the peak does not grow with the batch."""
    peak = functools.partial(_peak, is_tiny)
    theirs, whole = peak(size, None, is_ours=False), peak(size, None)
    in_chunks = peak(size, chunk)

    def figure(name: str, own: memory.Measured, floor: float | None = None) -> Figure:
        is_known = bool(own.peak and theirs.peak)
        equal = equality.are_marks_equal(own.marks, theirs.marks, num_losses=1) if is_known else None
        return Figure(name, own.peak, theirs.peak, memory.ratio(own, theirs), floor=floor, equal=equal)

    few, many = size // 4, 4 * size
    smallest, largest = (peak(count, few // 2) for count in (few, many))
    return [
        figure(f"contrastive.{size}_pairs_peak_memory_bytes", whole),
        figure(f"contrastive.{size}_pairs_in_chunks_peak_memory_bytes", in_chunks, 15.0),
        Figure(
            f"contrastive.in_chunks_peak_memory_bytes_{many}_against_{few}_pairs",
            largest.peak,
            smallest.peak,
            memory.ratio(largest, smallest),
            floor=0.8,
        ),
    ]


def _peak(is_tiny: bool, size: int, chunk: int | None, *, is_ours: bool = True) -> memory.Measured:
    return memory.peak_above(functools.partial(_prepare, is_tiny, size, chunk, is_ours), is_tiny=is_tiny)


def _prepare(is_tiny: bool, size: int, chunk: int | None, is_ours: bool) -> memory.Work:
    """The work of one computation for the measurement of its memory."""
    torch.set_num_threads(1)
    _work(workload.TINY, 8, 2 if chunk else None, is_ours).run()
    return _work(workload.TINY if is_tiny else workload.SMALL, size, chunk, is_ours)


def _work(shape: dict[str, int], size: int, chunk: int | None, is_ours: bool) -> memory.Work:
    model, pairs = workload.build_model(shape), _pairs(shape, size)
    found: list[torch.Tensor] = []

    def once() -> None:
        if is_ours:
            found.append(ContrastiveTerm(model, LOSS, device=CPU).backward(pairs, chunk_size=chunk))
        else:
            found.append(_published(model, pairs))

    return memory.Work(once, lambda: equality.marks(model, found))


def _published(model: CausalModel, pairs: PairBatch) -> torch.Tensor:
    loss = authors.contrastive_loss(model, pairs, LOSS)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _pairs(shape: dict[str, int], size: int) -> PairBatch:
    pairs = workload.build_batch(shape, num_pairs=size, num_blocks=1, length=8).pairs
    assert isinstance(pairs, PairBatch)
    return pairs


def _workers(shape: dict[str, int], size: int) -> Figure:
    """Relative difference between the gradients of two processes with half of the pairs each and of one with all."""
    model = workload.build_model(shape)
    ContrastiveTerm(model, LOSS, device=CPU).backward(_pairs(shape, size))
    expected = equality.gradients(model)
    with tempfile.TemporaryDirectory() as folder:
        # Forked from the server that has measured the memory, which has imported the libraries already.
        arguments = (Path(folder), shape, size)
        start_processes(_worker, arguments, nprocs=NUM_WORKERS, start_method="forkserver")  # type: ignore[no-untyped-call]
        found = torch.load(Path(folder) / "gradients.pt", weights_only=True)
    difference = sum(float((found[name] - value).double().square().sum()) for name, value in expected.items())
    total = sum(float(value.double().square().sum()) for value in expected.values())
    error = (difference / total) ** 0.5
    limit = equality.GRADIENT_LIMIT
    name = f"contrastive.gradient_error_of_{NUM_WORKERS}_workers"
    return Figure(name, error, limit, limit / error if error else None, equal=error <= limit)


def _worker(rank: int, folder: Path, shape: dict[str, int], size: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=NUM_WORKERS)
    model: Any = workload.build_model(shape)
    pairs = _pairs(shape, size)
    share = size // NUM_WORKERS
    own = slice(rank * share, (rank + 1) * share)
    part = PairBatch(pairs.source_ids[own], pairs.source_mask[own], pairs.target_ids[own], pairs.target_mask[own])
    ContrastiveTerm(model, LOSS, device=CPU).backward(part)
    sum_gradients(model.parameters())
    if rank == 0:
        torch.save(equality.gradients(model), folder / "gradients.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
