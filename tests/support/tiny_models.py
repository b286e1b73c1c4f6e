"""Tiny checkpoints with random weights, one per family, made on the spot."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = [f"w{number}" for number in range(58)]
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=4),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=8),
    "gemma2": lambda: transformers.Gemma2Config(**SIZES, head_dim=8, sliding_window=4, final_logit_softcapping=3.0),
    "gemma3": lambda: transformers.Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=4),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        vocab_size=64,
        hidden_size=32,
        num_layers=3,
        num_heads=4,
        attention_types=[[["global", "local", "global"], 1]],
        window_size=4,
        max_position_embeddings=64,
    ),
    "bloom": lambda: transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=3, n_head=4),
    "xglm": lambda: transformers.XGLMConfig(
        vocab_size=64, d_model=32, num_layers=3, attention_heads=4, ffn_dim=48, max_position_embeddings=64
    ),
    "granite": lambda: transformers.GraniteConfig(**SIZES, logits_scaling=4.0),
}


def build_model(family: str, seed: int = 0) -> Any:
    """A random model in eval mode; weights are spread wider than at initialisation, so that layers matter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def build_tokenizer() -> Any:
    """Whole words, one token each."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
