"""The memory that a trial takes is told before: closed forms, what was measured on a card, and what fits one."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import FAMILIES, build_model
from training_cases import RandomBatches, make_training

from afp_ray import losses
from afp_ray.config import RuntimeConfig, TrainingRuntime, TrialConfig, nest
from afp_ray.config.loss import LossConfig
from afp_ray.planning import memory
from afp_ray.planning.costs import Measured
from afp_ray.planning.memory import (
    MemoryModel,
    PassSizes,
    bytes_per_weight,
    memory_model,
    planned_memory,
    trials_per_card,
    usable_bytes,
)
from afp_ray.training.bf16_adamw import resident
from afp_ray.training.optimizer import make_optimizer
from afp_ray.training.step import TrainingStep
from afp_ray.training.step_inputs import BUCKETS
from services import cli

XGLM_564M = {"vocab_size": 256_008, "d_model": 1024, "num_layers": 24, "attention_heads": 16, "ffn_dim": 4096}
GB = 10**9


def make_model(
    fields: dict[str, Any] | None = None, *, shape: Any = None, num_workers: int = 1, **runtime: Any
) -> MemoryModel:
    config = TrialConfig.model_validate(nest({"training.max_length": 64, **(fields or {})}))
    return memory_model(config, TrainingRuntime(**runtime), num_workers=num_workers, shape=shape or FAMILIES["llama"]())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"precision": "bf16"},
        {"precision": "bf16_resident"},
        {"precision": "bf16_resident", "rounding": "compensated"},
    ],
    ids=["fp32", "bf16", "stochastic", "compensated"],
)
def test_a_weight_takes_what_the_optimizer_gives_it(fields: dict[str, Any]) -> None:
    training, model = make_training(**fields), build_model("llama").train()
    with torch.random.fork_rng():
        context = resident(model) if training.precision == "bf16_resident" else torch.no_grad()
        with context, torch.enable_grad():
            optimizer = make_optimizer(model, training, torch.device("cpu"))
            is_bf16 = training.precision == "bf16"
            TrainingStep(model, LossConfig(), device=torch.device("cpu"), is_bf16=is_bf16).backward(
                RandomBatches().batch(0)
            )
            gradients = sum(value.grad.nbytes for value in model.parameters() if value.grad is not None)
            optimizer.step()
            weights = sum(value.nbytes for value in model.parameters())
            states = [state for group in optimizer.state_dict()["state"].values() for state in group.values()]
            moments = sum(state.nbytes for state in states if isinstance(state, torch.Tensor) and state.ndim)
    number = sum(value.numel() for value in model.parameters())
    each = bytes_per_weight(training)
    assert (weights, gradients) == (number * each.weight, number * each.gradient)
    # What has one element (a step's number) is no moment.
    assert moments == pytest.approx(number * each.moments, rel=1e-3)


@pytest.mark.parametrize(
    "precision, blocks, measured",
    [("bf16", 4, 14.1), ("bf16", 16, 20.5), ("bf16_resident", 4, 8.1), ("bf16_resident", 16, 13.3)],
)
def test_what_was_measured_on_a_card_stays_below_and_near(precision: str, blocks: int, measured: float) -> None:
    """GB on an H100, 2026-11-23 (docs/experiments.md): blocks of 512 tokens and as many pairs, without comparison."""
    fields = {
        "training.precision": precision,
        "training.batch_size": blocks,
        "training.max_length": 512,
        "loss.schedule": "alternate",  # as there, gradients of the two terms are not compared
    }
    model = make_model(fields, shape=transformers.XGLMConfig(**XGLM_564M))
    assert measured <= model.peak(model.whole) / GB <= 1.2 * measured


def test_chunks_of_logits_are_those_of_the_loss() -> None:
    assert losses._CHUNK_ELEMENTS["cuda"] == memory._CHUNK_ELEMENTS


def test_a_captured_pass_takes_its_whole_bucket() -> None:
    assert {name: getattr(BUCKETS, name) for name in memory._BUCKETS} == memory._BUCKETS
    fields = {"training.max_length": 128, "loss.schedule": "alternate"}
    eager, captured = make_model(fields), make_model(fields, step="graph")
    assert captured.of_instructions(3) == captured.of_instructions(4) > eager.of_instructions(3)
    assert captured._saved(captured.footprint.whole, 4, bucket="tokens") == eager._saved(
        eager.footprint.whole, 4, bucket="tokens"
    )
    assert captured.of_pairs(2) == eager.of_pairs(2)  # 512 tokens, a multiple of 128


def test_the_largest_passes_are_the_last_that_fit() -> None:
    model = make_model({"training.batch_size": 64, "training.pair_batch_size": 512})
    assert model.largest(model.peak(model.whole)) == model.whole == PassSizes(64, 512)
    for share in (0.3, 0.6, 0.9):
        limit = model.peak(PassSizes(1, 1)) + int(share * (model.peak(model.whole) - model.peak(PassSizes(1, 1))))
        found = model.largest(limit)
        assert found is not None
        assert model.peak(found) <= limit
        if found.instructions < 64:
            assert model.peak(replace(found, instructions=found.instructions + 1)) > limit
        if found.pairs < 512:
            assert model.peak(replace(found, pairs=found.pairs + 1)) > limit
    assert model.largest(model.standing) is None


def test_a_term_that_is_off_takes_no_pass() -> None:
    assert make_model({"loss.contrastive_weight": 0}).whole == PassSizes(16, 0)
    alone = make_model({"loss.instruction_weight": 0, "training.pair_batch_size": 8})
    assert alone.whole == PassSizes(0, 8)
    assert alone.largest(10**12) == alone.whole


def test_workers_share_the_batch_and_with_sharding_the_weights() -> None:
    fields = {"training.batch_size": 16, "training.pair_batch_size": 32}
    one, four = make_model(fields), make_model(fields, num_workers=4)
    assert four.whole == PassSizes(4, 8)
    assert four.standing == one.standing
    sharded = make_model(fields, num_workers=4, sharding="full")
    gathered = 64 * 32 + 2 * (one.footprint.num_weights - 64 * 32) // 3
    assert sharded.standing == one.standing // 4 + 4 * gathered
    assert sharded.gradients(sharded.whole) == one.gradients(one.whole) // 4


def test_recomputed_blocks_leave_their_inputs_and_one_block() -> None:
    plain, again = make_model(), make_model(gradient_checkpointing=True)
    shape = plain.footprint
    outside = shape.whole.sample - 3 * shape.block.sample
    assert plain._saved(shape.whole, 5, bucket="tokens") == 5 * (shape.whole.sample + shape.block.sample)
    assert again._saved(shape.whole, 5, bucket="tokens") == 5 * (outside + 3 * shape.state + 2 * shape.block.sample)
    assert again.of_instructions(5) < plain.of_instructions(5)


def test_updates_in_the_backward_pass_free_gradients_where_a_step_is_one_pass() -> None:
    fields = {"training.optimizer_in_backward": True, "training.max_grad_norm": None}
    model = make_model(fields)
    shape = model.footprint
    assert model.gradients(model.whole) == 4 * min(shape.num_trained, shape.num_lower + shape.largest_weight)
    assert model.gradients(PassSizes(1, model.whole.pairs)) == 4 * shape.num_trained


def test_a_queue_brings_a_slow_copy_and_its_rows() -> None:
    fields = {"loss.negatives": "queue", "loss.queue_size": 100}
    model, plain = make_model(fields), make_model()
    assert model.standing - plain.standing == 4 * (model.footprint.num_lower + 100 * 32)


def test_a_probe_makes_passes_larger_and_never_smaller() -> None:
    model = make_model()
    peak = model.peak(model.whole)
    assert model.calibrated(peak // 2, model.whole).scale == 1.0
    more = model.calibrated(2 * peak, model.whole)
    assert more.peak(model.whole) == pytest.approx(2 * peak, rel=1e-6)


def test_trials_of_a_card_and_what_one_alone_may_take() -> None:
    assert trials_per_card(1 * GB, 80 * GB) == 42  # 75.2 GB by 1.75
    assert trials_per_card(80 * GB, 80 * GB) == 0
    assert usable_bytes(24 * GB) == 21_810_000_000


def test_a_plan_tells_peak_largest_passes_and_trials_of_a_card() -> None:
    config = make_model({"model.name": "embedded", "training.batch_size": 64}).config
    probed = Measured(config, step_s=0.1, rest_s=1.0, num_scorings=1, peak_bytes=10**8, reserved_bytes=2 * 10**8)
    told = planned_memory(probed, RuntimeConfig(gpus_per_worker=1), arms=["afp"], card="a card", card_bytes=8 * GB)
    assert (told.fits, told.micro_batch_size, told.trials_per_card) == (True, 64, 7)
    assert told.computed_bytes is not None
    small = told.computed_bytes + 700_000_000
    tight = planned_memory(probed, RuntimeConfig(gpus_per_worker=1), arms=["afp"], card="a card", card_bytes=small)
    assert not tight.fits
    assert tight.micro_batch_size is not None
    assert 0 < tight.micro_batch_size < 64
    alone = config.training.model_copy(update={"max_steps": 0})
    untrained = replace(probed, config=config.model_copy(update={"training": alone}), step_s=None, peak_bytes=None)
    told = planned_memory(untrained, RuntimeConfig(gpus_per_worker=1), arms=["base"], card="a card", card_bytes=8 * GB)
    assert (told.computed_bytes, told.micro_batch_size, told.fits, told.trials_per_card) == (None, None, True, 7)


def test_afp_plan_prints_what_a_probe_found_of_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def probed(configs: Sequence[TrialConfig], **options: Any) -> list[Measured]:
        assert options["on_gpu"] and options["runtime"].micro_batch_size == 2
        found = {config.training.max_steps > 0: config for config in configs}
        return [
            Measured(config, 0.05 if is_trained else None, 1.0, 1, 10**8 if is_trained else None, 3 * 10**8)
            for is_trained, config in found.items()
        ]

    monkeypatch.setattr("afp_ray.planning.plan.probe_trials", probed)
    monkeypatch.setattr("afp_ray.planning.plan.gpu_here", lambda: ("a card", 8 * GB))
    study = tmp_path / "study.yaml"
    study.write_text(
        "name: mine\nfixed: {data.languages: [zh], data.num_pairs: 20, data.num_instructions: 20, evaluation.tasks: "
        "[xnli], evaluation.limit: 4, evaluation.representation: null, training.batch_size: 8}\n"
        "compare: {method: [base, mcl, afp]}\nseeds: [0]\nruntime: {gpus_per_worker: 1, micro_batch_size: 2}\n"
    )
    arguments = ["plan", str(study), "--probe", "--storage", str(tmp_path / "runs")]
    assert cli.main([*arguments, "--json"]) == 0
    by_arms = {tuple(row["arms"]): row for row in json.loads(capsys.readouterr().out)["memory"]}
    assert set(by_arms) == {("base",), ("afp",)}  # the probe stood for one kind of training alone
    assert by_arms["afp",]["micro_batch_size"] == 8
    assert by_arms["base",]["computed_bytes"] is None
    assert {row["trials_per_card"] for row in by_arms.values()} == {7}
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    for text in (
        "memory afp: 300 MB held by one trial of the probe, of a card of 8 GB (a card)",
        "if every text has training.max_length; that fits",
        "largest passes that fit then: runtime.micro_batch_size 8, runtime.pair_chunk_size 8",
        "7 trials fit a card at a time (runtime.gpus_per_worker: 0.14)",
        "a step of one trial alone takes 0.05 s; whether several are faster together was not measured",
    ):
        assert text in shown
