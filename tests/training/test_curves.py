"""What is seen of a training: every step's numbers, a curve that stays small, a trace that a browser opens."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from resume_cases import NUM_STEPS, Run, numbers
from tiny_models import build_model
from training_cases import RandomBatches, gradients

from afp_ray.config.loss import LossConfig
from afp_ray.data.batches import TrainBatch
from afp_ray.errors import DivergedError
from afp_ray.reporter import Pace
from afp_ray.training.curves import Curve, Record, StepTrace
from afp_ray.training.step import StepLosses, TrainingStep

CPU = torch.device("cpu")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_step_tells_losses_norm_rate_speed_and_memory(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go()
    always = {
        "contrastive_loss",
        "instruction_loss",
        "gradient_norm",
        "learning_rate",
        "tokens_per_s",
        "memory_bytes",
    }
    compared = {"gradient_cosine", "gradient_ratio"}
    for step, row in enumerate(run.listener.metrics):
        assert row.keys() == (always | compared if step % 2 == 0 else always)
        assert all(math.isfinite(value) for value in row.values())
        assert row["memory_bytes"] > 10**7


def test_cosine_and_ratio_are_those_of_the_gradients_of_each_term_alone() -> None:
    loss, batch = LossConfig(layer=2, instruction_weight=3.0, contrastive_weight=0.5), RandomBatches().batch(1)
    parts = [gradients(batch, loss.model_copy(update={f"{off}_weight": 0.0})) for off in ("instruction", "contrastive")]
    names = sorted({name for part in parts for name in part})
    zeros = {name: torch.zeros_like(value) for name, value in build_model("llama").named_parameters()}
    contrastive, instruction = (
        torch.cat([part.get(name, zeros[name]).flatten() for name in names]).double() for part in parts
    )
    losses = TrainingStep(build_model("llama"), loss, device=CPU).backward(batch, measure_cosine=True)
    assert losses.gradient_ratio == pytest.approx(float(instruction.norm() / contrastive.norm()), rel=1e-4)
    cosine = float(contrastive @ instruction / (contrastive.norm() * instruction.norm()))
    assert losses.gradient_cosine == pytest.approx(cosine, abs=1e-5)


def test_without_one_of_the_terms_nothing_is_compared() -> None:
    loss = LossConfig(instruction_weight=0.0)
    losses = TrainingStep(build_model("llama"), loss, device=CPU).backward(
        RandomBatches().batch(1), measure_cosine=True
    )
    assert (losses.gradient_cosine, losses.gradient_ratio) == (None, None)


def test_the_curve_holds_what_was_reported(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(stop_after=7)
    run.go()
    rows = lines(run.paths.curve)
    assert [row.pop("step") for row in rows] == list(range(1, NUM_STEPS + 1))
    assert rows == run.listener.metrics


def test_steps_that_are_done_again_are_in_the_curve_once(tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    curve = Curve(path, 4, start=2)
    assert lines(path) == [{"step": 1}, {"step": 2}]
    curve.add(2, {"loss": 1.0})
    curve.close()
    assert lines(path)[2:] == [{"step": 3, "loss": 1.0}]
    Curve(path, 4)
    assert path.read_text() == "", "a training that begins again has a curve of its own"


@pytest.mark.parametrize("max_steps", [1, 1900, 1901, 100_000])
def test_a_long_curve_is_thinned_out(max_steps: int, tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    curve = Curve(path, max_steps)
    for step in range(max_steps):
        compared = {"gradient_cosine": 0.5} if step % max(1, max_steps // 10) == 0 else {}
        curve.add(step, {"loss": 1.0, **compared})
    curve.close()
    steps = [row["step"] for row in lines(path)]
    assert min(max_steps, 900) <= len(steps) <= 2000
    assert (steps[0], steps[-1]) == (1, max_steps)
    assert steps == sorted(set(steps))
    measured = -(-max_steps // max(1, max_steps // 10))
    assert sum("gradient_cosine" in row for row in lines(path)) == measured


def test_a_curve_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "training.jsonl").mkdir()
    run = Run(tmp_path)
    assert run.go() is not None
    assert sum("curve of training ends here" in message for message in caplog.messages) == 1


def test_the_trace_is_one_that_chrome_opens(tmp_path: Path) -> None:
    run, plain = Run(tmp_path / "traced", runtime={"profile_steps": 2}), Run(tmp_path / "plain")
    run.go()
    plain.go()
    events = json.loads(gzip.decompress(run.paths.trace.read_bytes()))["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert names.count("Optimizer.step#AdamW.step") == 2, "of two steps and no more"
    assert any("attention" in name for name in names)
    assert numbers(run.listener) == numbers(plain.listener)
    assert not plain.paths.trace.exists()


def test_a_short_training_is_traced_as_far_as_it_goes(tmp_path: Path) -> None:
    run = Run(tmp_path, training={"max_steps": 2}, runtime={"profile_steps": 10})
    run.go()
    assert json.loads(gzip.decompress(run.paths.trace.read_bytes()))["traceEvents"]


def test_an_error_in_a_traced_step_leaves_no_profiler_behind(tmp_path: Path) -> None:
    class Broken(RandomBatches):
        def batch(self, step: int, *, micro_batch_size: int | None = None) -> TrainBatch:
            if step == 3:
                raise RuntimeError("no rows")
            return super().batch(step, micro_batch_size=micro_batch_size)

    run = Run(tmp_path, runtime={"profile_steps": 5})
    with pytest.raises(RuntimeError, match="no rows"):
        run.go(batches=Broken())
    trace = StepTrace(tmp_path / "other.json.gz", num_steps=1, start=0, max_steps=1, device=CPU)
    trace.before(0)
    trace.after(0)
    assert (tmp_path / "other.json.gz").exists()


@pytest.mark.parametrize("name", ["contrastive", "instruction", "gradient_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_ends_the_training(name: str, value: float) -> None:
    values = {"contrastive": 1.0, "instruction": 2.0, "gradient_norm": 3.0, name: value}
    tensors = {key: torch.tensor(number) for key, number in values.items()}
    losses = StepLosses(tensors["contrastive"], tensors["instruction"], None)
    record = Record(20, CPU, period=1)
    record.add(4, losses, tensors["gradient_norm"], 5)
    with pytest.raises(DivergedError, match=f"diverged at step 4: {name}.* is {value}"):
        list(record.completed())


def test_numbers_of_late_steps_are_left_for_a_later_call() -> None:
    record = Record(20, CPU, period=1)
    for step, loss in enumerate((1.0, 2.0, math.nan, 4.0)):
        record.add(step, StepLosses(torch.tensor(loss), None, None), torch.tensor(0.5), 5, learning_rate=0.1)
    completed = list(record.completed(lag=2))
    assert [(one.step, one.metrics["contrastive_loss"]) for one in completed] == [(0, 1.0), (1, 2.0)]
    assert completed[0].metrics["learning_rate"] == 0.1
    assert list(record.completed(lag=2)) == []
    with pytest.raises(DivergedError, match="diverged at step 2: contrastive_loss is nan"):
        list(record.completed())


def test_wishes_come_back_and_tokens_are_summed() -> None:
    record = Record(2, CPU, period=1)
    losses = StepLosses(torch.tensor(1.0), None, None)
    record.add(0, losses, torch.tensor(0.5), 5, wishes=(False, True))
    (completed,) = record.completed()
    metrics, wishes = completed.metrics, completed.wishes
    assert wishes == [False, True]
    assert (metrics["contrastive_loss"], metrics["gradient_norm"]) == (1.0, 0.5)
    assert "instruction_loss" not in metrics
    record.add(1, losses, torch.tensor(0.5), 6)
    list(record.completed())
    assert record.summary(1.0, steps=2).tokens == 11


def test_what_is_left_follows_the_pace_of_the_stage() -> None:
    clock = [0.0]
    pace = Pace(lambda: clock[0])
    assert pace.left_s("load", 0, 1) is None
    clock[0] = 100.0
    assert pace.left_s("train", 10, 100) is None, "steps that another attempt did say nothing of the pace"
    clock[0] = 120.0
    assert pace.left_s("train", 20, 100) == 160.0
    clock[0] = 130.0
    assert pace.left_s("train", 100, 100) == 0.0
    assert pace.left_s("evaluate", 1, 2) is None
