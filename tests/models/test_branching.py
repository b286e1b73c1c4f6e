"""Trees behind a trunk have the states of their texts run alone, in every family that packs."""

from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, build_model

from afp_ray.models import tree_rows
from afp_ray.models.branching import branch_states, branching_obstacle, extend_trunk
from afp_ray.models.hidden_states import run_decoder
from afp_ray.models.tree_rows import Tree

TOKENS = torch.randint(4, 60, (64,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.fixture(params=["one by one", "side by side"], autouse=True)
def attention_form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of the attention, the second of which is that of a GPU."""
    monkeypatch.setattr(tree_rows, "ONE_BY_ONE", {"cpu"} if request.param == "one by one" else set())


def alone(model: Any, ids: list[int]) -> torch.Tensor:
    return run_decoder(model, torch.tensor([ids]), positions=torch.arange(len(ids))[None])[0]


def chain(ids: list[int]) -> Tree:
    return Tree(tuple(ids), tuple(range(len(ids))), (len(ids),) * len(ids))


@pytest.mark.parametrize("trunk_parts", [(), (9,), (20,), (1, 19)])
@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.no_grad()
def test_trees_have_the_states_of_their_texts(family: str, trunk_parts: tuple[int, ...]) -> None:
    """Windows of the tiny models are 4 tokens: behind a trunk of 20, most tokens see none of it there."""
    model = build_model(family)
    trunk, before = None, 0
    for part in trunk_parts:
        trunk = extend_trunk(model, TOKENS[before : before + part], trunk)
        before += part
    first = TOKENS[:before]
    stem, left, right, other = TOKENS[20:25], TOKENS[30:33], TOKENS[40:47], TOKENS[50:61]
    below = [*(15,) * 5, *(8,) * 3, *(15,) * 7]
    tree = Tree((*stem, *left, *right), (*range(8), *range(5, 12)), tuple(below))
    states = branch_states(model, [tree, chain(other), chain(other[:1])], trunk)
    whole = alone(model, [*first, *other])[before:]
    expected = torch.cat(
        [
            alone(model, [*first, *stem, *left])[before:],
            alone(model, [*first, *stem, *right])[before + 5 :],
            whole,
            whole[:1],
        ]
    )
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert branching_obstacle(model) is None


@torch.no_grad()
def test_what_else_stands_in_the_row_does_not_matter() -> None:
    model = build_model("llama")
    trunk = extend_trunk(model, TOKENS[:20], None)
    trees = [chain(TOKENS[start : start + 7]) for start in (20, 30, 40)]
    together = branch_states(model, trees, trunk)
    for index, tree in enumerate(trees):
        torch.testing.assert_close(together[7 * index : 7 * index + 7], branch_states(model, [tree], trunk))


@torch.no_grad()
def test_the_model_is_the_stock_one_afterwards() -> None:
    model = build_model("xglm")
    before = alone(model, TOKENS[:9])
    branch_states(model, [chain(TOKENS[:9])], None)
    assert torch.equal(alone(model, TOKENS[:9]), before)
    assert model.config._attn_implementation != "afp_ray_packed"


def test_weights_that_are_no_numbers_are_no_obstacle() -> None:
    model = build_model("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    assert branching_obstacle(model) is None, "the scores are what tells of them"
