"""Shared beginnings: every request is planned once, and pieces give what whole texts give in every family."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GemmaConfig, GPTNeoConfig, MistralConfig, Qwen2Config

from afp_ray.evaluation import scoring, sharing
from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.evaluation.sharing import Request, stems, trunks

SHOTS = "Adam planted some seeds so he watered the garden. " * 3
QUESTIONS = [
    [(f"{shots}Mina{'!' * number} is a doctor, right?", f" {word}, Mina{'?' * number} ran.") for word in ("Yes", "No")]
    for shots in (SHOTS, SHOTS, "Geçen hafta. ", "")
    for number in range(7)
]
COMMON: dict[str, Any] = {"vocab_size": 400, "hidden_size": 32, "num_attention_heads": 4, "initializer_range": 0.3}
DECODER: dict[str, Any] = {**COMMON, "num_hidden_layers": 2, "intermediate_size": 48, "num_key_value_heads": 2}


def other_family(name: str) -> Any:
    """A model that the shared fixtures do not build."""
    config: Any = {
        "gemma": lambda: GemmaConfig(**DECODER, head_dim=8),
        "qwen2": lambda: Qwen2Config(**DECODER),
        "mistral": lambda: MistralConfig(**DECODER, sliding_window=64),
        "gpt_neo": lambda: GPTNeoConfig(
            vocab_size=400,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=16,
            max_position_embeddings=256,
            initializer_range=0.3,
        ),
    }[name]()
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def count_inputs(model: Any) -> list[int]:
    """Filled with the number of tokens of every call of the model's body."""
    sizes: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].numel()))
    return sizes


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "xglm", "bloom", "gemma", "qwen2", "mistral", "gpt_neo"])
def test_pieces_score_what_whole_requests_score(
    family: str, attention: str, tokenizer: Any, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(family) if family in ("llama", "gpt2", "xglm", "bloom") else other_family(family)
    if attention == "eager" or getattr(model, "_supports_sdpa", False):
        model.set_attn_implementation(attention)
    monkeypatch.setattr(sharing, "_MIN_SAVED", 1)
    sizes = count_inputs(model)
    shared = ContinuationScorer(model, tokenizer).score(QUESTIONS)
    in_pieces = sum(sizes)
    sizes.clear()
    monkeypatch.setattr(scoring, "_sharing", lambda body, positions: (0, 0))
    whole = ContinuationScorer(model, tokenizer).score(QUESTIONS)
    for values, others in zip(shared, whole, strict=True):
        assert values == pytest.approx(others, abs=1e-4)
    assert in_pieces < (0.95 if family == "mistral" else 0.6) * sum(sizes), "sharing should save tokens here"


def test_a_small_cache_budget_gives_the_same_in_more_batches(
    tokenizer: Any, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("llama")
    sizes = count_inputs(model)
    expected = ContinuationScorer(model, tokenizer).score(QUESTIONS)
    calls = len(sizes)
    sizes.clear()
    monkeypatch.setattr(scoring, "_MAX_CACHE", 1)
    values = ContinuationScorer(model, tokenizer).score(QUESTIONS)
    assert len(sizes) > calls
    for mine, others in zip(values, expected, strict=True):
        assert mine == pytest.approx(others, abs=1e-4)


def test_a_model_whose_pieces_differ_is_given_whole_requests(tokenizer: Any, llama: Any) -> None:
    body = llama.model

    class Forgetful(torch.nn.Module):
        config = body.config

        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, **kwargs: Any) -> Any:
            output = self.body(**kwargs)
            for layer in output.past_key_values.layers:
                layer.values = layer.values * 0.5
            return output

    with torch.inference_mode():
        assert scoring._sharing(Forgetful(), 256) == (0, 0)
        longest, token_bytes = scoring._sharing(body, 256)
        assert longest > 256
        assert token_bytes == 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, width, bytes of float32
        assert scoring._sharing(body, 8) == (0, 0), "a model of few positions is not even tried"


def test_every_request_is_planned_once_and_begins_with_its_trunk_and_stem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_MIN_SAVED", 16)
    generator = torch.Generator().manual_seed(1)
    requests: set[Request] = set()
    for number in range(60):
        trunk = tuple(range(100, 140)) if number % 2 else ()
        context = tuple(torch.randint(0, 3, (1 + number % 29,), generator=generator).tolist())
        for choice in range(3):
            requests.add(Request((*trunk, *context, choice, 7, number), len(trunk) + len(context)))
    planned: list[Request] = []
    saved = 0
    for trunk_length, members in trunks(list(requests)):
        assert len({request.ids[:trunk_length] for request in members}) == 1
        found, rest = stems(members, trunk_length)
        planned += rest
        assert all(request.start > trunk_length for request in members), "scored positions follow the trunk"
        for length, groups in found.items():
            for group in groups:
                assert len({request.ids[:length] for request in group}) == 1
                assert all(request.start > length for request in group), "scored positions follow the stem"
                saved += (len(group) - 1) * length
                planned += group
    assert sorted(planned, key=lambda r: r.ids) == sorted(requests, key=lambda r: r.ids)
    assert saved > 0
