"""Steps that are replayed give the weights of steps that are not, and what cannot be replayed says so.

On a CPU a recording is the function itself: shapes, buffers, proofs, numbers that come late and every way out are
tested by it; what a CUDA graph makes of it is tested on a card.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from resume_cases import NUM_STEPS, Run
from tiny_models import build_model
from training_cases import RandomBatches, make_training

from afp_ray.config.loss import LossConfig
from afp_ray.config.runtime import TrainingRuntime
from afp_ray.data.batches import TrainBatch
from afp_ray.errors import ConfigError, DivergedError
from afp_ray.models.compiling import Compiling, judge_compiling
from afp_ray.models.cuda_graphs import Recorder
from afp_ray.records import TrainingSummary
from afp_ray.training.captured_step import StepForm, refuses_capture_of
from afp_ray.training.step import TrainingStep

CPU = torch.device("cpu")


def plain(run: Callable[[], None]) -> Callable[[], None]:
    """A recording that runs the function again."""
    run()
    return run


def trained(
    folder: Path, record: Recorder[None] | None, *, lag: int = 0, family: str = "llama", **fields: Any
) -> tuple[Run, TrainingSummary]:
    run = Run(folder, family=family, **fields)
    summary = run.go(form=StepForm(record=record, lag=lag))
    assert summary is not None
    return run, summary


def assert_alike(run: Run, other: Run) -> None:
    for name, value in other.weights.items():
        torch.testing.assert_close(run.weights[name], value, rtol=1e-3, atol=2e-5, msg=name)
    for metrics, expected in zip(run.listener.metrics, other.listener.metrics, strict=True):
        assert metrics.keys() == expected.keys()
        for name in metrics.keys() - {"tokens_per_s", "memory_bytes"}:
            assert metrics[name] == pytest.approx(expected[name], rel=1e-3), name


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"micro": 2},
        {"family": "bloom", "training": {"max_grad_norm": 0.5}},
        {"loss": {"contrastive_weight": 0.0}},
        {"loss": {"instruction_weight": 0.0, "layer": 1}},  # the blocks above get no gradient, and no decay
        {"loss": {"layer": "all", "symmetric": True, "pooling": "mean"}},
        {"training": {"precision": "bf16"}},
    ],
    ids=["both", "micro-batches", "bloom", "instructions", "pairs", "every layer", "bf16"],
)
@pytest.mark.parametrize("lag", [0, 3])
def test_replayed_steps_are_the_steps(tmp_path: Path, fields: dict[str, Any], lag: int) -> None:
    if fields.get("training", {}).get("precision") == "bf16" and lag:
        pytest.skip("rounding to bf16 has nothing to do with when numbers are read")
    eager, expected = trained(tmp_path / "eager", None, **fields)
    replayed, summary = trained(tmp_path / "replayed", plain, lag=lag, **fields)
    assert (summary.step_form, summary.notes) == ("graph", ())
    if fields.get("training", {}).get("precision") != "bf16":
        assert_alike(replayed, eager)
    for name in ("contrastive_loss", "instruction_loss"):
        assert (getattr(summary, name) or 0) == pytest.approx(getattr(expected, name) or 0, rel=0.02), name
    assert [done for _, done, _ in replayed.listener.calls] == list(range(1, NUM_STEPS + 1))


def test_dropout_is_that_of_its_step(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path / "whole", plain, family="gpt2")
    parted = Run(tmp_path / "parted", family="gpt2")
    assert parted.go(stop_after=9, form=StepForm(record=plain)) is None
    rest = parted.go(form=StepForm(record=plain))
    assert rest is not None
    assert rest.resumed_from_step == 9
    for name, value in whole.weights.items():
        assert torch.equal(parted.weights[name], value), name


def test_states_of_both_forms_are_those_of_the_other(tmp_path: Path) -> None:
    eager, _ = trained(tmp_path / "eager", None)
    for first, second in ((None, plain), (plain, None)):
        run = Run(tmp_path / str(first is None), family="llama")
        assert run.go(stop_after=9, form=StepForm(record=first, lag=2)) is None
        assert run.go(form=StepForm(record=second, lag=2)) is not None
        for name, value in eager.weights.items():
            torch.testing.assert_close(run.weights[name], value, rtol=1e-3, atol=2e-5, msg=name)


def test_few_shapes_are_recorded(tmp_path: Path) -> None:
    recorded = []

    def counting(run: Callable[[], None]) -> Callable[[], None]:
        recorded.append(run)
        return plain(run)

    trained(tmp_path, counting)
    assert len(recorded) == 3, "pairs, instructions and the update, whatever the lengths of the batches"


def test_a_recording_that_computes_something_else_is_not_used(tmp_path: Path) -> None:
    def stale(run: Callable[[], None]) -> Callable[[], None]:
        run()
        return lambda: None

    eager, _ = trained(tmp_path / "eager", None)
    run, summary = trained(tmp_path / "stale", stale)
    (note,) = summary.notes
    assert note.startswith(
        "steps are not captured from step 1 on: a pass that is replayed has a gradient norm of 0, not"
    )
    assert summary.step_form == "eager"
    assert_alike(run, eager)


def test_an_error_while_recording_leads_back_to_eager_steps(tmp_path: Path) -> None:
    def fails(run: Callable[[], None]) -> Callable[[], None]:
        if len(calls) == 1:
            raise RuntimeError("operation not permitted when stream is capturing")
        calls.append(run)
        return plain(run)

    calls: list[object] = []
    eager, _ = trained(tmp_path / "eager", None)
    run, summary = trained(tmp_path / "fails", fails)
    assert summary.notes == ("steps are not captured from step 1 on: operation not permitted when stream is capturing",)
    assert_alike(run, eager)


def test_a_step_without_one_of_the_terms_ends_the_capture(tmp_path: Path) -> None:
    class Uneven(RandomBatches):
        def batch(self, step: int, *, micro_batch_size: int | None = None) -> TrainBatch:
            batch = super().batch(step, micro_batch_size=micro_batch_size)
            return TrainBatch(None, batch.instructions, batch.num_supervised) if step == 7 else batch

    weights = []
    for record in (None, plain):
        run = Run(tmp_path / str(record is None), family="llama")
        summary = run.go(batches=Uneven(), form=StepForm(record=record))
        assert summary is not None
        weights.append(run.weights)
        assert [note[:44] for note in summary.notes] == (
            ["steps are not captured from step 7 on: a ste"[:44]] if record else []
        )
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("lag", [0, 5])
def test_a_training_that_diverges_names_its_step(tmp_path: Path, lag: int) -> None:
    class Poisoned(RandomBatches):
        def batch(self, step: int, *, micro_batch_size: int | None = None) -> TrainBatch:
            if step == 11:
                with torch.no_grad():
                    model.get_input_embeddings().weight.fill_(math.nan)
            return super().batch(step, micro_batch_size=micro_batch_size)

    model = build_model("llama")
    run = Run(tmp_path, family="llama", runtime={"checkpoint_every_s": 0.001})
    with pytest.raises(DivergedError, match="diverged at step 11"):
        run.go(model=model, batches=Poisoned(), form=StepForm(record=plain, lag=lag))
    assert not run.paths.states.exists() or not list(run.paths.states.iterdir())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"loss": {"negatives": "queue"}}, "the queue of negatives grows"),
        ({"loss": {"schedule": "alternate"}}, "steps alternate"),
        ({"runtime": {"gradient_checkpointing": True}}, "run again in the backward pass"),
        ({"runtime": {"profile_steps": 2}}, "profiled"),
        ({"runtime": {"pair_chunk_size": 2}}, "in chunks"),
        ({"training": {"optimizer_in_backward": True, "max_grad_norm": None}}, "updated in the backward pass"),
        ({"training": {"precision": "bf16_resident"}}, "the host seeds the rounding"),
    ],
    ids=lambda value: next(iter(next(iter(value.values())))) if isinstance(value, dict) else "",
)
def test_what_cannot_be_captured_is_named(fields: dict[str, Any], reason: str) -> None:
    terms = TrainingStep(build_model("llama"), LossConfig(**fields.get("loss", {})), device=CPU)
    training, runtime = make_training(**fields.get("training", {})), TrainingRuntime(**fields.get("runtime", {}))
    obstacle = refuses_capture_of(terms, training, runtime, plain)
    assert obstacle is not None
    assert reason in obstacle
    assert refuses_capture_of(terms, make_training(), TrainingRuntime(), plain) is None or "loss" in fields


def test_a_graph_that_is_asked_for_where_there_is_none_leaves_a_note(tmp_path: Path) -> None:
    run = Run(tmp_path, family="llama", runtime={"step": "graph"})
    summary = run.go()
    assert summary is not None
    assert summary.step_form == "eager"
    assert summary.notes == ("steps are not captured from step 0 on: the device is cpu, not CUDA",)


def test_a_training_that_compares_gradients_in_every_step_is_eager(tmp_path: Path) -> None:
    _, summary = trained(tmp_path, plain, training={"max_steps": 12})
    assert (summary.step_form, summary.notes) == ("eager", ())


def test_eager_is_the_rule(tmp_path: Path) -> None:
    _, summary = trained(tmp_path, None)
    assert (summary.step_form, summary.notes) == ("eager", ())


def test_a_compiler_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="a C\\+\\+ compiler, and it is not installed"):
        Run(tmp_path, family="llama", runtime={"step": "compile"}).go()


def test_long_trainings_on_a_card_compile_their_blocks() -> None:
    model, card = build_model("llama"), torch.device("cuda")
    shape = model.config.get_text_config()
    least = 60 / (1.2e-10 * shape.num_hidden_layers * shape.hidden_size)
    short, long = (judge_compiling(model, "graph", card, round(factor * least)) for factor in (0.5, 2))
    assert (short.is_on, long.is_on) == (False, True)
    assert short.because == "blocks not compiled: compiling takes up to 60 s and would save about 30 s"
    assert long.because == "blocks compiled, which saves about 120 s"
    for step in ("auto", "eager", "compile"):
        assert judge_compiling(model, step, card, 10**15) == Compiling(step == "compile")
    assert not judge_compiling(model, "graph", CPU, 10**15).is_on


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what the compiler itself imports
def test_compiled_blocks_give_the_same_training(tmp_path: Path) -> None:
    few = {"training": {"max_steps": 3}}
    eager, _ = trained(tmp_path / "eager", None, **few)
    compiled, summary = trained(tmp_path / "compiled", None, runtime={"step": "compile"}, **few)
    assert summary.step_form == "compile"
    assert_alike(compiled, eager)
