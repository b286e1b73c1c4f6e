"""Texts in slots: the same as each alone, whatever ends when, however far the device runs ahead, captured or not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from afp_ray.evaluation.continuous_batching import Pace
from afp_ray.evaluation.generation import Prompt, TextGenerator
from afp_ray.models.decoding import Decoder, left_padded
from afp_ray.models.decoding_limits import find_limits
from afp_ray.models.slots import Slots

FAMILIES = ("llama", "gpt2", "bloom", "xglm")
SHOWN = "Mina is a doctor, right? Yes, Mina works in a hospital. 亚当种下了一些种子所以他每天给花园浇水。"
QUESTIONS = [
    "Adam",
    "The trophy does not fit.",
    "a",
    "Geçen hafta Adam",
    "b",
    "Mina",
    "亚当种下",
    "seeds",
    "Adam planted",
]
PROMPTS = [Prompt((), question) for question in QUESTIONS] + [Prompt((SHOWN,), question) for question in QUESTIONS]
NEW_TOKENS = 24
ENDS = frozenset(range(1, 400, 9))
"""So many ends that texts of random models have lengths of their own."""
PACES = {
    "at once": Pace(),
    "one slot at a time": Pace(free=0.0, left=1.0, prompt_tokens=1),
    "ahead": Pace(lag=3, rows=4, places=16, left=0.5),
    "far ahead": Pace(lag=2 * NEW_TOKENS, rows=8, places=64, free=1.0, left=0.5),
}


def generator(model: Any, tokenizer: Any, *, ends: frozenset[int] = ENDS, **options: Any) -> TextGenerator:
    writer = TextGenerator(model, tokenizer, **{"max_new_tokens": NEW_TOKENS, **options})
    writer.ends = ends
    return writer


def count_rows(model: Any) -> list[tuple[int, int]]:
    """Shapes of the inputs of every forward from now on."""
    shapes: list[tuple[int, int]] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_a_text_is_that_of_its_prompt_alone_at_any_pace(
    tokenizer: Any, make_model: Any, family: str, temperature: float
) -> None:
    model, options = make_model(family), {"temperature": temperature, "seed": 3}
    one = generator(model, tokenizer, **options)
    alone = [one.generate([prompt])[0] for prompt in PROMPTS]
    assert one.limits.longest_in_slots > 100
    assert len({len(tokenizer(text)["input_ids"]) for text in alone}) > 3
    for name, pace in PACES.items():
        few_slots = generator(model, tokenizer, pace=pace, max_batch_tokens=300, **options)
        assert few_slots.generate(PROMPTS) == alone, name
        assert few_slots.num_capped == one.num_capped, name


@pytest.mark.parametrize("lag", [0, 5])
def test_stops_caps_and_ends_are_the_same_in_slots(tokenizer: Any, make_model: Any, lag: int) -> None:
    model = make_model("llama")
    plain = generator(model, tokenizer, ends=frozenset({1}), max_new_tokens=9).generate(PROMPTS)
    stop = (next(text for text in plain if len(text) > 8)[4:6],)
    pace = Pace(lag=lag, places=8)
    stopped = generator(model, tokenizer, ends=frozenset({1}), max_new_tokens=9, pace=pace)
    texts = stopped.generate(PROMPTS, stop=stop)
    assert texts == [text.split(stop[0])[0].strip() for text in plain]
    one = generator(model, tokenizer, ends=frozenset({1}), max_new_tokens=9)
    assert [one.generate([prompt], stop=stop)[0] for prompt in PROMPTS] == texts
    assert stopped.num_capped == one.num_capped < len(PROMPTS)
    for number in (1, 2):
        short = generator(model, tokenizer, max_new_tokens=number, pace=pace)
        alone = [generator(model, tokenizer, max_new_tokens=number).generate([prompt])[0] for prompt in PROMPTS]
        assert short.generate(PROMPTS) == alone


def test_a_slot_is_given_on_when_its_text_ends(tokenizer: Any, make_model: Any) -> None:
    """A batch that is run to its longest text would take as many steps as that has, once for every batch."""
    model = make_model("llama")
    prompts = [Prompt((), f"{question} {number}") for question in QUESTIONS for number in range(8)]
    writer = generator(model, tokenizer, max_new_tokens=60, max_batch_tokens=800)
    texts = writer.generate(prompts)
    shapes = count_rows(model)
    assert writer.generate(prompts) == texts
    rows_of_steps = [rows for rows, tokens in shapes if tokens == 1]
    lengths = [len(tokenizer(text)["input_ids"]) for text in texts]
    slots = max(rows_of_steps)
    batches = [lengths[first : first + slots] for first in range(0, len(lengths), slots)]
    assert slots < len(prompts) / 4
    assert sum(rows_of_steps) < 0.75 * sum(slots * max(batch) for batch in batches)


def test_changes_of_logits_see_every_token_before_them(tokenizer: Any, make_model: Any) -> None:
    model = make_model("llama")
    model.generation_config.repetition_penalty = 1.8
    alone = [generator(model, tokenizer).generate([prompt])[0] for prompt in PROMPTS]
    ahead = generator(model, tokenizer, pace=Pace(lag=4, rows=4), max_batch_tokens=300)
    assert ahead.generate(PROMPTS) == alone
    model.generation_config.repetition_penalty = None
    assert generator(model, tokenizer).generate(PROMPTS) != alone


def right(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    logits = step()
    return lambda: logits.copy_(step())


def wrong(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: step() + torch.eye(400)[7] * 50


def not_numbers(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: step() * float("nan")


def failing(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


@pytest.mark.parametrize(
    ("capture", "problem"),
    [(right, None), (wrong, "differ by 5.0e+01"), (not_numbers, "differ by"), (failing, "not permitted")],
)
def test_a_captured_step_is_used_where_it_gives_the_same_logits(
    tokenizer: Any, make_model: Any, capture: Any, problem: str | None
) -> None:
    model = make_model("llama")
    made: list[int] = []
    runs: list[int] = []

    def counting(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        made.append(1)
        captured = capture(step)

        def run() -> Tensor:
            runs.append(1)
            return captured()

        return run

    expected = generator(model, tokenizer).generate(PROMPTS)
    writer = generator(model, tokenizer, capture=counting, pace=Pace(lag=2, rows=4, places=16), max_batch_tokens=4000)
    assert writer.generate(PROMPTS) == expected
    if problem is None:
        assert writer.warnings == []
        assert len(runs) > 3 * len(made)
        before = len(made)
        assert writer.generate(PROMPTS) == expected
        assert len(made) == before, "graphs serve the next texts, too"
    else:
        assert len(made) == 1
        assert len(writer.warnings) == 1 and problem in writer.warnings[0] and "\n" not in writer.warnings[0]


def test_slots_keep_their_addresses_and_a_step_may_be_run_again(make_model: Any) -> None:
    decoder = Decoder(make_model("xglm"))
    prompts = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
    with torch.inference_mode():
        states = find_limits(decoder, changes_row_by_row=True).token_states
        slots = Slots(decoder, states, number=4, places=16)
        parts = [part for layer in slots._cache.layers for part in (layer.keys, layer.values)]
        addresses = [part.data_ptr() for part in parts]
        ids, mask = left_padded(prompts, decoder.device)
        slots.fill([3, 0, 2], decoder.forward(ids, mask, None)[1], mask, torch.tensor([20, 21, 22]))
        first = slots.step(4, 8).clone()
        assert torch.equal(slots.step(4, 8), first)
        slots.move([3], [1])
        moved = slots.step(3, 8)
        alone, _ = decoder.forward(*left_padded([[10, 11, 21], [*prompts[0], 20], [12, 13, 14, 22]], "cpu"), None)
    torch.testing.assert_close(moved, alone)
    torch.testing.assert_close(first[[0, 3, 2]], alone)
    assert [part.data_ptr() for part in parts] == addresses


def test_weights_in_bf16_write_in_slots(tokenizer: Any, make_model: Any) -> None:
    model = make_model("llama").to(torch.bfloat16)
    writer = generator(model, tokenizer, pace=Pace(lag=2, rows=4, places=16), max_batch_tokens=300)
    texts = writer.generate(PROMPTS)
    assert writer.limits.longest_in_slots > 100
    assert writer.limits.token_states[0][0].dtype == torch.bfloat16
    assert texts == generator(model, tokenizer, max_batch_tokens=300).generate(PROMPTS)


def test_logits_that_are_not_finite_are_refused_some_steps_later(tokenizer: Any, make_model: Any) -> None:
    from afp_ray.errors import ModelError

    model = make_model("llama")
    writer = generator(model, tokenizer, ends=frozenset(), pace=Pace(lag=4))
    writer.generate(PROMPTS[:1])
    steps = count_rows(model)
    whole = model.lm_head.forward
    model.lm_head.forward = lambda states: whole(states) * (float("nan") if len(steps) == 5 else 1.0)
    with pytest.raises(ModelError, match="not finite"):
        writer.generate(PROMPTS[:2])
    assert len(steps) == 9
