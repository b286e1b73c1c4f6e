"""A part of the weights is trained: the others keep every bit, and the gradients of the part are those of the whole."""

from pathlib import Path
from typing import Any

import pytest
import torch
from resume_cases import Run
from tiny_models import FAMILIES, build_model
from training_cases import RandomBatches, make_training

from afp_ray.config import TrialConfig, nest, trial_id
from afp_ray.config.loss import LossConfig
from afp_ray.config.training import LayerRange
from afp_ray.errors import ConfigError, ModelError
from afp_ray.models.hidden_states import decoder_blocks
from afp_ray.models.trainable import freeze_but, partly_trained
from afp_ray.records import Host
from afp_ray.training.captured_step import StepForm
from afp_ray.training.loop import TrainingRequest, train
from afp_ray.training.option_conflicts import check_together
from afp_ray.training.step import TrainingStep
from services import cli

CPU = torch.device("cpu")
PARTS: dict[str, Any] = {"attention": "attention", "blocks": {"layers": [2, 3]}}


def own_names(model: Any, part: Any) -> set[str]:
    """Names of the weights of a part, told without the code under test."""
    blocks = decoder_blocks(model)
    prefix = next(name for name, module in model.named_modules() if module is blocks)
    names = [name for name, _ in model.named_parameters() if name.startswith(prefix)]
    if part == "attention":
        return {name for name in names if any(word in name for word in ("attn", "attention"))}
    first, last = part["layers"]
    return {name for name in names if first - 1 <= int(name[len(prefix) + 1 :].split(".")[0]) <= last - 1}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_part_alone_is_trained(family: str, part: Any) -> None:
    model, before = build_model(family), build_model(family).state_dict()
    loss = LossConfig(layer=2)
    summary = train(model, RandomBatches(), TrainingRequest(loss, make_training(max_steps=2, trainable=part)), Host())
    own = own_names(model, part)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == own
    assert summary.trainable_parameters == sum(value.numel() for name, value in model.named_parameters() if name in own)
    assert all(value.requires_grad and value.grad is None for value in model.parameters())


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_gradients_of_the_part_are_those_of_the_whole(part: Any) -> None:
    whole, model = build_model("llama"), build_model("llama")
    batch = RandomBatches().batch(0)
    TrainingStep(whole, LossConfig(layer=3), device=CPU).backward(batch)
    with partly_trained(model, make_training(trainable=part).trainable):
        TrainingStep(model, LossConfig(layer=3), device=CPU).backward(batch)
    own = own_names(model, part)
    for name, value in model.named_parameters():
        expected = whole.get_parameter(name).grad
        assert (value.grad is None) == (name not in own)
        if value.grad is not None and expected is not None:
            torch.testing.assert_close(value.grad, expected, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_bf16_copies_change_no_bit_of_it(tmp_path: Path, part: Any) -> None:
    fields = {"training": {"precision": "bf16", "trainable": part}, "loss": {"layer": 2}}
    runs = []
    for uses_copies in (False, True):
        runs.append(Run(tmp_path / str(uses_copies), family="llama", **fields))
        runs[-1].go(form=StepForm(uses_copies=uses_copies))
    assert all(torch.equal(value, runs[1].weights[name]) for name, value in runs[0].weights.items())


@pytest.mark.parametrize(
    "where, loss, training",
    [
        ("training.trainable", {}, {"trainable": "attention", "lora": {}}),
        ("loss.layer", {"layer": 1}, {"trainable": {"layers": [2, 3]}}),
        ("loss.layer", {"layer": 0}, {"trainable": "attention"}),
    ],
)
def test_what_trains_nothing_is_refused(where: str, loss: Any, training: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        check_together(LossConfig(**loss), make_training(**training), Host().runtime)
    assert caught.value.where == where


def test_blocks_that_the_model_has_not_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match="block 9 of a model that has 3"):
        freeze_but(build_model("llama"), LayerRange(layers=(1, 9)))
    study = tmp_path / "s.yaml"
    study.write_text(
        "name: s\nfixed: {training.trainable: {layers: [1, 9]}, data.num_pairs: 40, data.num_instructions: 40}\n"
        "compare: {method: [base, afp]}\n",
        encoding="utf-8",
    )
    assert cli.main(["plan", str(study)]) == 2
    assert "training.trainable names block 9, and 'embedded' has 2" in capsys.readouterr().err


def test_ids_of_trials_that_train_everything_are_those_of_before() -> None:
    def identity(**fields: Any) -> str:
        return trial_id(TrialConfig.model_validate(nest(fields)), {})

    plain = identity()
    assert identity(**{"training.trainable": "all", "loss.negatives_from": "other"}) == plain
    others = {identity(**{"training.trainable": part}) for part in PARTS.values()}
    assert len({plain, identity(**{"loss.negatives_from": "both"}), *others}) == 4
