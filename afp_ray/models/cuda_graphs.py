"""Records what runs on a CUDA device as graphs, which are launched at once instead of kernel by kernel."""

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import torch

T = TypeVar("T")
Recorder: TypeAlias = Callable[[Callable[[], T]], Callable[[], T]]
"""Runs a function of tensors at fixed addresses once, and gives what runs it again."""


def cuda_graphs() -> Recorder[T]:
    """What captures functions as CUDA graphs, which share their memory: the result of one lasts until the next is run.

    Returns: takes a function that launches kernels and never waits for the device, runs it once, and gives one that
        replays it, to be used while the tensors that it works on live; raises RuntimeError when it cannot be captured.
    """
    pool = torch.cuda.graph_pool_handle()

    def capture(run: Callable[[], T]) -> Callable[[], T]:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call, unused-ignore]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()  # what libraries set up at a first call must not be captured
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            result = run()

        def replay() -> T:
            graph.replay()
            return result

        return replay

    return capture
