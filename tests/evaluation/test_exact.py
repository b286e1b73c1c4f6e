"""A score or a text never depends on what else is asked: kinds of positions, windows, and families with states."""

from typing import Any

import pytest
import torch
import transformers
from exact_cases import ALL, SWITCH, build, score_alone, text_alone

from afp_ray.errors import ModelError
from afp_ray.evaluation import sharing
from afp_ray.evaluation.generation import Prompt, TextGenerator
from afp_ray.evaluation.scoring import ContinuationScorer

SHOTS = "Adam planted some seeds so he watered the garden. "
QUESTIONS = [
    [(f"{shots}Mina{'!' * number} is a doctor, right?", f" {word}, Mina{'?' * number} ran.") for word in ("Yes", "No")]
    for shots in (SHOTS * 3, SHOTS * 2 + "Geçen hafta. ", "Geçen. ", "")
    for number in range(3)
]
PROMPTS = [
    *(Prompt((SHOTS * 2,), question) for question in ("Adam", "The trophy does not fit.", "Geçen hafta")),
    *(Prompt((), question) for question in ("a", "b", "Mina is a doctor, right?", "亚当种下了一些种子", SHOTS * 3)),
]
NEW_TOKENS = 24
BATCHED = {"llama default", "llama linear", "llama yarn", "llama llama3", "mistral", "bloom", "xglm", "gpt2", "opt"}
"""Some of those whose prompts of any length must run side by side."""
CANNOT_WRITE = {"xlstm"}
"""At these sizes the library's own forward with states fails."""


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_score_is_that_of_its_text_alone(name: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_MIN_SAVED", 64)
    scorer = ContinuationScorer(build(name), tokenizer)
    requests = scorer.requests(QUESTIONS)
    assert min(len(one.ids) for one in requests) < SWITCH < max(len(one.ids) for one in requests)
    expected = [score_alone(name, one.ids, one.start) for one in requests]
    asked = {
        "all": scorer.score(QUESTIONS),
        "again, in small batches": ContinuationScorer(build(name), tokenizer, max_batch_tokens=64).score(QUESTIONS),
        "from the end": scorer.score(QUESTIONS[::-1])[::-1],
    }
    for how, found in asked.items():
        assert [value for values in found for value in values] == pytest.approx(expected, abs=1e-4), how
    assert scorer.score(QUESTIONS[-2:])[0] == pytest.approx(expected[-4:-2], abs=1e-4), "few of them"


def expected_texts(name: str, tokenizer: Any, writer: TextGenerator, **options: Any) -> list[str]:
    options = {"max_new_tokens": NEW_TOKENS, "eos_token_id": 1, **options}
    written = [text_alone(name, writer._encode(prompt), **options) for prompt in PROMPTS]
    decoded = [tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in written]
    return [text.strip() for text in decoded]


@pytest.mark.parametrize("name", sorted(set(ALL) - CANNOT_WRITE))
def test_a_text_is_that_of_the_library_for_its_prompt_alone(name: str, tokenizer: Any) -> None:
    """Among the prompts are shared beginnings, one token, and texts that grow beyond windows and frequencies."""
    expected = expected_texts(name, tokenizer, TextGenerator(build(name), tokenizer, max_new_tokens=NEW_TOKENS))
    side = tokenizer.padding_side
    try:
        for tokenizer.padding_side in ("right", "left"):
            writer = TextGenerator(build(name), tokenizer, max_new_tokens=NEW_TOKENS)
            texts = writer.generate(PROMPTS)
            assert texts == expected
    finally:
        tokenizer.padding_side = side
    assert len(set(texts)) > 4
    if name in BATCHED:
        assert writer.limits.may_pad
        assert writer.limits.longest_beside >= 256
        assert writer.limits.longest_in_slots >= (16 if name == "mistral" else 256), (
            "to the window or the last position"
        )
    for few in (slice(-1, None), slice(1, 5, 3)):  # the last one, and one token after a longer prompt
        assert writer.generate(PROMPTS[few]) == texts[few]


@pytest.fixture(scope="module", params=["llama default", "mamba"])
def plain(request: pytest.FixtureRequest, tokenizer: Any) -> tuple[str, list[str]]:
    """A family, and what it writes where its generation config says nothing."""
    writer = TextGenerator(build(request.param), tokenizer, max_new_tokens=NEW_TOKENS)
    return request.param, writer.generate(PROMPTS)


@pytest.mark.parametrize(
    "changes",
    [
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"suppress_tokens": list(range(100, 300))},
        {"min_new_tokens": 12, "eos_token_id": [1, *range(40, 120)]},
        {"eos_token_id": [7, *range(200, 260)]},
    ],
)
def test_what_generation_config_says_holds(
    plain: tuple[str, list[str]], changes: dict[str, Any], tokenizer: Any
) -> None:
    name, without = plain
    model = build(name)
    for field, value in changes.items():
        setattr(model.generation_config, field, value)
    writer = TextGenerator(model, tokenizer, max_new_tokens=NEW_TOKENS)
    ends = changes.get("eos_token_id", [1])
    expected = []
    for prompt in PROMPTS:
        options = {"max_new_tokens": NEW_TOKENS, **changes, "eos_token_id": [*ends, 1]}
        inputs = torch.tensor([writer._encode(prompt)])
        whole = build(name).generate(
            inputs, attention_mask=torch.ones_like(inputs), do_sample=False, pad_token_id=0, **options
        )
        ids = [token for token in whole[0, inputs.shape[1] :].tolist() if token not in options["eos_token_id"]]
        text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        expected.append(text.strip())
    assert writer.generate(PROMPTS) == expected
    assert expected != without
    assert model.generation_config.max_new_tokens is None, "it is left as it was"


