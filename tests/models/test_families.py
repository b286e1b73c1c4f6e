"""Which families are known, and that encoders and unknown architectures are refused with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import FAMILIES, build_model, build_tokenizer

from afp_ray.config.loss import LossConfig
from afp_ray.config.model import ModelConfig
from afp_ray.errors import ModelError
from afp_ray.models.describe import describe
from afp_ray.models.head import vocabulary_head
from afp_ray.models.hidden_states import decoder_blocks
from afp_ray.models.load import load_model
from afp_ray.models.packing import supports_packing
from afp_ray.training.step import TrainingStep

PROMISED = {"llama", "gemma3", "qwen2", "qwen3", "mistral", "xglm", "bloom", "gpt2", "gpt_neo"}
TIED = {"llama", "gemma2", "gemma3", "xglm", "bloom", "gpt2", "gpt_neo"}
"""Whose head is the embedding in the tiny models; a head of its own is the other way."""


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def saved(family: str, folder: Path) -> Path:
    build_model(family).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def test_every_promised_family_is_tested() -> None:
    assert FAMILIES.keys() >= PROMISED


def test_a_family_is_described_loaded_and_taken_apart(family: str, tmp_path: Path) -> None:
    config = ModelConfig(name=str(saved(family, tmp_path / "model")))
    told = describe(config)
    assert (told.num_layers, told.hidden_size, told.vocab_size) == (3, 32, 64)
    model = load_model(config).model
    assert len(decoder_blocks(model)) == 3
    assert supports_packing(model) is None
    assert vocabulary_head(model).weight is model.get_output_embeddings().weight
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert is_tied == (family in TIED)
    TrainingStep(model, LossConfig(), device=torch.device("cpu"))  # its head and its attention are known


@pytest.mark.parametrize(
    "config, said",
    [
        (transformers.BertConfig, "encoder-only"),
        (transformers.XLMRobertaConfig, "encoder-only"),
        (transformers.DebertaV2Config, "encoder-only"),
        (transformers.T5Config, "encoder-decoder"),
        (transformers.MBartConfig, "encoder-decoder"),
    ],
)
def test_what_is_no_decoder_is_refused_with_the_reason(config: Any, said: str, tmp_path: Path) -> None:
    config().save_pretrained(tmp_path)
    with pytest.raises(ModelError) as caught:
        describe(ModelConfig(name=str(tmp_path)))
    assert said in caught.value.problem
    assert config.model_type in caught.value.problem
    assert "causal" in str(caught.value.allowed)
    assert caught.value.fix


def test_an_architecture_that_is_no_causal_model_is_refused_by_name(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path)
    document = json.loads((folder / "config.json").read_text())
    document["architectures"] = ["LlamaForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match="LlamaForSequenceClassification"):
        describe(ModelConfig(name=str(folder)))


def test_an_architecture_that_transformers_does_not_know_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path)
    document = json.loads((folder / "config.json").read_text())
    document |= {"model_type": "nebula", "architectures": ["NebulaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(ModelError) as caught:
        load_model(ModelConfig(name=str(folder)))
    assert "nebula" in str(caught.value)
    assert caught.value.fix


def test_a_decoder_whose_blocks_lie_elsewhere_is_refused() -> None:
    class Elsewhere(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Linear(2, 2)
            self.config = build_model("llama").config
            self.get_decoder = lambda: self.model

    with pytest.raises(ModelError, match="no list of 3 blocks"):
        decoder_blocks(Elsewhere())  # type: ignore[arg-type]
