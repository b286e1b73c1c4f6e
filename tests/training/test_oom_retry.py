"""A step that does not fit is tried again at half the size, and ends as if that size had been asked for."""

import pytest
import torch
from tiny_models import build_model
from training_cases import RandomBatches, make_training

from afp_ray.config.loss import LossConfig
from afp_ray.training.oom_retry import ElsewhereOutOfMemoryError, Sizes, fit_sizes, is_out_of_memory
from afp_ray.training.optimizer import BackwardOptimizer, backward_with_updates, make_optimizer
from afp_ray.training.setup import seed_step
from afp_ray.training.step import TrainingStep
from afp_ray.training.step_inputs import InstructionInputs

CPU = torch.device("cpu")
OUT = "[enforce fail at alloc_cpu.cpp:129] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"


class LittleMemory(TrainingStep):
    """Has room for so many instructions at a time; what did not fit has left gradients behind."""

    room = 2

    def instruction_share(self, inputs: InstructionInputs) -> torch.Tensor:
        share = super().instruction_share(inputs)
        assert isinstance(inputs.row.lengths, torch.Tensor)
        if len(inputs.row.lengths) > self.room:
            share.backward()  # type: ignore[no-untyped-call]
            raise RuntimeError(OUT)
        return share


def weights(family: str, *, asked: int, room: int) -> tuple[dict[str, torch.Tensor], Sizes]:
    model = build_model(family).train()
    step_of = LittleMemory(model, LossConfig(), device=CPU)
    step_of.room = room
    optimizer = make_optimizer(model, make_training(), CPU)
    sizes = Sizes(asked, 4)
    with torch.random.fork_rng():
        for step in range(3):

            def attempt(sizes: Sizes, step: int = step) -> None:
                seed_step(CPU, 0, step)
                optimizer.zero_grad()
                step_of.backward(RandomBatches().batch(step, micro_batch_size=sizes.micro_batch_size))

            _, sizes = fit_sizes(attempt, sizes, model=model, device=CPU)
            optimizer.step()
    return dict(model.state_dict()), sizes


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # GPT-2 has dropout
@pytest.mark.parametrize("room", [1, 2])
def test_the_weights_are_those_of_the_size_that_fits(family: str, room: int) -> None:
    found, sizes = weights(family, asked=4, room=room)
    expected, kept = weights(family, asked=room, room=room)
    assert sizes == Sizes(room, {2: 2, 1: 1}[room], num_halvings={2: 1, 1: 2}[room])
    assert kept == Sizes(room, 4)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_sizes_are_halved_upwards_to_one_each() -> None:
    sizes = Sizes(5, 2)
    seen = []
    while not sizes.is_smallest:
        sizes = sizes.halved()
        seen.append((sizes.micro_batch_size, sizes.pair_chunk_size, sizes.num_halvings))
    assert seen == [(3, 1, 1), (2, 1, 2), (1, 1, 3)]


def test_what_does_not_fit_at_the_smallest_size_goes_on_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        weights("llama", asked=4, room=0)


def test_gradients_of_a_failed_attempt_are_gone_before_the_next() -> None:
    module = torch.nn.Linear(2, 2)
    seen = []

    def attempt(sizes: Sizes) -> str:
        seen.append((sizes.micro_batch_size, module.weight.grad is None))
        module.weight.grad = torch.ones(2, 2)
        if sizes.micro_batch_size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return "done"

    assert fit_sizes(attempt, Sizes(4, 1), model=module, device=CPU) == ("done", Sizes(1, 1, 2))
    assert seen == [(4, True), (2, True), (1, True)]


@pytest.mark.parametrize(
    "error, expected",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"), True),
        (MemoryError(), True),
        (ElsewhereOutOfMemoryError("out of memory on another worker"), True),
        (RuntimeError(OUT), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_another_error_is_not_tried_again() -> None:
    calls = []

    def attempt(sizes: Sizes) -> None:
        calls.append(sizes)
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fit_sizes(attempt, Sizes(4, 4), model=build_model("llama"), device=CPU)
    assert len(calls) == 1


def test_a_step_that_has_updated_weights_is_not_tried_again() -> None:
    model = build_model("llama").train()
    optimizer = make_optimizer(model, make_training(optimizer_in_backward=True, max_grad_norm=None), CPU)
    assert isinstance(optimizer, BackwardOptimizer)
    step_of = TrainingStep(model, LossConfig(), device=CPU)
    calls = []

    def attempt(sizes: Sizes) -> None:
        calls.append(sizes)
        backward_with_updates(step_of, RandomBatches().batch(0), optimizer)
        raise RuntimeError(OUT)

    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        fit_sizes(attempt, Sizes(4, 4), model=model, device=CPU, can_retry=lambda: not optimizer.has_stepped)
    assert len(calls) == 1
