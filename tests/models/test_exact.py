"""A state never depends on what else is in the row or batch: kinds of positions, windows, and families with states."""

import copy
from typing import Any

import pytest
import torch
import transformers
from exact_cases import ALL, POSITIONS, SWITCH, build

from afp_ray.config.model import ModelConfig
from afp_ray.errors import ModelError
from afp_ray.evaluation.representation import POOLINGS, _embed
from afp_ray.models.describe import describe
from afp_ray.models.hidden_states import all_hidden_states, decoder_blocks, decoder_of
from afp_ray.models.lengths import find_lengths, reads_ahead
from afp_ray.models.packing import (
    lengths_of,
    packed_hidden_states_at,
    packed_last_hidden_state,
    packed_states_of_every_layer,
)
from afp_ray.models.stated_lengths import Lengths

LENGTHS = (5, SWITCH + 40, SWITCH, 20, SWITCH + 1)
"""Both sides of the place where frequencies change, and beyond every window."""
SHORT_ROPE = 32
"""Positions of a model whose `dynamic` frequencies grow beyond them."""


@pytest.fixture(scope="module")
def samples() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(4, 400, (length,), generator=generator) for length in LENGTHS]


def row_of(samples: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.cat(samples)[None],
        "positions": torch.cat([torch.arange(len(sample)) for sample in samples])[None],
        "lengths": torch.tensor([len(sample) for sample in samples]),
    }


def alone(name: str, sample: torch.Tensor) -> torch.Tensor:
    """(T, D) states after the final norm from a fresh model's own forward."""
    with torch.no_grad():
        states: torch.Tensor = decoder_of(build(name))(input_ids=sample[None], use_cache=False).last_hidden_state[0]
    return states


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5 * float(expected.abs().max()))


def grown_llama() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = POSITIONS["llama dynamic"]()
        config.max_position_embeddings = SHORT_ROPE
        return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("name", sorted(ALL))
@torch.no_grad()
def test_a_packed_row_has_the_states_of_its_samples_alone(name: str, samples: list[torch.Tensor]) -> None:
    found = packed_last_hidden_state(build(name), **row_of(samples))[0]
    for part, sample in zip(found.split(list(LENGTHS)), samples, strict=True):
        close(part, alone(name, sample))


@torch.no_grad()
def test_frequencies_that_grow_are_those_of_each_sample_alone_whatever_ran_before(samples: list[torch.Tensor]) -> None:
    model = grown_llama()
    assert lengths_of(model) == Lengths(grows_from=SHORT_ROPE)
    for row in (samples, samples[::-1], [samples[4], samples[2]], [samples[2]]):
        found = packed_last_hidden_state(model, **row_of(row))[0]
        for part, sample in zip(found.split([len(sample) for sample in row]), row, strict=True):
            close(part, decoder_of(grown_llama())(input_ids=sample[None]).last_hidden_state[0])


@pytest.mark.parametrize("name", ["llama longrope", "phi3 longrope", "gemma3", "mamba"])
def test_layers_and_gradients_are_those_of_samples_alone(name: str, samples: list[torch.Tensor]) -> None:
    model, reference = build(name), build(name)
    layers = packed_states_of_every_layer(model, **row_of(samples), reduce=lambda states: states)
    middle = packed_hidden_states_at(model, **row_of(samples), layer=1)
    assert torch.equal(layers[1], middle)
    (middle * torch.linspace(-1, 1, middle.numel()).view_as(middle)).sum().backward()
    start = 0
    for sample in samples:
        own = all_hidden_states(reference, sample[None], torch.ones_like(sample)[None])
        for together, one in zip(layers, own, strict=True):
            close(together[0, start : start + len(sample)], one[0])
        start += len(sample)
    states = torch.cat([packed_hidden_states_at(reference, **row_of([one]), layer=1) for one in samples], dim=1)
    (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    for (place, found), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert (found.grad is None) == (expected.grad is None), place
        if found.grad is not None and expected.grad is not None:
            close(found.grad, expected.grad)


@pytest.mark.parametrize("name", sorted(ALL))
def test_an_embedding_does_not_depend_on_the_sentences_beside_it(name: str, samples: list[torch.Tensor]) -> None:
    ids = [sample.tolist() for sample in samples]
    together = _embed(build(name), ids, POOLINGS, 8192)
    assert len(together) == len(POOLINGS) * (len(decoder_blocks(build(name))) + 1)
    for index, one in enumerate(ids):
        for place, vectors in _embed(build(name), [one], POOLINGS, 8192).items():
            torch.testing.assert_close(together[place][index], vectors[0], rtol=1e-3, atol=5e-5)


def test_what_a_configuration_says_of_lengths() -> None:
    assert lengths_of(build("llama yarn")) == Lengths()
    assert lengths_of(build("llama longrope")) == Lengths(switches=(SWITCH,))
    assert lengths_of(build("phimoe longrope")) == Lengths(switches=(SWITCH,))
    assert lengths_of(build("llama4 chunks")) == Lengths(switches=(16,))
    grown = Lengths(switches=(8,), grows_from=20)
    assert grown.longest_plain == 8
    assert grown.kind(8) == grown.kind(1) != grown.kind(9) == grown.kind(20) != grown.kind(21) != grown.kind(22)


def test_a_family_that_is_not_known_is_tried_out() -> None:
    model = build("opt")
    assert find_lengths(model, is_known=False) == Lengths()
    decoder = decoder_of(model)
    whole = decoder.forward

    def by_width(input_ids: Any, **options: Any) -> Any:
        """Stands for code whose numbers depend on the longest row of a batch."""
        out = whole(input_ids=input_ids, **options)
        out.last_hidden_state = out.last_hidden_state * input_ids.shape[1]
        return out

    other = build("opt")
    decoder_of(other).forward = by_width
    assert find_lengths(other, is_known=False) == Lengths(grows_from=0)


def test_frequencies_that_look_at_far_positions_are_noticed() -> None:
    model = build("llama longrope")
    model.config = copy.deepcopy(model.config)
    model.config.rope_parameters = {}  # a family that does not say what it does
    assert find_lengths(model, is_known=False) == Lengths(grows_from=0)


def test_a_model_that_looks_ahead_is_noticed() -> None:
    assert not reads_ahead(build("mamba"))
    config = transformers.CpmAntConfig(
        vocab_size=64, hidden_size=32, num_attention_heads=4, dim_head=8, dim_ff=48, num_hidden_layers=2
    )
    torch.manual_seed(0)
    assert reads_ahead(transformers.AutoModelForCausalLM.from_config(config).eval())


def test_families_that_look_ahead_are_refused_before_anything_is_loaded(tmp_path: Any) -> None:
    transformers.CpmAntConfig(architectures=["CpmAntForCausalLM"]).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="looks at later tokens"):
        describe(ModelConfig(name=str(tmp_path)))
