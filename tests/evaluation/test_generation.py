"""Decoding: batches, padding, stops, caps, cuts and draws, on the families whose positions differ."""

import random
from collections import Counter
from typing import Any

import pytest
import torch

from afp_ray.errors import ModelError, TaskError
from afp_ray.evaluation.generation import Prompt, TextGenerator

FAMILIES = ("llama", "gpt2", "bloom", "xglm")
QUESTIONS = [
    "Mina is a doctor, right?",
    "Adam",
    "The trophy does not fit into the suitcase because the trophy is too large.",
    "亚当种下了一些种子所以他每天给花园浇水。",
    "Geçen hafta Adam birkaç tohum ekti bu yüzden bahçeyi her gün suladı. Adam planted some seeds.",
    "a",
]
PROMPTS = [Prompt((), question) for question in QUESTIONS]


@pytest.fixture(scope="module")
def models(make_model: Any) -> dict[str, Any]:
    return {family: make_model(family) for family in FAMILIES}


def generator(model: Any, tokenizer: Any, **options: Any) -> TextGenerator:
    return TextGenerator(model, tokenizer, **{"max_new_tokens": 12, **options})


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_texts_are_those_of_the_library_one_by_one(tokenizer: Any, models: Any, family: str) -> None:
    model = models[family]
    expected = []
    for question in QUESTIONS:
        ids = torch.tensor([tokenizer(question)["input_ids"]])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        new = out[0, ids.shape[1] :].tolist()
        new = new[: new.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in new else new
        expected.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    batched = generator(model, tokenizer)
    assert batched.generate(PROMPTS) == expected
    assert batched.limits.may_pad is True
    assert len(set(expected)) > 3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_what_else_is_in_the_batch_changes_nothing(
    tokenizer: Any, models: Any, family: str, temperature: float
) -> None:
    options = {"temperature": temperature, "top_p": 0.95, "seed": 3}
    whole = generator(models[family], tokenizer, **options).generate(PROMPTS)
    alone = [generator(models[family], tokenizer, **options).generate([prompt])[0] for prompt in PROMPTS]
    small = generator(models[family], tokenizer, max_batch_tokens=1, **options).generate(PROMPTS[::-1])[::-1]
    assert whole == alone == small


def test_equal_prompts_get_equal_texts_and_one_run(tokenizer: Any, llama: Any) -> None:
    writer = generator(llama, tokenizer)
    texts = writer.generate([PROMPTS[0], PROMPTS[2], PROMPTS[0]])
    assert texts[0] == texts[2] != texts[1]


def test_draws_follow_the_seed_and_temperature_follows_the_logits(tokenizer: Any, llama: Any) -> None:
    drawn = {seed: generator(llama, tokenizer, temperature=2.0, seed=seed).generate(PROMPTS) for seed in (0, 0, 1)}
    assert drawn[0] != drawn[1]
    assert generator(llama, tokenizer, temperature=2.0, seed=0).generate(PROMPTS) == drawn[0]
    greedy = generator(llama, tokenizer).generate(PROMPTS)
    assert generator(llama, tokenizer, temperature=1e-4, seed=5).generate(PROMPTS) == greedy
    assert generator(llama, tokenizer, temperature=2.0, top_p=1e-9, seed=5).generate(PROMPTS) == greedy


def test_tokens_are_drawn_in_proportion_and_within_top_p(tokenizer: Any, llama: Any) -> None:
    class Row:
        def __init__(self, seed: int) -> None:
            self.draws = random.Random(seed)

    shares = torch.tensor([0.1, 0.5, 0.3, 0.1]).log()[None].expand(4000, -1)
    for top_p, expected in ((1.0, {0: 0.1, 1: 0.5, 2: 0.3, 3: 0.1}), (0.6, {1: 0.625, 2: 0.375})):
        writer = generator(llama, tokenizer, temperature=1.0, top_p=top_p)
        counts = Counter(writer._choose(shares, [Row(seed) for seed in range(4000)]).tolist())  # type: ignore[misc]
        assert set(counts) == set(expected)
        for token, share in expected.items():
            assert counts[token] / 4000 == pytest.approx(share, abs=0.03)


class Scripted(torch.nn.Module):
    """Writes a fixed text after any prompt: the next token depends on how many were written."""

    def __init__(self, tokens: list[int], size: int, positions: int = 256) -> None:
        super().__init__()
        self.tokens, self.size = tokens, size
        self.embedding = torch.nn.Embedding(size, 2)
        self.config = type("Config", (), {"max_position_embeddings": positions})()
        self.calls: list[tuple[int, int]] = []

    def get_input_embeddings(self) -> Any:
        return self.embedding

    def forward(self, input_ids: Any, attention_mask: Any, past_key_values: Any = None, use_cache: bool = True) -> Any:
        self.calls.append(tuple(input_ids.shape))
        place = 0 if past_key_values is None else past_key_values.place
        logits = torch.zeros(*input_ids.shape, self.size)
        logits[:, -1, self.tokens[min(place, len(self.tokens) - 1)]] = 5.0
        past = type("Past", (), {"place": place + 1})()
        return type("Out", (), {"logits": logits, "past_key_values": past})()


def scripted(tokenizer: Any, text: str, *, end: bool = True, **options: Any) -> tuple[TextGenerator, Scripted]:
    tokens = tokenizer(text)["input_ids"] + ([tokenizer.eos_token_id] if end else [])
    model = Scripted(tokens, 400, **options)
    return generator(model, tokenizer, max_new_tokens=40), model


@pytest.fixture(scope="module")
def plain(tokenizer: Any) -> Any:
    """The tokenizer with the decoder that its byte-level tokens need."""
    from tokenizers import decoders

    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.mark.parametrize(
    "written, stop, expected",
    [
        (" ein Apfel", (), "ein Apfel"),
        (" ein Apfel\nzwei", ("\n",), "ein Apfel"),
        (" ein Apfel\nzwei", (), "ein Apfel\nzwei"),
        ("\n\n ein Apfel\n\nzwei", ("\n",), "ein Apfel"),
        (" 一个苹果\n\n two", ("\n\n",), "一个苹果"),
        ("first\nsecond\n\nthird", ("\n\n",), "first\nsecond"),
        ("one STOP two", ("STOP", "\n"), "one"),
        ("\n\n", ("\n",), ""),
        ("", ("\n",), ""),
    ],
)
def test_a_text_ends_where_its_rule_says(plain: Any, written: str, stop: tuple[str, ...], expected: str) -> None:
    writer, _ = scripted(plain, written)
    assert writer.generate([PROMPTS[0], PROMPTS[3]], stop=stop) == [expected, expected]
    assert writer.num_capped == 0


def test_nothing_is_written_after_the_stop(plain: Any) -> None:
    writer, model = scripted(plain, "ein\n" + "x" * 30)
    writer.generate([PROMPTS[0]], stop=("\n",))
    before_stop = len(plain("ein\n")["input_ids"])
    probe = 4  # calls that try out padding
    assert len(model.calls) - probe <= before_stop + 1


def test_a_text_ends_at_the_cap_and_is_counted(plain: Any) -> None:
    writer, _ = scripted(plain, "x" * 100, end=False)
    (text,) = writer.generate([PROMPTS[0]])
    assert len(plain(text)["input_ids"]) <= 40 and text == "x" * len(text)
    assert writer.num_capped == 1


def test_prompts_too_long_lose_demonstrations_then_tokens(plain: Any, make_model: Any) -> None:
    model = make_model("llama", positions=64)
    seen: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    writer = generator(model, plain, max_new_tokens=8)
    demonstration = "Adam planted some seeds."
    size = len(plain(demonstration + "\n\n")["input_ids"])
    many, question = 64 // size + 2, "Mina is"
    writer.generate([Prompt((demonstration,) * many, question)])
    assert (writer.num_without_demonstrations, writer.num_truncated) == (1, 0)
    fitting = (56 - len(plain(question)["input_ids"])) // size
    assert max(seen) == len(plain("\n\n".join([demonstration] * fitting + [question]))["input_ids"])
    seen.clear()
    writer.generate([Prompt((demonstration,), "long " * 100)])
    assert (writer.num_without_demonstrations, writer.num_truncated) == (2, 1)
    assert max(seen) == 56


def test_the_kept_demonstrations_are_the_last_ones(plain: Any, make_model: Any) -> None:
    model = make_model("llama", positions=64)
    writer = generator(model, plain, max_new_tokens=8)
    ids = writer._encode(Prompt(("first " * 10, "Adam planted some seeds."), "Mina is"))
    assert plain.decode(ids) == "Adam planted some seeds.\n\nMina is"


def test_a_cap_beyond_the_positions_is_refused(tokenizer: Any, make_model: Any) -> None:
    with pytest.raises(TaskError, match="no room") as caught:
        generator(make_model("gpt2", positions=32), tokenizer, max_new_tokens=32)
    assert caught.value.allowed == "1 to 31"


def test_logits_that_are_not_finite_are_refused(tokenizer: Any, make_model: Any) -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        generator(model, tokenizer).generate(PROMPTS[:1])


def test_a_model_that_minds_padding_is_given_rows_of_equal_length(tokenizer: Any, make_model: Any) -> None:
    """Without a mask, padding would be read as text."""
    model = make_model("llama")
    expected = [generator(model, tokenizer).generate([prompt])[0] for prompt in PROMPTS]
    whole = model.forward
    shapes: list[tuple[int, int]] = []

    def without_mask(input_ids: Any, past_key_values: Any = None, use_cache: bool = True, **options: Any) -> Any:
        shapes.append(tuple(input_ids.shape))
        return whole(input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache)

    model.forward = without_mask
    writer = generator(model, tokenizer)
    assert writer.generate([*PROMPTS, Prompt((), "b")])[: len(PROMPTS)] == expected
    assert writer.limits.may_pad is False
    assert (2, 1) in shapes  # "a" and "b" ran side by side


def test_tokenizers_without_line_ends_part_demonstrations_by_end_of_sequence(tokenizer: Any, llama: Any) -> None:
    class Flat:
        """XGLM's tokenizer reads a line end as a space."""

        eos_token, eos_token_id = tokenizer.eos_token, tokenizer.eos_token_id

        def __call__(self, text: str, **options: Any) -> Any:
            return tokenizer(text.replace("\n", " "), **options)

    assert generator(llama, tokenizer).separator == "\n\n"
    writer = generator(llama, Flat())
    assert writer.separator == "</s>"
    ids = writer._encode(Prompt(("one", "two"), "three"))
    assert ids.count(tokenizer.eos_token_id) == 2


def test_the_model_keeps_its_mode_and_weights(tokenizer: Any, make_model: Any) -> None:
    model = make_model("llama").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator(model, tokenizer).generate(PROMPTS[:2])
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
