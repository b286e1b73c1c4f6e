"""The kernel of a GPU is used under a mask only where it gives what the scores written out give."""

from typing import Any

import pytest
import torch

from afp_ray.models import attention_totals
from afp_ray.models.attention_totals import attended, kernel_obstacle, kernel_obstacles
from afp_ray.models.packed_attention import ScoreForm

QUERY, KEY, VALUE = torch.randn(3, 2, 3, 9, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_totals, "_obstacles", {})


def by_cpu(query: Any, key: Any, value: Any, form: ScoreForm, bias: Any, *, is_causal: bool) -> Any:
    """A kernel that is there, in place of that of a GPU."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=bias, scale=form.scale
    )


def test_a_kernel_that_gives_the_same_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_totals, "_by_kernel", by_cpu)
    assert kernel_obstacle(QUERY) is None
    assert kernel_obstacles() == []


def test_a_kernel_that_refuses_or_differs_is_named_and_not_used() -> None:
    refusal = kernel_obstacle(QUERY)  # there is none on a CPU
    assert refusal is not None
    assert "takes no mask" in refusal
    assert kernel_obstacles() == [refusal]


def test_a_kernel_that_forgets_the_mask_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets(query: Any, key: Any, value: Any, form: ScoreForm, bias: Any, *, is_causal: bool) -> Any:
        return by_cpu(query, key, value, form, None, is_causal=is_causal)

    monkeypatch.setattr(attention_totals, "_by_kernel", forgets)
    assert "differs under a mask" in (kernel_obstacle(QUERY) or "")


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_scores_written_out_are_those_of_the_kernel(masked: bool, is_causal: bool) -> None:
    if masked and is_causal:
        pytest.skip("a mask says what is seen by itself")
    bias = torch.zeros(2, 1, 9, 9).masked_fill(torch.ones(9, 9).triu(1) > 0, float("-inf")) if masked else None
    form = ScoreForm(0.3)
    kernel = attended(QUERY, KEY, VALUE, form=form, bias=bias, is_causal=is_causal)
    plain = attention_totals._written_out(QUERY, KEY, VALUE, form, bias, is_causal=is_causal)
    for one, other in zip(kernel, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
