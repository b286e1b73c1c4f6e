"""On a card: attention by one call, and steps as CUDA graphs, against the forms that they stand for."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from resume_cases import NUM_STEPS, Run
from tiny_models import FAMILIES, build_model
from training_cases import RandomBatches

from afp_ray.data.batches import TrainBatch
from afp_ray.errors import DivergedError
from afp_ray.models.packed_attention import Samples, SamplesInBucket, ScoreForm, attend, samples_in_row
from afp_ray.models.packing import packed_last_hidden_state

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.usefixtures("exact_products"),
]
GPU = torch.device("cuda:0")
LENGTHS = (60, 9, 57, 63, 1, 1, 30)
CAPTURED = ("gpt2", "granite", "llama", "mistral", "qwen2", "qwen3", "xglm")
"""Families whose attention has a kernel that reads the bounds of samples on the device."""


@pytest.mark.parametrize("window", [None, 8])
def test_attention_by_one_call_is_that_of_each_sample(window: int | None) -> None:
    generator = torch.Generator(GPU).manual_seed(0)
    query, key, value = (
        torch.randn(1, 4, sum(LENGTHS), 64, device=GPU, generator=generator).bfloat16() for _ in range(3)
    )
    form = ScoreForm(0.125, window=window)
    samples = Samples(LENGTHS, GPU)
    with samples_in_row(samples):
        found = attend(query, key, value, form)
    with samples_in_row(SamplesInBucket(samples.starts, 64)):
        assert torch.equal(attend(query, key, value, form), found)
    with samples_in_row(Samples(LENGTHS, torch.device("cpu"))):
        expected = attend(query.cpu().float(), key.cpu().float(), value.cpu().float(), form)
    torch.testing.assert_close(found.float().cpu(), expected, rtol=2e-2, atol=2e-2)


def test_dropout_drops_attention_weights_and_keeps_their_mean() -> None:
    query = torch.zeros(1, 4, 64, 64, device=GPU, dtype=torch.bfloat16)
    value = torch.ones(1, 4, 64, 64, device=GPU, dtype=torch.bfloat16)
    with samples_in_row(Samples((40, 24), GPU)):
        dropped = torch.stack([attend(query, query, value, ScoreForm(0.125), dropout=0.5) for _ in range(50)])
    assert not torch.equal(dropped[0], dropped[1])
    assert float(dropped.float().mean()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_under_autocast_are_those_of_a_cpu(family: str) -> None:
    ids = torch.randint(4, 60, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    states = {}
    for device in ("cpu", "cuda"):
        model = build_model(family).to(device).eval()
        with torch.autocast(device, dtype=torch.bfloat16), torch.no_grad():
            row = packed_last_hidden_state(model, ids.to(device), positions.to(device), torch.tensor(LENGTHS))
        states[device] = row.float().cpu()
    difference = (states["cuda"] - states["cpu"]).norm() / states["cpu"].norm()
    assert float(difference) < 0.02


def trained(folder: Path, step: str, *, family: str = "llama", **fields: Any) -> Run:
    run = Run(
        folder, family=family, training={"precision": "bf16", **fields.pop("training", {})}, runtime={"step": step}
    )
    summary = run.go(model=build_model(family).to(GPU), **fields)
    assert summary is not None
    assert (summary.step_form, summary.notes) == (step, ()), "the form that was asked for ran"
    assert [done for _, done, _ in run.listener.calls] == list(range(1, NUM_STEPS + 1))
    return run


@pytest.mark.parametrize("family", CAPTURED)
def test_captured_steps_train_as_eager_ones(tmp_path: Path, family: str) -> None:
    eager, captured = (trained(tmp_path / step, step, family=family) for step in ("eager", "graph"))
    if family in ("gpt2", "xglm"):  # their dropout draws by the shape of a row
        return
    for metrics, expected in zip(captured.listener.metrics, eager.listener.metrics, strict=True):
        assert metrics["instruction_loss"] == pytest.approx(expected["instruction_loss"], rel=0.02)
        assert metrics["contrastive_loss"] == pytest.approx(expected["contrastive_loss"], rel=0.05)


def test_captured_steps_with_dropout_repeat(tmp_path: Path) -> None:
    first, second = (trained(tmp_path / name, "graph", family="xglm") for name in ("first", "second"))
    for metrics, expected in zip(first.listener.metrics, second.listener.metrics, strict=True):
        assert metrics["instruction_loss"] == pytest.approx(expected["instruction_loss"], rel=1e-3)
    losses = [metrics["instruction_loss"] for metrics in first.listener.metrics]
    assert len(set(losses)) == len(losses)


def test_a_captured_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", "graph")
    parted = Run(tmp_path / "parted", family="llama", training={"precision": "bf16"}, runtime={"step": "graph"})
    assert parted.go(stop_after=9, model=build_model("llama").to(GPU)) is None
    assert parted.go(model=build_model("llama").to(GPU)) is not None
    for name, value in whole.weights.items():
        torch.testing.assert_close(parted.weights[name], value, rtol=2e-2, atol=2e-3, msg=name)


def test_compiled_and_captured_steps_train_as_eager_ones(tmp_path: Path) -> None:
    eager, compiled = (trained(tmp_path / step, step) for step in ("eager", "compile"))
    for metrics, expected in zip(compiled.listener.metrics, eager.listener.metrics, strict=True):
        assert metrics["instruction_loss"] == pytest.approx(expected["instruction_loss"], rel=0.02)


@pytest.mark.parametrize("family", ["bloom", "gemma2"])
def test_families_without_such_a_kernel_run_eagerly_and_say_why(tmp_path: Path, family: str) -> None:
    run = Run(tmp_path, family=family, training={"precision": "bf16"}, runtime={"step": "graph"})
    summary = run.go(model=build_model(family).to(GPU))
    assert summary is not None
    assert summary.step_form == "eager"
    (note,) = summary.notes
    assert "ALiBi" in note or "capped" in note


def test_a_captured_training_that_diverges_names_its_step(tmp_path: Path) -> None:
    class Poisoned(RandomBatches):
        def batch(self, step: int, *, micro_batch_size: int | None = None) -> TrainBatch:
            if step == 11:
                with torch.no_grad():
                    model.get_input_embeddings().weight.fill_(math.nan)
            return super().batch(step, micro_batch_size=micro_batch_size)

    model = build_model("llama").to(GPU)
    run = Run(tmp_path, family="llama", training={"precision": "bf16"}, runtime={"step": "graph"})
    with pytest.raises(DivergedError, match="diverged at step 11"):
        run.go(model=model, batches=Poisoned())