def test_drawn_texts_of_a_family_with_states_follow_their_own_draws(tokenizer: Any) -> None:
    options = {"max_new_tokens": 8, "temperature": 1.5, "seed": 3}
    together = TextGenerator(build("mamba"), tokenizer, **options).generate(PROMPTS)
    alone = [TextGenerator(build("mamba"), tokenizer, **options).generate([prompt])[0] for prompt in PROMPTS]
    assert together == alone
    assert together != TextGenerator(build("mamba"), tokenizer, **options | {"seed": 4}).generate(PROMPTS)


def test_a_text_of_a_family_with_states_ends_at_its_stop(tokenizer: Any) -> None:
    writer = TextGenerator(build("mamba"), tokenizer, max_new_tokens=NEW_TOKENS)
    (text,) = writer.generate(PROMPTS[:1])
    stop = text[len(text) // 2]
    assert writer.generate(PROMPTS[:1], stop=(stop,)) == [text[: text.index(stop)].strip()]


def test_rows_that_change_each_other_are_written_one_at_a_time(tokenizer: Any) -> None:
    writer = TextGenerator(build("rwkv"), tokenizer, max_new_tokens=4)
    writer.generate(PROMPTS[:2])
    assert writer.limits.most_rows == 1


def test_a_model_that_the_library_cannot_write_with_is_refused_with_the_reason(tokenizer: Any) -> None:
    model = build("mamba")

    def broken(input_ids: Any, attention_mask: Any = None, **_: Any) -> Any:
        raise ValueError("no state of that shape")

    model.prepare_inputs_for_generation = broken
    with pytest.raises(ModelError, match="MambaForCausalLM: no state of that shape") as caught:
        TextGenerator(model, tokenizer, max_new_tokens=4).generate(PROMPTS)
    assert "choice tasks" in str(caught.value.allowed)


def test_a_model_that_looks_ahead_has_no_scores(tokenizer: Any) -> None:
    config = transformers.CpmAntConfig(
        vocab_size=400, hidden_size=32, num_attention_heads=4, dim_head=8, dim_ff=48, num_hidden_layers=2
    )
    torch.manual_seed(0)
    with pytest.raises(ModelError, match="stands behind a token"):
        ContinuationScorer(transformers.AutoModelForCausalLM.from_config(config).eval(), tokenizer)
