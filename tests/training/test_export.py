"""Every family is trained on packed rows and leaves a checkpoint that stock transformers loads and generates from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny_models import FAMILIES, WORDS, build_model, build_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from training_cases import Listener, make_training
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from afp_ray.config.loss import LossConfig
from afp_ray.config.training import LoraConfig
from afp_ray.data.batches import Batching, TrainingBatches
from afp_ray.data.packing import PackedBatch
from afp_ray.data.rows import Instruction, TranslationPair
from afp_ray.models.packing import FAMILIES as PACKED
from afp_ray.models.packing import supports_packing
from afp_ray.records import Host
from afp_ray.training.checkpoint import save_checkpoint, verify_checkpoint
from afp_ray.training.loop import TrainingRequest, train

PROMPT = "w1 w2 w3"
RESPONSE = "w4 w5"
IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])


def tokenizer_without_specials() -> Any:
    """As BLOOM's: ends and padding have ids, and no text gets any of them."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def batches(tokenizer: Any) -> TrainingBatches:
    pairs = [
        TranslationPair(f"w{number} w{number + 1}", f"w{number + 20} w{number + 2} w7", "en", "zh", str(number))
        for number in range(4)
    ]
    instructions = [
        Instruction(" ".join(WORDS[number : number + 3 + number]), f"w{number + 30} w{number}", "en", "zh", str(number))
        for number in range(4)
    ]
    return TrainingBatches(
        pairs, instructions, tokenizer, Batching(batch_size=4, max_length=16, seed=0, layout="packed")
    )


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=IDS).logits
    return logits


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)], ids=["whole", "lora"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_trains_packed_and_exports_a_stock_checkpoint(
    family: str, lora: LoraConfig | None, tmp_path: Path
) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    before = logits(model)
    assert supports_packing(model) is None
    rows = batches(tokenizer)
    assert isinstance(rows.batch(0).pairs, PackedBatch)
    listener = Listener()
    summary = train(
        model,
        rows,
        TrainingRequest(
            LossConfig(symmetric=True, pooling="mean"),
            make_training(max_steps=2, learning_rate=1e-2, warmup_ratio=0, lora=lora),
        ),
        Host(reporter=listener),
    )
    assert summary.steps == 2
    assert all({"contrastive_loss", "instruction_loss"} <= row.keys() for row in listener.metrics)
    trained = logits(model)
    assert float((trained - before).abs().max()) > 1e-3, "training moved nothing"
    folder = tmp_path / "checkpoint"
    save_checkpoint(model, tokenizer, folder)
    verify_checkpoint(folder)
    assert not list(folder.glob("adapter*"))
    stock, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(logits(stock), trained, rtol=1e-5, atol=1e-5)
    assert type(stock) is type(build_model(family))
    generates_as_its_logits_say(stock)


def generates_as_its_logits_say(model: Any) -> None:
    prompt = IDS[:1, :3]
    generated = model.generate(prompt, max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=2)
    assert torch.equal(generated[:, : prompt.shape[1]], prompt)
    with torch.no_grad():
        expected = model(input_ids=generated[:, :-1]).logits[0, prompt.shape[1] - 1 :].argmax(dim=-1)
    assert torch.equal(generated[0, prompt.shape[1] :], expected)


@pytest.mark.parametrize("family", ["llama", "gemma3", "bloom", "xglm", "gpt2", "gpt_neo"])
def test_a_tied_head_stays_tied_and_is_stored_once(family: str, tmp_path: Path) -> None:
    model = build_model(family)
    train(
        model,
        batches(build_tokenizer()),
        TrainingRequest(LossConfig(), make_training(max_steps=2)),
        Host(reporter=Listener()),
    )
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    save_checkpoint(model, build_tokenizer(), tmp_path / "checkpoint")
    with safe_open(tmp_path / "checkpoint" / "model.safetensors", "pt") as file:
        stored = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    assert sum(torch.equal(tensor, model.get_input_embeddings().weight) for tensor in stored) == 1
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    assert stock.get_output_embeddings().weight is stock.get_input_embeddings().weight


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_a_head_of_its_own_is_trained_and_stored_beside_the_embedding(family: str, tmp_path: Path) -> None:
    model = build_model(family)
    before = [model.get_output_embeddings().weight.clone(), model.get_input_embeddings().weight.clone()]
    train(
        model,
        batches(build_tokenizer()),
        TrainingRequest(LossConfig(), make_training(max_steps=2)),
        Host(reporter=Listener()),
    )
    after = [model.get_output_embeddings().weight, model.get_input_embeddings().weight]
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    save_checkpoint(model, build_tokenizer(), tmp_path / "checkpoint")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    assert torch.equal(stock.get_output_embeddings().weight, after[0])
    assert torch.equal(stock.get_input_embeddings().weight, after[1])


@pytest.mark.parametrize("family", ["bloom", "xglm", "llama"])
def test_the_end_of_an_answer_is_learnt_without_special_tokens(family: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_without_specials()
    assert tokenizer(PROMPT)["input_ids"] == [5, 6, 7], "the tokenizer ends no text by itself"
    row = Instruction(PROMPT, RESPONSE, "en", "en", "0")
    model = build_model(family)
    train(
        model,
        TrainingBatches([], [row], tokenizer, Batching(batch_size=1, max_length=16, seed=0, layout="packed")),
        TrainingRequest(
            LossConfig(contrastive_weight=0.0), make_training(batch_size=1, max_steps=40, learning_rate=1e-2)
        ),
        Host(reporter=Listener()),
    )
    save_checkpoint(model, tokenizer, tmp_path / "checkpoint")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint")
    prompt = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")(PROMPT, return_tensors="pt")["input_ids"]
    generated = stock.generate(
        prompt, max_new_tokens=10, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
    )
    assert generated[0, prompt.shape[1] :].tolist() == [8, 9, tokenizer.eos_token_id]


def test_every_family_of_the_export_shares_rows() -> None:
    assert {build_model(family).config.model_type for family in FAMILIES} == PACKED
