"""Tiny random models of many families and kinds of positions, and what each gives for one text alone."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

SWITCH = 48
"""Tokens after which `longrope` models use other frequencies: some texts of the tests are longer, some shorter."""
_SIZES: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_DECODER: dict[str, Any] = {**_SIZES, "num_key_value_heads": 2, "intermediate_size": 48}
_MOE: dict[str, Any] = {**_DECODER, "num_experts_per_tok": 2}
_LONG: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 5.0, 8.0],
    "original_max_position_embeddings": SWITCH,
}
_STATES: dict[str, Any] = {name: value for name, value in _SIZES.items() if name not in {"num_attention_heads"}}
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": SWITCH,
    },
    "longrope": _LONG,
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": SWITCH,
    },
}


def _llama(kind: str) -> Callable[[], Any]:
    return lambda: transformers.LlamaConfig(**_DECODER, rope_parameters=dict(ROPES[kind]))


POSITIONS: dict[str, Callable[[], Any]] = {f"llama {kind}": _llama(kind) for kind in ROPES}
WINDOWS: dict[str, Callable[[], Any]] = {
    "mistral": lambda: transformers.MistralConfig(**_DECODER, sliding_window=16),
    "gemma2": lambda: transformers.Gemma2Config(**_DECODER, head_dim=8, sliding_window=16),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **_DECODER,
        head_dim=8,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "qwen2": lambda: transformers.Qwen2Config(
        **_DECODER, use_sliding_window=True, sliding_window=16, max_window_layers=1
    ),
    "phi3 longrope": lambda: transformers.Phi3Config(
        **_DECODER, sliding_window=24, original_max_position_embeddings=SWITCH, rope_parameters=dict(_LONG)
    ),
    "phimoe longrope": lambda: transformers.PhimoeConfig(
        **_MOE, num_local_experts=4, rope_parameters={**_LONG, "short_mscale": 1.2, "long_mscale": 1.5}
    ),
    "llama4 chunks": lambda: transformers.Llama4TextConfig(
        **_MOE | {"num_experts_per_tok": 1},
        head_dim=8,
        intermediate_size_mlp=48,
        num_local_experts=4,
        attention_chunk_size=16,
        layer_types=["chunked_attention", "full_attention"],
    ),
    "modernbert": lambda: transformers.ModernBertDecoderConfig(
        **_SIZES, intermediate_size=48, local_attention=16, layer_types=["sliding_attention", "full_attention"]
    ),
    "gpt_oss sinks": lambda: transformers.GptOssConfig(**_MOE, head_dim=8, num_local_experts=4, sliding_window=16),
}
OTHERS: dict[str, Callable[[], Any]] = {
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=400, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3
    ),
    "mpt": lambda: transformers.MptConfig(vocab_size=400, d_model=32, n_layers=2, n_heads=4, max_seq_len=256),
    "falcon alibi": lambda: transformers.FalconConfig(**_SIZES, alibi=True, new_decoder_architecture=False),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3
    ),
    "opt": lambda: transformers.OPTConfig(**_SIZES, ffn_dim=48, word_embed_proj_dim=32, init_std=0.3),
    "xglm": lambda: transformers.XGLMConfig(
        vocab_size=400,
        d_model=32,
        ffn_dim=48,
        num_layers=2,
        attention_heads=4,
        max_position_embeddings=256,
        init_std=0.3,
    ),
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        vocab_size=400,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=16,
        max_position_embeddings=256,
        initializer_range=0.3,
    ),
    "mixtral": lambda: transformers.MixtralConfig(**_MOE, num_local_experts=4),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(
        **_MOE, num_experts=4, moe_intermediate_size=24, shared_expert_intermediate_size=24
    ),
}
STATES: dict[str, Callable[[], Any]] = {
    "mamba": lambda: transformers.MambaConfig(**_STATES, state_size=8),
    "mamba2": lambda: transformers.Mamba2Config(
        **_STATES, state_size=8, num_heads=4, head_dim=16, n_groups=1, chunk_size=16
    ),
    "falcon_mamba": lambda: transformers.FalconMambaConfig(**_STATES, state_size=8),
    "rwkv": lambda: transformers.RwkvConfig(
        vocab_size=400, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2, context_length=256
    ),
    "xlstm": lambda: transformers.xLSTMConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_heads=4, chunk_size=16, pad_token_id=0
    ),
    "jamba": lambda: transformers.JambaConfig(
        **_MOE,
        num_experts=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "falcon_h1": lambda: transformers.FalconH1Config(
        **_DECODER, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=16
    ),
    "bamba": lambda: transformers.BambaConfig(
        **_DECODER, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=16, attn_layer_indices=[1]
    ),
    "recurrent_gemma": lambda: transformers.RecurrentGemmaConfig(
        **{name: value for name, value in _DECODER.items() if name != "max_position_embeddings"},
        lru_width=32,
        attention_window_size=16,
        block_types=("recurrent", "attention"),
        w_init_variance_scale=1.0,
    ),
}
"""Families that keep states between steps, with or without keys and values beside them."""
ALL = {**POSITIONS, **WINDOWS, **OTHERS, **STATES}


def build(name: str) -> Any:
    """A random model in evaluation mode, its weights spread so that positions and neighbours show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(ALL[name]())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def score_alone(name: str, ids: tuple[int, ...], start: int) -> float:
    """Log-likelihood of the tokens from `start` on, from a forward of a fresh model over this text and nothing else."""
    model = build(name)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids[:-1]]), use_cache=False).logits[0].double().log_softmax(dim=-1)
    return sum(logits[place - 1, ids[place]].item() for place in range(start, len(ids)))


def text_alone(name: str, ids: tuple[int, ...], **options: Any) -> list[int]:
    """Tokens that `generate` of a fresh model writes after this prompt and nothing else, without the closing one."""
    model = build(name)
    inputs = torch.tensor([ids])
    whole = model.generate(inputs, attention_mask=torch.ones_like(inputs), do_sample=False, pad_token_id=0, **options)
    written: list[int] = whole[0, len(ids) :].tolist()
    end = options["eos_token_id"]
    return written[: written.index(end)] if end in written else written
