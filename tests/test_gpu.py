"""What a GPU must give: the states, choices and weights of a CPU, in the memory there is, shared by trials."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import FAMILIES, build_model, build_tokenizer
from training_cases import RandomBatches, make_training

from afp_ray.config import TrainingRuntime, TrialConfig, nest
from afp_ray.config.loss import LossConfig
from afp_ray.data.batches import InstructionBatch, PairBatch, TrainBatch
from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.methods import pins
from afp_ray.models.packing import packed_last_hidden_state
from afp_ray.planning.memory import memory_model, trials_per_card
from afp_ray.records import Host, TrialRequest, TrialResult
from afp_ray.training.loop import TrainingRequest, train
from afp_ray.training.optimizer import BackwardOptimizer, backward_with_updates, make_optimizer
from afp_ray.training.step import TrainingStep
from afp_ray.trial.run import run_trial
from services import cli

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.usefixtures("exact_products"),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
LENGTHS = (60, 9, 57, 63, 1, 1, 30)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_row_has_the_states_and_gradients_of_a_cpu(family: str) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 60, (1, sum(LENGTHS)), generator=generator)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    found = {}
    for device in (CPU, GPU):
        model = build_model(family).to(device)
        states = packed_last_hidden_state(model, ids.to(device), positions.to(device), torch.tensor(LENGTHS))
        (states * torch.linspace(-1, 1, states.numel(), device=device).view_as(states)).sum().backward()
        gradients = {name: value.grad.cpu() for name, value in model.named_parameters() if value.grad is not None}
        found[device] = {"states": states.detach().cpu(), **gradients}
    assert found[GPU].keys() == found[CPU].keys()
    for name, expected in found[CPU].items():
        scale = float(expected.abs().max().clamp(min=1))
        torch.testing.assert_close(found[GPU][name], expected, rtol=1e-4, atol=2e-5 * scale, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_choices_are_those_of_a_cpu(family: str) -> None:
    words = [f"w{number}" for number in range(58)]
    questions = [
        [(" ".join(words[at : at + 9]), " " + " ".join(words[(at * 7 + choice) % 50 :][:3])) for choice in range(3)]
        for at in range(20)
    ]
    tokenizer = build_tokenizer()
    on_cpu, on_gpu = (
        ContinuationScorer(build_model(family).to(device), tokenizer).score(questions) for device in (CPU, GPU)
    )
    for expected, values in zip(on_cpu, on_gpu, strict=True):
        assert values == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(
    "fields",
    [{}, {"optimizer_in_backward": True, "max_grad_norm": None}],
    ids=["at the end", "in the backward pass"],
)
def test_steps_give_the_weights_of_a_cpu(fields: dict[str, Any]) -> None:
    found = {}
    for device in (CPU, GPU):
        model = build_model("llama").to(device).train()
        training = make_training(**fields)
        optimizer = make_optimizer(model, training, device)
        step_of = TrainingStep(model, LossConfig(), device=device)
        for step in range(3):
            optimizer.zero_grad()
            batch = RandomBatches().batch(step)
            if isinstance(optimizer, BackwardOptimizer):
                backward_with_updates(step_of, batch, optimizer)
            else:
                step_of.backward(batch)
            optimizer.step()
        found[device] = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    for name, expected in found[CPU].items():
        torch.testing.assert_close(found[GPU][name], expected, rtol=1e-3, atol=2e-4, msg=name)


def _train(folder: Path) -> TrialResult:
    fields = {
        "method": "afp",
        "data.languages": ["zh", "tr"],
        "data.num_pairs": 400,
        "data.num_instructions": 400,
        "training.max_steps": 3,
        "training.batch_size": 256,
        "training.max_length": 96,
        "evaluation.tasks": ["xcopa"],
        "evaluation.limit": 12,
        "evaluation.representation.num_pairs": 20,
    }
    config = TrialConfig.model_validate(nest({**fields, **pins("afp")}))
    request = TrialRequest(config=config, trial_id="t", splits=("validation",))
    result = run_trial(request, folder, Host(device="cuda", num_threads=1))
    assert result is not None
    return result


def test_a_trial_too_large_for_the_gpu_is_done_in_halves(tmp_path: Path) -> None:
    whole = _train(tmp_path / "whole")
    assert whole.training.num_halvings == 0
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction(0.6 * whole.training.peak_memory_bytes / total, GPU)
    try:
        halved = _train(tmp_path / "halved")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    assert halved.training.num_halvings >= 1
    assert halved.training.peak_memory_bytes < 0.7 * whole.training.peak_memory_bytes
    assert halved.training.instruction_loss == pytest.approx(whole.training.instruction_loss, abs=1e-3)
    assert halved.training.contrastive_loss == pytest.approx(whole.training.contrastive_loss, abs=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_resident"])
@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
def test_a_step_takes_the_memory_that_is_computed(precision: str, again: bool) -> None:
    """Rows of the longest length there can be, every token supervised: at most a fifth below what is computed."""
    shape = transformers.LlamaConfig(
        vocab_size=32_000, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8
    )
    number, length = 8, 256
    fields = {"training.precision": precision, "training.batch_size": number, "training.max_length": length}
    config = TrialConfig.model_validate(nest({**fields, "loss.layer": 2}))
    computed = memory_model(config, TrainingRuntime(gradient_checkpointing=again), shape=shape)
    sentences = (torch.randint(4, 32_000, (number, length)), torch.ones(number, length, dtype=torch.long))
    texts = InstructionBatch(*sentences, sentences[0])
    batch = TrainBatch(PairBatch(*sentences, *sentences), (texts,), number * (length - 1))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(GPU)
    with torch.device(GPU):
        model = transformers.AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    request = TrainingRequest(config.loss, config.training.model_copy(update={"max_steps": 3}))
    host = Host(device="cuda:0", runtime=computed.runtime)
    measured = train(model, _Same(batch), request, host).peak_memory_bytes - before
    assert 0.8 * computed.peak(computed.whole) <= measured <= computed.peak(computed.whole)


class _Same:
    """One batch in every step."""

    def __init__(self, batch: TrainBatch) -> None:
        self._batch = batch

    def batch(self, step: int, *, micro_batch_size: int | None = None) -> TrainBatch:
        return self._batch


def test_a_probe_tells_memory_and_what_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = _study(tmp_path, gpus_per_worker=1)
    assert cli.main(["plan", str(study), "--probe", "--storage", str(tmp_path / "runs"), "--json"]) == 0
    told = {"/".join(row["arms"]): row for row in json.loads(capsys.readouterr().out)["memory"]}
    assert set(told) == {"base", "afp"}
    trained = told["afp"]
    assert 0 < trained["measured_bytes"] <= trained["computed_bytes"] < trained["card_bytes"]
    assert trained["fits"] and trained["micro_batch_size"] == 4
    assert told["base"]["computed_bytes"] is None
    assert trained["trials_per_card"] == trials_per_card(trained["reserved_bytes"], trained["card_bytes"]) > 1


@pytest.mark.ray
@pytest.mark.parametrize("step", ["eager", "graph"])
def test_trials_of_a_study_share_a_gpu_and_say_how_their_steps_ran(tmp_path: Path, step: str) -> None:
    pytest.importorskip("ray")
    study = _study(tmp_path, gpus_per_worker=0.5, step=step)
    command = [sys.executable, "-m", "services.cli", "run", str(study), "--storage", str(tmp_path / "runs"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    results = [json.loads(file.read_text()) for file in (tmp_path / "runs").rglob("result.json")]
    assert len(results) >= 4
    assert all(result["environment"]["device"].startswith("cuda") for result in results)
    trained = [result["training"] for result in results if result["training"]["steps"]]
    assert len(trained) == 3
    assert [(summary["step_form"], summary["notes"]) for summary in trained] == [(step, [])] * 3


def _study(folder: Path, **runtime: Any) -> Path:
    """A study of two arms and three seeds on the embedded corpus, each trial some seconds long."""
    file = folder / "shared.yaml"
    file.write_text(
        "name: shared\nfixed: {data.num_pairs: 200, data.num_instructions: 60, training.max_steps: 40, "
        "training.batch_size: 4, training.precision: bf16, evaluation.tasks: [xcopa], evaluation.limit: 12, "
        "evaluation.representation.num_pairs: 20}\n"
        f"compare: {{method: [base, afp]}}\nseeds: [0, 1, 2]\nruntime: {json.dumps(runtime)}\n"
    )
    return file
