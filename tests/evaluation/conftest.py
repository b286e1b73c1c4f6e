"""A tiny random model with its tokenizer, and rows that stand in for a benchmark."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BloomConfig, GPT2Config, LlamaConfig, PreTrainedTokenizerFast, XGLMConfig
from transformers.models.bloom.modeling_bloom import BloomForCausalLM
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.xglm.modeling_xglm import XGLMForCausalLM

TEXT = [
    "Mina is a doctor, right? Yes, Mina works in a hospital.",
    "Adam planted some seeds so he watered the garden every day.",
    "The trophy does not fit into the suitcase because the trophy is too large.",
    "亚当种下了一些种子所以他每天给花园浇水。",
    "Geçen hafta Adam birkaç tohum ekti bu yüzden bahçeyi her gün suladı.",
]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 400 tokens; BOS and EOS are known but never added."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def build_model(family: str, *, vocab_size: int = 400, positions: int = 256) -> Any:
    torch.manual_seed(0)
    if family == "llama":
        config: Any = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=positions,
            initializer_range=0.5,
        )
        return LlamaForCausalLM(config).eval()
    if family == "bloom":
        config = BloomConfig(vocab_size=vocab_size, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.5)
        return BloomForCausalLM(config).eval()
    if family == "xglm":
        config = XGLMConfig(
            vocab_size=vocab_size,
            d_model=32,
            ffn_dim=48,
            num_layers=2,
            attention_heads=4,
            max_position_embeddings=positions,
            init_std=0.5,
            layerdrop=0.0,
        )
        return XGLMForCausalLM(config).eval()
    config = GPT2Config(
        vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=positions, initializer_range=0.5
    )
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="session")
def llama() -> Any:
    return build_model("llama")


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    return build_model
